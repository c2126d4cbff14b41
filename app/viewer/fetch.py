"""Fetching OHIF: one pinned npm package, checked before a byte of it is unpacked.

``python -m app.viewer.fetch --to var/ohif`` (what `make ohif` runs). The
published package holds a ready build in `package/dist`; nothing is compiled,
and no script of the package is run.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from app.viewer.refusals import OhifNotFetched, TarballUnsafe, TarballWrong, ViewerRefusal

PACKAGE = "@ohif/app@3.13.2"
# npm's own dist.integrity of that version: sha512, base64 (W3C Subresource Integrity).
INTEGRITY = (
    "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjky"
    "cZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
)
OHIF_FOLDER = Path("var/ohif")
DIST = PurePosixPath("package/dist")
STAMP = ".integrity"
NPM_SECONDS = 900.0
# Without these npm tries for more than a minute where there is no network.
NPM_PATIENCE = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000")
READ_BYTES = 1 << 20


def fetch(target: Path, *, tarball: Path | None = None, integrity: str = INTEGRITY) -> bool:
    """Put the pinned OHIF build into a folder.

    Parameters
    ----------
    target : Path
        Replaced as a whole, by a rename, once everything is unpacked beside it.
    tarball : Path or None
        The package's file; None asks npm for it.
    integrity : str
        What it must hash to, ``sha512-BASE64``.

    Returns
    -------
    bool
        False where the folder holds that very build already.

    Raises
    ------
    OhifNotFetched
        No npm, no network, or no such file.
    TarballWrong
        Another integrity.
    TarballUnsafe
        An entry that would leave the folder, or no build in it.
    """
    if is_fetched(target, integrity):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".ohif-") as scratch:
        source = tarball or _npm_pack(Path(scratch))
        if not source.is_file():
            raise OhifNotFetched(PACKAGE, f"{source} is no file")
        check_integrity(source, integrity)
        build = Path(scratch) / "dist"
        unpack_dist(source, build)
        (build / STAMP).write_text(integrity)
        if target.exists():
            target.rename(Path(scratch) / "replaced")
        build.rename(target)
    return True


def is_fetched(target: Path, integrity: str = INTEGRITY) -> bool:
    """Whether the folder holds the build of that integrity, whole."""
    stamp = target / STAMP
    return stamp.is_file() and stamp.read_text() == integrity and (target / "index.html").is_file()


def check_integrity(tarball: Path, expected: str) -> None:
    """Hash a file.

    Raises
    ------
    TarballWrong
        It is not the expected one.
    """
    digest = hashlib.sha512()
    with tarball.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    found = "sha512-" + base64.b64encode(digest.digest()).decode()
    if found != expected:
        raise TarballWrong(tarball, found, expected)


def unpack_dist(tarball: Path, folder: Path) -> None:
    """Write the files of `package/dist` to a new folder; nothing else of the archive.

    Raises
    ------
    TarballUnsafe
        A path that leaves the archive, a link or device among the files of the
        build, or no `index.html`.
    """
    folder.mkdir()
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            for entry in archive:
                path = PurePosixPath(entry.name)
                if path.is_absolute() or ".." in path.parts:
                    raise TarballUnsafe(tarball, entry.name, "leaves its folder")
                if not path.is_relative_to(DIST) or entry.isdir():
                    continue
                content = archive.extractfile(entry) if entry.isreg() else None
                if content is None:
                    raise TarballUnsafe(tarball, entry.name, "is no plain file")
                place = folder / path.relative_to(DIST)
                place.parent.mkdir(parents=True, exist_ok=True)
                with content, place.open("xb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise TarballUnsafe(tarball, DIST.name, f"can't be unpacked ({error})") from error
    if not (folder / "index.html").is_file():
        raise TarballUnsafe(tarball, f"{DIST}/index.html", "is missing")


def _npm_pack(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise OhifNotFetched(PACKAGE, "npm is not installed")
    try:
        done = subprocess.run(
            [npm, "pack", PACKAGE, "--silent", *NPM_PATIENCE],  # packs into its own folder
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=NPM_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OhifNotFetched(PACKAGE, f"npm took more than {NPM_SECONDS:.0f} s") from error
    packed = list(folder.glob("*.tgz"))
    if done.returncode != 0 or len(packed) != 1:
        raise OhifNotFetched(PACKAGE, f"npm ended with status {done.returncode}; no network?")
    return packed[0]


def main() -> int:
    """Fetch, and say in one line what was done."""
    parser = argparse.ArgumentParser(prog="python -m app.viewer.fetch", description=__doc__)
    parser.add_argument("--to", type=Path, default=OHIF_FOLDER, help="folder of the build")
    parser.add_argument("--tarball", type=Path, help="the package's file, instead of asking npm")
    arguments = parser.parse_args()
    try:
        fetched = fetch(arguments.to, tarball=arguments.tarball)
    except ViewerRefusal as refusal:
        print(refusal.reason, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if fetched:
        print(f"OHIF {PACKAGE.rpartition('@')[2]} is in {arguments.to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
