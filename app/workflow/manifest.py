"""Which instances a study version holds: a file in the spool, written before its workflow.

The ledger knows it too, but only in the process that owns the ledger; a worker may
be another one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from app.intake.spool import Spool, sync_folder


def write_manifest(spool: Spool, name: str, instances: Sequence[str]) -> None:
    """Keep the list, durably.

    Parameters
    ----------
    spool : Spool
        Where it goes, below `manifests/`.
    name : str
        Of the study version.
    instances : sequence of str
        Names in the spool.
    """
    path = _path(spool, name)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".part")
    with temporary.open("w", encoding="ascii") as file:
        json.dump(list(instances), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_folder(path.parent)


def read_manifest(spool: Spool, name: str) -> list[str]:
    """The list.

    Raises
    ------
    FileNotFoundError
        There is none.
    """
    instances: list[str] = json.loads(_path(spool, name).read_text(encoding="ascii"))
    return instances


def remove_manifest(spool: Spool, name: str) -> None:
    """The version is finished: nobody asks any more."""
    _path(spool, name).unlink(missing_ok=True)


def _path(spool: Spool, name: str) -> Path:
    return spool.root / "manifests" / f"{name}.json"
