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
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

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
    source : BinaryIO
        The file, or what it inflates to; offsets count in this.
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
    """

    source: BinaryIO
    transfer_syntax: str
    inferred: bool
    meta: FileMetaDataset
    start: int
    walked: Walked

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
            yield _find_layout(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UnreadableFile(error.strerror or type(error).__name__) from error


def _open_regular(path: Path) -> BinaryIO:
    # Asked before opening: opening a pipe waits for its other end.
    if not stat.S_ISREG(path.stat().st_mode):
        raise NotARegularFile("a pipe, a socket or a device")
    return path.open("rb")


def _find_layout(file: BinaryIO, size: int) -> Layout:
    if size == 0:
        raise EmptyFile
    head = file.read(_PREAMBLE_BYTES + 4)
    if head[_PREAMBLE_BYTES:] != b"DICM":
        return _bare_dataset(file, size)
    start, meta = _meta_group(file, len(head), size)
    if start == size:
        raise NotDicom("nothing follows the preamble and the file meta group")
    declared = str(meta.get("TransferSyntaxUID", "") or "")
    syntax = declared or _infer_syntax(file, start)
    # Anew, not assigned: the element that was read may have a VR of its own.
    meta.add_new("TransferSyntaxUID", "UI", UID(syntax))
    source = file
    if syntax == DeflatedExplicitVRLittleEndian:
        file.seek(start)
        source, start = io.BytesIO(_inflate(file, size - start)), 0
        size = source.getbuffer().nbytes
    walked = _walk_as(syntax, source, start, size)
    return Layout(source, syntax, not declared, meta, start, walked)


def _bare_dataset(file: BinaryIO, size: int) -> Layout:
    """No preamble, no file meta: accepted only if it is a dataset from end to end."""
    syntax = _infer_syntax(file, 0)
    try:
        walked = _walk_as(syntax, file, 0, size)
    except (TruncatedFile, Unparsable) as error:
        raise NotDicom("no DICM at byte 128, and no bare dataset either") from error
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    return Layout(file, syntax, True, meta, 0, walked)


def _infer_syntax(file: BinaryIO, start: int) -> str:
    """Encoding of a dataset that does not declare it, from its first element."""
    file.seek(start)
    first = file.read(6)
    # Datasets begin with group 0008; anything else is another kind of file.
    if len(first) < 6 or first[:2] != b"\x08\x00":
        raise NotDicom("it begins with neither a preamble nor an element of group 0008")
    return ExplicitVRLittleEndian if first[4:].isalpha() else ImplicitVRLittleEndian


def _walk_as(syntax: str, source: BinaryIO, start: int, size: int) -> Walked:
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


def _meta_group(file: BinaryIO, start: int, size: int) -> tuple[int, FileMetaDataset]:
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
        for _ in meta:  # each is decoded as it is passed
            pass
    except Exception as error:  # pydicom's errors on hostile bytes are of any class
        raise Unparsable("the file meta group can't be decoded") from error
    return position, meta


def _inflate(file: BinaryIO, deflated_bytes: int) -> bytes:
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
