"""Where the parts of a DICOM file lie, with every claimed length checked against the file.

pydicom reads a cut value as if it were whole, reserves what a length claims and
recurses into sequences. So the file is walked here first: without recursion,
without reading values, within named limits. What this accepts, pydicom gets as
bytes that end before the pixel data.
"""

from __future__ import annotations

import io
import os
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import BinaryIO

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from operators.study.refusals import (
    EmptyFile,
    HeaderTooLarge,
    InflatesTooFar,
    NestedTooDeep,
    NotARegularFile,
    NotDicom,
    TruncatedFile,
    Unparsable,
    UnreadableFile,
)

HEADER_LIMIT_BYTES = 64 << 20  # an RT structure set of a whole body has 20 MB
HEADER_LIMIT_ELEMENTS = 2_000_000
INFLATED_LIMIT_BYTES = 64 << 20  # a mammogram of 4000 x 5000 pixels has 40 MB
SEQUENCE_LIMIT_DEPTH = 50  # structured reports reach about 20

NATIVE = frozenset(
    {
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    }
)

_PREAMBLE = 128
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXELS = frozenset({0x7FE00010, 0x7FE00009, 0x7FE00008})
_VRS = frozenset(vr.value.encode() for vr in VR if len(vr.value) == 2)
_LONG_VRS = frozenset(vr.value.encode() for vr in EXPLICIT_VR_LENGTH_32)


@dataclass(frozen=True)
class PixelLocation:
    """Where the pixel data lie in the (inflated) file.

    Attributes
    ----------
    offset : int
        First byte of the value.
    length : int
        Bytes of the value; for encapsulated pixel data up to the delimiter.
    fragments : int or None
        Fragments without the offset table; None for native pixel data.
    """

    offset: int
    length: int
    fragments: int | None


@dataclass(frozen=True)
class Layout:
    """A file whose lengths add up.

    Attributes
    ----------
    source : BinaryIO
        The open file, or what it inflates to.
    transfer_syntax : str
        As declared in the file meta, or inferred.
    inferred : bool
        True where nothing declares it.
    meta, dataset : tuple of int
        First byte and end of the file meta group and of the dataset before the pixel
        data; `meta` lies in the file itself, `dataset` in `source`.
    pixels : PixelLocation or None
        None where there are none.
    """

    source: BinaryIO
    transfer_syntax: str
    inferred: bool
    meta_bytes: bytes
    dataset: tuple[int, int]
    pixels: PixelLocation | None

    def read_header(self) -> Dataset:
        """Elements before the pixel data, with `file_meta`."""
        first, end = self.dataset
        self.source.seek(first)
        header = read_dataset(
            io.BytesIO(self.source.read(end - first)),
            is_implicit_VR=self.transfer_syntax == ImplicitVRLittleEndian,
            is_little_endian=self.transfer_syntax != ExplicitVRBigEndian,
        )
        header.file_meta = FileMetaDataset(read_dataset(io.BytesIO(self.meta_bytes), False, True))
        header.file_meta.TransferSyntaxUID = self.transfer_syntax
        return header

    def read_pixels(self) -> bytes:
        """Value of the pixel data as it stands in the file.

        Raises
        ------
        Unparsable
            There are none.
        """
        if self.pixels is None:
            raise Unparsable("the object has no pixel data")
        self.source.seek(self.pixels.offset)
        return self.source.read(self.pixels.length)
