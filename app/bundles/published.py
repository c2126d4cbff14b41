"""`radloop bundles fetch` of a bundle of the model zoo: downloaded, then imported like any other.

Downloads lie in ``bundles.fetching/NAME`` beside the folder of imported bundles until the
import has taken them. What the publisher's zip lacks of the large files that the card names
is downloaded beside it. Checking, pinning and putting in place is the import's
(`app.bundles.install`), for a fetched bundle as for one from a USB stick.
"""

from __future__ import annotations

import fcntl
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace as replaced
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from tenacity.wait import wait_base

from app.bundles.download import PAUSE, Waits, Wanted, client, download
from app.bundles.fetch_refusals import AreaUnfit, FetchBusy, NotFetchable
from app.bundles.install import Imported, check_licence, import_bundle, read_record
from app.bundles.known import hindrance
from app.bundles.site_weights import ImportedWeights, import_weights
from app.bundles.unpack import single_folder, unpack
from operators.errors import ModelRefusal
from operators.models.card import Card, Published, PublishedFile, load_card

ToldFile = Callable[[str, int, int | None], None]
"""Takes which file, how many bytes of it are here, and of how many (None: not said)."""


@dataclass(frozen=True)
class Place:
    """Where bundles are, as `app.bundle_folders` gives it.

    Attributes
    ----------
    store, shipped, zoo : Path
        Folders of imported bundles, of shipped ones, and of zoo cards.
    """

    store: Path
    shipped: Path
    zoo: Path


def fetch_published(
    card: Card,
    place: Place,
    *,
    mirror: str | None = None,
    accept_licence: bool = False,
    replace: bool = False,
    told: ToldFile = lambda name, done, total: None,
    pause: wait_base = PAUSE,
    waits: Waits = lambda why: None,
) -> Imported:
    """Download a published bundle and import it; nothing where this version is right already.

    Parameters
    ----------
    card : Card
        Of the zoo, or of the installed bundle.
    place : Place
        Where it goes.
    mirror : str or None
        Asked instead of the publisher: a server's folder that holds ``NAME_vVERSION.zip``
        and, where that zip lacks them, ``NAME_vVERSION/models/…``.
    accept_licence, replace : bool
        As for `import_bundle`.
    told : callable
        Gets the progress.
    pause : tenacity wait
        Between two tries.
    waits : callable
        Gets a sentence before each pause.

    Raises
    ------
    PublishedRefusal
        See `app.bundles.fetch_refusals`.
    ImportRefusal, ModelRefusal
        What was downloaded is no bundle that can be used.
    """
    published = card.published
    if published is None or published.archive is None:
        raise NotFetchable(card.name, "its card names no archive of a publisher")
    if why := hindrance(card):
        raise NotFetchable(card.name, f"it can't run here. {why}")
    done = None if replace else _already_there(card.name, published, place.store)
    if done is not None:
        return done
    check_licence(card.name, card.licence, card.commercial_use, accepted=accept_licence)
    try:
        with _area(card.name, place.store) as area, client() as http:
            source = _bring(card.name, published, area, mirror, http, told, pause, waits)
            done = import_bundle(
                source,
                place.store,
                shipped=place.shipped,
                zoo=place.zoo,
                name=card.name,
                replace=replace,
                accept_licence=accept_licence,
            )
            shutil.rmtree(area)
            return done
    except OSError as error:
        raise AreaUnfit(place.store.parent, error.strerror or type(error).__name__) from error


