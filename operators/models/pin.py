"""Weights that a site brought for a bundle that came without: which file, and its sha256.

They lie in the site's state, not in the bundle, which may be read-only and is replaced
when radloop is; the bundle's own config and card stay in force. The first import pins
them; from then on no others run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PIN_FILE = "weights.json"


@dataclass(frozen=True)
class Pin:
    """One file of weights that was imported.

    Attributes
    ----------
    file : Path
        The weights, beside the record.
    sha256 : str
        What they hashed to when they were imported.
    published : bool
        Their publisher's hash was that of the file.
    """

    file: Path
    sha256: str
    published: bool


def read_pin(folders: Iterable[Path], bundle: str) -> Pin | None:
    """What was imported for a bundle; the last folder that has something wins.

    Parameters
    ----------
    folders : iterable of Path
        Where bundles are looked for.
    bundle : str
        Its name.

    Returns
    -------
    Pin or None
        None where nothing was imported, or its record can't be read: then the bundle
        has no weights until they are imported again.
    """
    found = None
    for folder in folders:
        record = folder / bundle / PIN_FILE
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
            file = record.parent / Path(content["file"]).name
            pin = Pin(file, str(content["weights_sha256"]), content["publisher_hash"] == "matches")
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found = pin
    return found
