"""`radloop bundles import`: a bundle from this machine, checked, pinned and put in place at once.

The order matters: nothing of a bundle runs before its bytes are judged. Entries,
layout, labels and hashes come first; then the weights are read as plain tensors;
only then is the config, which is code, tried out. The bundle appears under its
name by one rename, or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from app.bundles.fetch_refusals import LicenceNotAccepted
from app.bundles.layout import check_labels, check_layout, drop_torchscript
from app.bundles.refusals import (
    AlreadyInstalled,
    CardDiffers,
    ImportBusy,
    LayoutUnfit,
    NameUnfit,
    NoCard,
    PublisherDiffers,
    StoreUnfit,
)
from app.bundles.unpack import BLOCK, single_folder, unpack
from operators.models.card import (
    Card,
    Published,
    WeightsChanged,
    load_card,
    load_zoo_card,
    read_content,
)
from operators.models.inference_config import (
    DECIDING,
    IMPORT_RECORD,
    config_file,
    deciding_sha256,
)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_VERSION_TAIL = re.compile(r"_v\d+(\.\d+)*$")


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes
    ----------
    name, version, folder : str, str, Path
        The bundle and where it lies.
    outcome : str
        ``installed``, ``replaced`` (another content was there) or ``unchanged``.
    weights_sha256 : str
        Pinned on its card.
    publisher_hash : str
        ``matches``, or ``none`` where no publisher's hash speaks of these weights.
    left_out : tuple of str
        Files of the source that were not taken over.
    """

    name: str
    version: str
    folder: Path
    outcome: Literal["installed", "replaced", "unchanged"]
    weights_sha256: str
    publisher_hash: Literal["matches", "none"]
    left_out: tuple[str, ...]


def import_bundle(
    source: Path,
    store: Path,
    *,
    shipped: Path,
    zoo: Path,
    name: str | None = None,
    replace: bool = False,
    accept_licence: bool = False,
) -> Imported:
    """Check a bundle and install it.

    Parameters
    ----------
    source : Path
        Folder or zip in the layout of the MONAI model zoo.
    store : Path
        Folder of imported bundles; made if missing.
    shipped : Path
        Folder of the bundles that radloop ships; their names are taken.
    zoo : Path
        Folder of zoo cards.
    name : str or None
        Name to look for a card by and to install under; None takes the source's own.
    replace : bool
        Other content under the installed version takes its place.
    accept_licence : bool
        Somebody said yes to a licence that forbids commercial use.

    Raises
    ------
    ImportRefusal
        See `app.bundles.refusals`; what was installed is untouched.
    LicenceNotAccepted
        It forbids commercial use, and nobody said yes.
    ModelRefusal
        Card, weights or config can't be used (RL-04xx, RL-11xx).
    """
    name = _name(source) if name is None else name
    if not _NAME.fullmatch(name):
        raise NameUnfit(name, "is no name of a bundle (letters, digits, _ . -, at most 64)")
    if (shipped / name / "card.yaml").is_file() or name == zoo.name:
        raise NameUnfit(name, "is the name of a bundle that comes with radloop")
    try:
        with _alone(store) as work:
            return _import(
                *(source, store / name, work / name, zoo),
                replace=replace,
                accept_licence=accept_licence,
            )
    except OSError as error:
        raise StoreUnfit(store, error.strerror or type(error).__name__) from error


