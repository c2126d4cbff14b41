"""Sequences as bytes, explicit VR little endian: encoded once, filled in again and again.

A SEG and an SR name every source slice several times, and as nested data sets
these items cost more than all else that is written. pydicom encodes the first of
a kind; of the others only the values that differ are put into its bytes. The
sequence then stands in its data set as raw bytes, which pydicom writes as they are
and decodes if somebody asks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.tag import Tag

IMPLICIT_VR, LITTLE_ENDIAN = False, True
ITEM = struct.Struct("<HHL")
HEAD = struct.Struct("<HH2sH")  # of VRs with a length of 16 bits
HEAD_LIMIT = 0xFFFE
LONG_HEAD = struct.Struct("<HH2sHL")  # of all others
# What makes a text of an odd length even (PS3.5 6.2), for VRs of 64 characters at most.
_PADDING = {"CS": b" ", "LO": b" ", "SH": b" ", "UI": b"\0"}


def encode_item(item: Dataset) -> bytes:
    """A sequence item with its tag and length, all lengths defined; text in UTF-8.

    Raw elements, if it has any, are explicit VR little endian (`set_sequence`).
    """
    elements = sorted(item.items(), key=lambda entry: int(entry[0]))
    content = b"".join(_encode_element(element) for _, element in elements)
    return ITEM.pack(0xFFFE, 0xE000, len(content)) + content


def _encode_element(element: DataElement | RawDataElement) -> bytes:
    """An element with its head: sequences and single texts here, all else by pydicom."""
    tag, vr, value = int(element.tag), str(element.VR), element.value
    if vr == "SQ":
        content = value if isinstance(value, bytes) else b"".join(map(encode_item, value or ()))
        return LONG_HEAD.pack(tag >> 16, tag & 0xFFFF, b"SQ", 0, len(content)) + content
    content = value.encode("utf-8") if isinstance(value, str) else b""
    if vr not in _PADDING or not isinstance(value, str) or len(content) > HEAD_LIMIT:
        return _encode_by_pydicom(element)
    content += _PADDING[vr] * (len(content) % 2)
    return HEAD.pack(tag >> 16, tag & 0xFFFF, vr.encode(), len(content)) + content


def _encode_by_pydicom(element: DataElement | RawDataElement) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = IMPLICIT_VR, LITTLE_ENDIAN
    write_data_element(buffer, element, ["utf8"])
    return bytes(buffer.getvalue())


def set_sequence(dataset: Dataset, keyword: str, items: Iterable[bytes | bytearray]) -> None:
    """Put encoded items into a data set that is written as explicit VR little endian."""
    tag, content = Tag(keyword), b"".join(items)
    dataset[tag] = RawDataElement(tag, "SQ", len(content), content, 0, IMPLICIT_VR, LITTLE_ENDIAN)


class Stencil:
    """A sequence item of which only some texts differ from use to use.

    >>> item = Dataset()
    >>> item.ReferencedSOPInstanceUID = ""
    >>> Stencil(item, (item, "ReferencedSOPInstanceUID")).fill("1.2.3")[-6:]
    bytearray(b'1.2.3\\x00')

    Parameters
    ----------
    item : Dataset
        The pattern; it is written to.
    *fields : (Dataset, str)
        Which elements differ: the item itself or one nested in it, and a keyword. Each
        is the only one of its tag in the item.
    """

    def __init__(self, item: Dataset, *fields: tuple[Dataset, str]) -> None:
        self._item, self._fields = item, fields
        self._padding = [b"\0" if dictionary_VR(keyword) == "UI" else b" " for _, keyword in fields]
        # By the lengths of the values, which the lengths around them depend on.
        self._cut: dict[tuple[int, ...], tuple[bytes, list[slice]]] = {}

    def fill(self, *values: str) -> bytearray:
        """The item with these values, one per field; several of one field with backslashes."""
        padded = [
            text.encode("ascii") + padding * (len(text) % 2)
            for text, padding in zip(values, self._padding, strict=True)
        ]
        lengths = tuple(map(len, padded))
        if lengths not in self._cut:
            self._cut[lengths] = self._encode(values, padded)
        pattern, places = self._cut[lengths]
        content = bytearray(pattern)
        for place, value in zip(places, padded, strict=True):
            content[place] = value
        return content

    def _encode(self, values: Sequence[str], padded: Sequence[bytes]) -> tuple[bytes, list[slice]]:
        """The item as pydicom writes it, and where its fields lie."""
        for (owner, keyword), text in zip(self._fields, values, strict=True):
            setattr(owner, keyword, text)
        content = encode_item(self._item)
        places = []
        for (_, keyword), value in zip(self._fields, padded, strict=True):
            tag = tag_for_keyword(keyword) or 0
            head = HEAD.pack(tag >> 16, tag & 0xFFFF, dictionary_VR(tag).encode(), len(value))
            if content.count(head + value) != 1:
                raise ValueError(f"{keyword} does not stand in the item once")
            start = content.index(head + value) + len(head)
            places.append(slice(start, start + len(value)))
        return content, places
