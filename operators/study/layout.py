"""A DICOM file, opened with suspicion: where its parts lie and how they are encoded.

pydicom reads a cut value as if it were whole, reserves what a length claims and
recurses into sequences. So a file is walked first (`walk.py`); what passes, pydicom
gets as bytes that end before the pixel data.
"""

from __future__ import annotations

import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from operators.job import Instance, PixelPlace
from operators.study.refusals import (
    EmptyFile,
    InflatesTooFar,
    NotARegularFile,
    NotDicom,
    TruncatedFile,
    Unparsable,
    UnreadableFile,
)
from operators.study.walk import PixelLocation, Walked, walk

Source = io.BufferedReader | io.BytesIO  # a file, or what it inflates to

INFLATED_LIMIT_BYTES = 64 << 20  # a mammogram of 4000 x 5000 pixels has 40 MB

NATIVE_SYNTAXES = frozenset(
    {
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    }
)

_PREAMBLE_BYTES = 128
_META_LIMIT_BYTES = 64 << 10
_CHUNK_BYTES = 64 << 10


@dataclass(frozen=True)
class Layout:
    """A file whose lengths add up; only valid while it is open.

    Attributes
    ----------
    source : Source
        Offsets count in this.
    transfer_syntax : str
        Transfer Syntax UID.
    inferred : bool
        True where no file meta declares it.
    meta : FileMetaDataset
        The file meta group, with `transfer_syntax`.
    start : int
        First byte of the dataset.
    walked : Walked
        Where its header ends and the pixel data lie.
    file_version : tuple of int or None
        See `PixelPlace`; None where `source` is not the file itself.
    """

    source: Source
    transfer_syntax: str
    inferred: bool
    meta: FileMetaDataset
    start: int
    walked: Walked
    file_version: tuple[int, ...] | None

    @property
    def pixels(self) -> PixelLocation | None:
        """Where the pixel data lie; None where there are none."""
        return self.walked.pixels

    def read_header(self) -> Dataset:
        """Elements before the pixel data, with `file_meta`."""
        self.source.seek(self.start)
        header = read_dataset(
            io.BytesIO(self.source.read(self.walked.end - self.start)),
            is_implicit_VR=self.transfer_syntax == ImplicitVRLittleEndian,
            is_little_endian=self.transfer_syntax != ExplicitVRBigEndian,
        )
        header.file_meta = self.meta
        return header

    @property
    def place(self) -> PixelPlace | None:
        """Where `open_pixels` finds the pixel data without another walk."""
        if self.pixels is None or self.file_version is None:
            return None
        pixels = self.pixels
        return PixelPlace(pixels.keyword, pixels.offset, pixels.length, self.file_version)

    def read_pixels(self) -> bytes:
        """Value of the pixel data, as it stands in the file; empty where there are none."""
        if self.pixels is None:
            return b""
        self.source.seek(self.pixels.offset)
        return self.source.read(self.pixels.length)


@contextmanager
def open_layout(path: Path) -> Iterator[Layout]:
    """Open a file and find its parts.

    Raises
    ------
    FileRefusal
        The file is none, is not DICOM, or a length, depth or size is against a limit.
    """
    try:
        with _open_regular(path) as file:
            yield _find_layout(file)
    except OSError as error:
        raise UnreadableFile(error.strerror or type(error).__name__) from error


@contextmanager
def open_pixels(instance: Instance) -> Iterator[tuple[Source, str, int]]:
    """Open a file at its pixel data; walked only if it was not, or changed since.

    Yields
    ------
    source : Source
        At the first byte of the value.
    keyword : str
        PixelData or its kin; "" where there are none.
    length : int
        Bytes of the value.

    Raises
    ------
    FileRefusal
        As `open_layout`.
    """
    place = instance.pixels
    if place is not None:
        try:
            with _open_regular(instance.path) as file:
                if _version(file) == place.file_version:
                    file.seek(place.offset)
                    yield file, place.keyword, place.length
                    return
        except OSError as error:
            raise UnreadableFile(error.strerror or type(error).__name__) from error
    with open_layout(instance.path) as layout:
        pixels = layout.pixels
        if pixels is None:
            yield layout.source, "", 0
        else:
            layout.source.seek(pixels.offset)
            yield layout.source, pixels.keyword, pixels.length


def _version(file: io.BufferedReader) -> tuple[int, ...]:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _open_regular(path: Path) -> io.BufferedReader:
    # Asked before opening: opening a pipe waits for its other end.
    if not stat.S_ISREG(path.stat().st_mode):
        raise NotARegularFile("a pipe, a socket or a device")
    return path.open("rb")