def _import(
    source: Path, place: Path, staged: Path, zoo: Path, *, replace: bool, accept_licence: bool
) -> Imported:
    unpack(source, staged)
    content, published = _card_content(staged, zoo)
    check_licence(
        *(staged.name, content["weights"]["licence"], content["weights"]["commercial_use"]),
        accepted=accept_licence,
    )
    if content.get("prompted"):
        raise LayoutUnfit(staged.name, "prompted bundles come with radloop and are not imported")
    torchscript = content.get("run", {}).get("torchscript", False)
    left_out = drop_torchscript(staged, content["weights"]["file"], allowed=torchscript)
    metadata = check_layout(staged, content["weights"]["file"])
    check_labels(staged.name, metadata, content, by_name=published is not None)
    version = str(metadata["version"])
    verified = _check_published(staged, version, published, content["weights"]["file"])
    verified = verified or _is_published_archive(source, published)
    weights = file_hash(staged / content["weights"]["file"], "sha256")
    if content["weights"]["sha256"] not in (None, weights):
        raise WeightsChanged(staged.name, weights, content["weights"]["sha256"])
    content["weights"]["sha256"] = weights
    head = "# Written by `radloop bundles import`, which pinned the weights.\n"
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (staged / "card.yaml").write_text(head + text, encoding="utf-8")
    digest = _content_hash(staged)
    installed = read_record(place)
    done = Imported(
        name=staged.name,
        version=version,
        folder=place,
        outcome="replaced" if place.exists() else "installed",
        weights_sha256=weights,
        publisher_hash="matches" if verified else "none",
        left_out=left_out,
    )
    if installed and installed["content_sha256"] == digest == _content_hash(place):
        return Imported(**{**vars(done), "outcome": "unchanged"})
    if place.exists() and not replace and (installed or {}).get("version", version) == version:
        pinned = str((installed or {}).get("weights_sha256", "unknown"))
        raise AlreadyInstalled(staged.name, version, weights, pinned)
    _try_out(load_card(staged))
    record = {
        "schema": 1,
        "version": version,
        "source": source.name,
        "imported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights_sha256": weights,
        "publisher_hash": done.publisher_hash,
        "licence_accepted": accept_licence and content["weights"]["commercial_use"] == "no",
        "content_sha256": digest,
        DECIDING: deciding_sha256(staged, config_file(staged)),
        "left_out": list(left_out),
    }
    (staged / IMPORT_RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    _put_in_place(staged, place)
    return done


def read_record(folder: Path) -> dict[str, Any] | None:
    """What an import wrote beside the bundle; None for a bundle that came another way."""
    try:
        record: dict[str, Any] = json.loads((folder / IMPORT_RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record


def file_hash(file: Path, kind: str) -> str:
    """Hexadecimal digest of a file; `kind` as hashlib names it."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with file.open("rb") as reader:
        while block := reader.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _name(source: Path) -> str:
    """Folder's name, or that in a zip, or the zip's own without ``_v0.5.9``."""
    return single_folder(source) or _VERSION_TAIL.sub("", source.resolve().with_suffix("").name)


def _card_content(staged: Path, zoo: Path) -> tuple[dict[str, Any], Published | None]:
    """Content of the card that holds for the bundle, and what its publisher says."""
    own = (staged / "card.yaml").is_file()
    known = (zoo / staged.name / "card.yaml").is_file()
    if not own and not known:
        raise NoCard(staged.name, sorted(card.parent.name for card in zoo.glob("*/card.yaml")))
    content = read_content(staged if own else zoo / staged.name)
    if not known:
        return content, None
    ours = read_content(zoo / staged.name)
    if _unpinned(content) != _unpinned(ours):
        raise CardDiffers(staged.name)
    return content, load_zoo_card(zoo / staged.name).published


def _unpinned(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "weights": {**content["weights"], "sha256": None}}


def _check_published(
    staged: Path, version: str, published: Published | None, weights_file: str
) -> bool:
    """True where the publisher's hash of the weights is that of the file."""
    verified = False
    for entry in published.files if published else ():
        file = staged / entry.path
        if not file.is_file():
            continue
        found = file_hash(file, entry.hash_type)
        if found == entry.hash_val:
            verified = verified or entry.path == weights_file
        elif published and version == published.version:
            raise PublisherDiffers(staged.name, entry.path, entry.hash_type, found, entry.hash_val)
    return verified


def _is_published_archive(source: Path, published: Published | None) -> bool:
    """Whether the source is, byte for byte, the zip that the publisher names."""
    archive = published.archive if published else None
    return (
        archive is not None
        and source.is_file()
        and file_hash(source, archive.hash_type) == archive.hash_val
    )


def check_licence(bundle: str, licence: str, commercial_use: str, *, accepted: bool) -> None:
    """Refuse a licence that forbids commercial use and that nobody accepted.

    Raises
    ------
    LicenceNotAccepted
        It does, and nobody did.
    """
    if commercial_use == "no" and not accepted:
        raise LicenceNotAccepted(bundle, licence)


def _try_out(card: Card) -> None:
    """Load the bundle once: weights as plain tensors, then the config, then both together."""
    import torch

    from operators.models.bundle import LoadedBundle, is_torchscript, load_state

    if not (card.run.torchscript and is_torchscript(card.weights_file)):
        load_state(card.name, card.weights_file)
    with torch.random.fork_rng(devices=[]):  # a network draws its first weights at random
        LoadedBundle(card)


def _content_hash(folder: Path) -> str:
    """Of all names and bytes, the record of the import left out."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if file != folder / IMPORT_RECORD:
            line = f"{file.relative_to(folder).as_posix()}\0{file_hash(file, 'sha256')}\n"
            digest.update(line.encode())
    return digest.hexdigest()


@contextmanager
def _alone(store: Path) -> Iterator[Path]:
    """An empty folder on the store's file system, while no other import runs.

    A bundle that a killed import had moved aside is put back first.
    """
    store.mkdir(parents=True, exist_ok=True)
    area = store.with_name(store.name + ".importing")
    area.mkdir(exist_ok=True)
    with (area / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ImportBusy(store) from error
        for aside in area.glob("*.aside"):
            if not (place := store / aside.stem).exists():
                aside.rename(place)
        for leftover in area.iterdir():
            if leftover.is_dir():
                shutil.rmtree(leftover)
        work = Path(tempfile.mkdtemp(dir=area))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _put_in_place(staged: Path, place: Path) -> None:
    """Make the staged bundle the one that is found, by renames on one file system."""
    for file in staged.rglob("*"):
        _sync(file)
    aside = staged.parent.parent / f"{place.name}.aside"
    if place.exists():
        place.rename(aside)
    staged.rename(place)
    _sync(place.parent)
    if aside.exists():
        shutil.rmtree(aside)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