def fetch_site_weights(
    card: Card,
    store: Path,
    *,
    mirror: str | None = None,
    replace: bool = False,
    told: ToldFile = lambda name, done, total: None,
    pause: wait_base = PAUSE,
    waits: Waits = lambda why: None,
) -> ImportedWeights:
    """Download the weights of a prompted bundle that comes without, and import them.

    Parameters
    ----------
    card : Card
        Names the file; with what was pinned before.
    store : Path
        Folder of imported bundles.
    mirror : str or None
        Asked instead of the publisher: a server's folder that holds ``NAME/models/…``.
    replace : bool
        As for `import_weights`.
    told, pause, waits
        As for `fetch_published`.

    Raises
    ------
    PublishedRefusal
        See `app.bundles.fetch_refusals`.
    ModelRefusal
        What was downloaded can't be used, see `import_weights`.
    """
    if card.published is None or not card.published.files:
        raise NotFetchable(card.name, "its card names no file of a publisher")
    entry = card.published.files[0]
    try:
        with _area(card.name, store) as area, client() as http:
            file = area / Path(entry.path).name
            wanted = replaced(
                _wanted(card.name, entry, file, mirror, f"{card.name}/{entry.path}"),
                by_hand=f"takes the file to `radloop bundles import-weights {card.name} FILE`",
            )
            download(wanted, http, partial(told, file.name), pause, waits)
            done = import_weights(card, file, store, replace=replace)
            shutil.rmtree(area)
            return done
    except OSError as error:
        raise AreaUnfit(store.parent, error.strerror or type(error).__name__) from error


def _already_there(name: str, published: Published, store: Path) -> Imported | None:
    """The installed bundle, where it is the published version and its weights are right."""
    record = read_record(store / name)
    if not record or record["version"] != published.version:
        return None
    try:
        installed = load_card(store / name)
        installed.verify_weights()
    except ModelRefusal:
        return None
    return Imported(
        name=name,
        version=published.version,
        folder=store / name,
        outcome="unchanged",
        weights_sha256=installed.weights_sha256,
        publisher_hash=record["publisher_hash"],
        left_out=(),
    )


@contextmanager
def _area(name: str, store: Path) -> Iterator[Path]:
    """The folder of a bundle's downloads, for one command at a time."""
    area = store.with_name(store.name + ".fetching") / name
    area.mkdir(parents=True, exist_ok=True)
    with (area.parent / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FetchBusy(name) from error
        area.mkdir(exist_ok=True)  # the run before may have taken it away meanwhile
        yield area


def _bring(
    name: str,
    published: Published,
    area: Path,
    mirror: str | None,
    http: httpx.Client,
    told: ToldFile,
    pause: wait_base,
    waits: Waits,
) -> Path:
    """Download what is missing; a zip, or a folder where the zip alone is not the bundle."""
    assert published.archive is not None
    stem = published.archive.path.removesuffix(".zip")
    zip_file = area / f"{stem}.zip"
    wanted = _wanted(name, published.archive, zip_file, mirror, f"{stem}.zip")
    download(wanted, http, partial(told, zip_file.name), pause, waits)
    missing = _missing(name, published, zip_file)
    if not missing:
        return zip_file
    large = area / "large"
    for entry in missing:
        file = large / entry.path
        file.parent.mkdir(parents=True, exist_ok=True)
        wanted = _wanted(name, entry, file, mirror, f"{stem}/{entry.path}")
        download(wanted, http, partial(told, entry.path), pause, waits)
    whole = area / "whole"
    shutil.rmtree(whole, ignore_errors=True)  # of a run that was killed
    unpack(zip_file, whole)
    for entry in missing:
        (whole / entry.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(large / entry.path, whole / entry.path)
    return whole


def _missing(name: str, published: Published, zip_file: Path) -> list[PublishedFile]:
    """Large files of the card that are not in the zip."""
    if not zipfile.is_zipfile(zip_file):
        raise NotFetchable(name, f"{zip_file.name} is no zip, although its hash is right")
    around = single_folder(zip_file)
    with zipfile.ZipFile(zip_file) as archive:
        there = {entry.removeprefix(f"{around}/") for entry in archive.namelist()}
    return [entry for entry in published.files if entry.path not in there]


def _wanted(name: str, entry: PublishedFile, file: Path, mirror: str | None, at: str) -> Wanted:
    schemes = frozenset({"https", urlsplit(mirror).scheme} if mirror else {"https"})
    if not mirror and not entry.url:
        raise NotFetchable(
            name, f"its publisher's zip lacks {entry.path} and nobody says where it is"
        )
    url = f"{mirror.rstrip('/')}/{at}" if mirror else entry.url
    return Wanted(name, url, entry.hash_type, entry.hash_val, file, schemes)