def _find_layout(file: io.BufferedReader) -> Layout:
    version = _version(file)
    size = version[2]
    if size == 0:
        raise EmptyFile
    head = file.read(_PREAMBLE_BYTES + 4)
    if head[_PREAMBLE_BYTES:] != b"DICM":
        return _bare_dataset(file, size, version)
    start, meta = _meta_group(file, len(head), size)
    if start == size:
        raise NotDicom("nothing follows the preamble and the file meta group")
    declared = str(meta.get("TransferSyntaxUID", "") or "")
    syntax = declared or _infer_syntax(file, start)
    # Anew, not assigned: the element that was read may have a VR of its own.
    meta.add_new("TransferSyntaxUID", "UI", UID(syntax))
    source: Source = file
    if syntax == DeflatedExplicitVRLittleEndian:
        file.seek(start)
        source, start = io.BytesIO(_inflate(file, size - start)), 0
        size = source.getbuffer().nbytes
    walked = _walk_as(syntax, source, start, size)
    return Layout(
        source, syntax, not declared, meta, start, walked, version if source is file else None
    )


def _bare_dataset(file: io.BufferedReader, size: int, version: tuple[int, ...]) -> Layout:
    """No preamble, no file meta: accepted only if it is a dataset from end to end."""
    syntax = _infer_syntax(file, 0)
    try:
        walked = _walk_as(syntax, file, 0, size)
    except (TruncatedFile, Unparsable) as error:
        raise NotDicom("no DICM at byte 128, and no bare dataset either") from error
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    return Layout(file, syntax, True, meta, 0, walked, version)


def _infer_syntax(file: io.BufferedReader, start: int) -> str:
    """Encoding of a dataset that does not declare it, from its first element."""
    file.seek(start)
    first = file.read(6)
    # Datasets begin with group 0008; anything else is another kind of file.
    if len(first) < 6 or first[:2] != b"\x08\x00":
        raise NotDicom("it begins with neither a preamble nor an element of group 0008")
    return ExplicitVRLittleEndian if first[4:].isalpha() else ImplicitVRLittleEndian


def _walk_as(syntax: str, source: Source, start: int, size: int) -> Walked:
    walked = walk(
        source,
        start,
        size,
        implicit=syntax == ImplicitVRLittleEndian,
        little=syntax != ExplicitVRBigEndian,
    )
    if walked.pixels is not None:
        native = walked.pixels.fragments is None
        if native != (syntax in NATIVE_SYNTAXES):
            found = "native" if native else "encapsulated"
            raise Unparsable(f"pixel data are {found}, the transfer syntax says otherwise")
    return walked


def _meta_group(file: io.BufferedReader, start: int, size: int) -> tuple[int, FileMetaDataset]:
    """End and elements of the file meta group, which is always Explicit VR Little Endian."""
    position = start
    while True:
        file.seek(position)
        head = file.read(12)
        if head[:2] != b"\x02\x00":
            break
        if len(head) < 8:
            raise TruncatedFile("the file meta group", 8, len(head))
        long = head[4:6] in (b"OB", b"UN", b"UT")
        length = int.from_bytes(head[8:12] if long else head[6:8], "little")
        position += (12 if long else 8) + length
        if position > size or position - start > _META_LIMIT_BYTES:
            raise TruncatedFile("the file meta group", position - start, size - start)
    file.seek(start)
    try:
        meta = FileMetaDataset(read_dataset(io.BytesIO(file.read(position - start)), False, True))
        for element in meta.values():
            if isinstance(element, RawDataElement):
                _try_decoding(element)
    except Exception as error:  # pydicom's errors on hostile bytes are of any class
        raise Unparsable("the file meta group can't be decoded") from error
    return position, meta


@lru_cache(maxsize=64)
def _try_decoding(element: RawDataElement) -> None:
    """Raises what pydicom raises; all but one element are the same in all files of a series."""
    convert_raw_data_element(element)


def _inflate(file: io.BufferedReader, deflated_bytes: int) -> bytes:
    """Raw deflate (PS3.5 A.5), never more than the limit in memory."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = bytearray()
    try:
        while not stream.eof and (chunk := file.read(_CHUNK_BYTES)):
            room = INFLATED_LIMIT_BYTES + 1 - len(inflated)
            inflated += stream.decompress(chunk, room)
            if len(inflated) > INFLATED_LIMIT_BYTES:
                raise InflatesTooFar(deflated_bytes, INFLATED_LIMIT_BYTES)
    except zlib.error as error:
        raise Unparsable("the deflated dataset can't be inflated") from error
    if not stream.eof:
        raise TruncatedFile("the deflated dataset", deflated_bytes + 1, deflated_bytes)
    return bytes(inflated)
