"""`radloop bundles import-weights`: weights that a site brings for a bundle without any.

They are copied into the state folder, judged there, and pinned: what is judged is what
runs, whatever happens to the source meanwhile. Nothing of them is run.

SiteWeightsRefusal      RL-1900   anything below
├── NothingToBring      RL-1902   a bundle that has its weights from elsewhere
├── SourceMissing       RL-1908   no such file
├── OtherPinned         RL-1909   other weights were imported before
└── PinStoreUnfit       RL-1910   the state folder can't be written
What is wrong with the weights themselves: `operators.models.medsam.weights`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from app.bundles.install import file_hash
from app.bundles.unpack import BLOCK, MAX_BYTES
from operators.errors import ModelRefusal
from operators.models.card import Card
from operators.models.pin import PIN_FILE, read_pin


class SiteWeightsRefusal(ModelRefusal):
    """The weights stay outside; those that were imported before stay in force."""

    code = "RL-1900"


class NothingToBring(SiteWeightsRefusal):
    """The bundle's weights come with it, from a package or from the zoo."""

    code = "RL-1902"

    def __init__(self, bundle: str) -> None:
        super().__init__(
            f"bundle '{bundle}': its card names its weights, so none are taken from a file. "
            f"`radloop bundles show {bundle}` tells where they come from."
        )


class SourceMissing(SiteWeightsRefusal):
    """What was named is no file."""

    code = "RL-1908"

    def __init__(self, source: Path) -> None:
        super().__init__(f"{source} is no file: name the weights file on this machine.")


class OtherPinned(SiteWeightsRefusal):
    """Other weights were imported before."""

    code = "RL-1909"

    def __init__(self, bundle: str, found: str, pinned: str) -> None:
        super().__init__(
            f"bundle '{bundle}': the file has sha256 {found[:12]}…, imported before was "
            f"{pinned[:12]}…. Results would change: give --replace if that is meant."
        )


class PinStoreUnfit(SiteWeightsRefusal):
    """No right or no room to write into the state."""

    code = "RL-1910"

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(
            f"{folder} can't be written ({why}): nothing was imported. "
            "Free some disk or correct state_dir (`radloop doctor`)."
        )


@dataclass(frozen=True)
class ImportedWeights:
    """What an import of weights did.

    Attributes
    ----------
    name, file : str, Path
        The bundle, and where its weights lie now.
    outcome : str
        ``installed``, ``replaced`` (others were there) or ``unchanged``.
    weights_sha256 : str
        Pinned from now on.
    publisher_hash : str
        ``matches``, or ``none`` where no publisher's hash speaks of these bytes.
    layout : str
        Whose names the tensors bear.
    """

    name: str
    file: Path
    outcome: Literal["installed", "replaced", "unchanged"]
    weights_sha256: str
    publisher_hash: Literal["matches", "none"]
    layout: str


def import_weights(
    card: Card, source: Path, store: Path, *, replace: bool = False
) -> ImportedWeights:
    """Judge a file of weights, pin it and put it to use.

    Whatever interrupts it, the pinned weights are the former ones or the new ones.

    Parameters
    ----------
    card : Card
        Of a prompted bundle, with what was pinned before.
    source : Path
        The file.
    store : Path
        Folder of imported bundles; made if missing.
    replace : bool
        Other weights than those pinned take their place.

    Raises
    ------
    SiteWeightsRefusal
        One of those above.
    ModelRefusal
        The weights are not of that network, or damaged (RL-1903 to RL-1907).
    """
    if not card.prompted or (card.weights_sha256 and card.pin is None):
        raise NothingToBring(card.name)
    if not source.is_file():
        raise SourceMissing(source)
    place = store / card.name
    try:
        place.mkdir(parents=True, exist_ok=True)
        with (place / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _import(card, source, place, replace=replace)
    except OSError as error:
        raise PinStoreUnfit(place, error.strerror or type(error).__name__) from error


def _import(card: Card, source: Path, place: Path, *, replace: bool) -> ImportedWeights:
    from operators.models.medsam.model import read_config
    from operators.models.medsam.weights import check_weights

    pin = read_pin([place.parent], card.name)
    copy = place / f"{source.name}.part"
    try:
        digest = _copy(source, copy)
        if pin is not None and pin.sha256 != digest and not replace:
            raise OtherPinned(card.name, digest, pin.sha256)
        config = (card.folder / "configs" / "inference.yaml").read_bytes()
        target = read_config(card.name, config)[0]
        layout = check_weights(card.name, target, copy, called=source.name)
        hashes = {
            file_hash(copy, entry.hash_type) == entry.hash_val
            for entry in (card.published.files if card.published else ())
        }
        there = pin is not None and pin.sha256 == digest and pin.file.is_file()
        done = ImportedWeights(
            name=card.name,
            file=place / f"{digest}.pth",
            outcome="unchanged" if there else "installed" if pin is None else "replaced",
            weights_sha256=digest,
            publisher_hash="matches" if True in hashes else "none",
            layout=layout,
        )
        copy.replace(done.file)  # also where it is there: the bytes there may be damaged
    finally:
        copy.unlink(missing_ok=True)
    _pin(place, done, source.name)
    if pin is not None and pin.file != done.file:
        pin.file.unlink(missing_ok=True)
    return done


def _copy(source: Path, target: Path) -> str:
    """Bytes onto the disk; their sha256. More than any weights have is cut, and so unfit."""
    digest, left = hashlib.sha256(), MAX_BYTES
    with source.open("rb") as reader, target.open("wb") as writer:
        while left > 0 and (block := reader.read(BLOCK)):
            digest.update(block)
            writer.write(block)
            left -= len(block)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _pin(place: Path, done: ImportedWeights, source: str) -> None:
    record = {
        "schema": 1,
        "file": done.file.name,
        "weights_sha256": done.weights_sha256,
        "publisher_hash": done.publisher_hash,
        "layout": done.layout,
        "source": source,
        "imported_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    new = place / f"{PIN_FILE}.new"
    with new.open("w", encoding="utf-8") as writer:
        writer.write(json.dumps(record, indent=1) + "\n")
        writer.flush()
        os.fsync(writer.fileno())
    new.replace(place / PIN_FILE)
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
