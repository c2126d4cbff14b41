"""A bundle's files out of a folder or zip, with nothing believed that the source says.

Sizes are counted as bytes arrive, not read from headers. A path that would
leave the target, a link, a device, an encrypted or a doubled entry refuses the
whole source. Hidden entries and macOS leftovers are no part of a bundle and are
left out.
"""

from __future__ import annotations

import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from app.bundles.refusals import BundleTooLarge, EntryUnsafe, SourceUnfit

MAX_FILES = 2_000
MAX_BYTES = 4 << 30
BLOCK = 1 << 20
NOT_OURS = frozenset({"__MACOSX", "Thumbs.db"})


@dataclass(frozen=True)
class _Entry:
    """One file of the source: where it belongs, and how its bytes are read."""

    path: PurePosixPath
    open: Callable[[], AbstractContextManager[IO[bytes]]]


def unpack(source: Path, target: Path) -> None:
    """Copy the files of a bundle into a new folder.

    Parameters
    ----------
    source : Path
        A folder, or a zip file; a single folder around everything in a zip is taken off.
    target : Path
        Made here; holds a part of the bundle where this raises.

    Raises
    ------
    SourceUnfit
        Neither folder nor zip.
    EntryUnsafe
        An entry is no plain file under the source, or can't be read whole.
    BundleTooLarge
        More than `MAX_FILES` files or `MAX_BYTES` bytes.
    """
    target.mkdir(parents=True)
    if source.is_dir():
        _write(_folder_entries(source), target)
    elif source.is_file() and zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            _write(_zip_entries(archive), target)
    else:
        raise SourceUnfit(source)


def single_folder(source: Path) -> str | None:
    """Name of the one folder that holds everything in a zip; None where there is none."""
    if not source.is_file() or not zipfile.is_zipfile(source):
        return None
    with zipfile.ZipFile(source) as archive:
        return _around(info for info in archive.infolist() if not info.is_dir())


def _around(files: Iterable[zipfile.ZipInfo]) -> str | None:
    paths = [path for info in files if not _left_out(path := PurePosixPath(info.filename))]
    tops = {path.parts[0] if len(path.parts) > 1 else "" for path in paths}
    return tops.pop() or None if len(tops) == 1 and tops != {"configs"} else None


def _left_out(path: PurePosixPath) -> bool:
    return any(part.startswith(".") or part in NOT_OURS for part in path.parts)


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[_Entry]:
    files = [info for info in archive.infolist() if not info.is_dir()]
    if len(files) > MAX_FILES:
        raise BundleTooLarge("files", f"{MAX_FILES}")
    for info in files:
        _refuse_unsafe(info)
    around = _around(files)
    for info in files:
        path = PurePosixPath(info.filename)
        if not _left_out(path):
            inner = path.relative_to(around) if around else path
            yield _Entry(inner, lambda info=info: archive.open(info))  # type: ignore[misc]


def _refuse_unsafe(info: zipfile.ZipInfo) -> None:
    path = PurePosixPath(info.filename)
    again = "Make the zip again from a plain folder."
    if not path.parts:
        raise EntryUnsafe(info.filename, "has no name", again)
    if path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename:
        raise EntryUnsafe(info.filename, "leaves the bundle's folder", again)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise EntryUnsafe(info.filename, "is a link or a device", again)
    if info.flag_bits & 0x1:
        raise EntryUnsafe(info.filename, "is encrypted", "Make the zip again without a password.")


def _folder_entries(source: Path) -> Iterator[_Entry]:
    for folder, folders, files in os.walk(source):
        here = Path(folder)
        folders[:] = sorted(name for name in folders if not _left_out(PurePosixPath(name)))
        for name in (*folders, *sorted(files)):
            path = PurePosixPath((here / name).relative_to(source).as_posix())
            if _left_out(path):
                continue
            mode = (here / name).lstat().st_mode
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                remedy = "Copy the folder with its links resolved (cp -rL) and import the copy."
                raise EntryUnsafe(str(path), "is a link or a device", remedy)
            yield _Entry(path, lambda file=here / name: _open_file(file))  # type: ignore[misc]


def _open_file(file: Path) -> IO[bytes]:
    # O_NOFOLLOW: the file may have become a link since it was looked at.
    return os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb")


def _write(entries: Iterator[_Entry], target: Path) -> None:
    left, files, folders = MAX_BYTES, set[str](), set[str]()
    for count, entry in enumerate(entries, start=1):
        if count > MAX_FILES:
            raise BundleTooLarge("files", f"{MAX_FILES}")
        name = str(entry.path).casefold()  # some file systems know one case only
        above = {str(parent).casefold() for parent in entry.path.parents}
        if name in files | folders or files & above:
            raise EntryUnsafe(str(entry.path), "stands twice", "Make the source again.")
        files.add(name)
        folders |= above
        file = target / entry.path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb") as writer:
            for block in _blocks(entry):
                left -= len(block)
                if left < 0:
                    raise BundleTooLarge("bytes", f"{MAX_BYTES >> 30} GiB")
                writer.write(block)


def _blocks(entry: _Entry) -> Iterator[bytes]:
    try:
        with entry.open() as reader:
            while block := reader.read(BLOCK):
                yield block
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        NotImplementedError,
        OSError,
    ) as error:
        problem = f"can't be read ({type(error).__name__})"
        raise EntryUnsafe(str(entry.path), problem, "Fetch or copy the source again.") from error
