"""Walk over the elements of a dataset, headers only, every length checked.

PS3.5 section 7 without recursion and without reading a value. The rules for
wrong encodings (unknown VR, implicit VR in an explicit dataset) are those of
pydicom, so that what is walked here is what pydicom will read.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from struct import Struct
from typing import BinaryIO, NamedTuple

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from operators.study.refusals import HeaderTooLarge, NestedTooDeep, TruncatedFile, Unparsable

HEADER_LIMIT_BYTES = 64 << 20  # an RT structure set of a whole body has 20 MB
HEADER_LIMIT_ELEMENTS = 2_000_000
SEQUENCE_LIMIT_DEPTH = 50  # structured reports reach about 20

_WINDOW_BYTES = 8 << 10
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXELS = frozenset({0x7FE00010, 0x7FE00009, 0x7FE00008})
_VRS = frozenset(vr.value.encode() for vr in VR if len(vr.value) == 2)
_LONG_VRS = frozenset(vr.value.encode() for vr in EXPLICIT_VR_LENGTH_32)
_LENGTH = {True: Struct("<L"), False: Struct(">L")}
_IMPLICIT = {True: Struct("<HHL"), False: Struct(">HHL")}
_EXPLICIT = {True: Struct("<HH2sH"), False: Struct(">HH2sH")}


@dataclass(frozen=True)
class PixelLocation:
    """Where the pixel data lie.

    Attributes
    ----------
    keyword : str
        PixelData, FloatPixelData or DoubleFloatPixelData.
    offset : int
        First byte of the value.
    length : int
        Bytes of the value; of encapsulated pixel data with their delimiter.
    fragments : int or None
        Fragments after the offset table; None for native pixel data.
    """

    keyword: str
    offset: int
    length: int
    fragments: int | None


@dataclass(frozen=True)
class Walked:
    """End of the elements before the pixel data, and the pixel data, if any."""

    end: int
    pixels: PixelLocation | None


class _Kind(Enum):
    ELEMENTS = auto()  # a dataset or an item
    ITEMS = auto()  # a sequence
    FRAGMENTS = auto()  # items whose content is opaque


class _Level(NamedTuple):
    kind: _Kind
    end: int | None  # None: up to its delimiter
    implicit: bool


class _Element(NamedTuple):
    tag: int
    vr: bytes  # b"" where it is implicit and unknown
    length: int


class _Walk:
    """One pass over a source of known size."""

    def __init__(self, source: BinaryIO, start: int, size: int, little: bool) -> None:
        self.source, self.start, self.size, self.little = source, start, size, little
        self.position = start
        self.elements = 0
        # What was read last: most headers are read at once, whatever they hold.
        self.window, self.window_start = b"", start

    def run(self, implicit: bool) -> Walked:
        stack = [_Level(_Kind.ELEMENTS, self.size, implicit)]
        while stack:
            level = stack[-1]
            if level.end is not None and self.position >= level.end:
                if self.position > level.end:
                    raise TruncatedFile("a sequence item", self.position, level.end)
                stack.pop()
                continue
            self._count(stack)
            if level.kind is not _Kind.ELEMENTS:
                self._item(level, stack)
                continue
            before = self.position
            element = self._element(level.implicit)
            if element.tag in (_ITEM_END, _SEQUENCE_END):
                if level.end is None:
                    stack.pop()
                    continue
                raise Unparsable("a delimiter stands where none is open")
            if len(stack) == 1 and element.tag in _PIXELS:
                return Walked(before, self._pixels(element))
            self._enter(element, level, stack)
        return Walked(self.position, None)

    def _count(self, stack: list[_Level]) -> None:
        self.elements += 1
        if self.elements > HEADER_LIMIT_ELEMENTS:
            raise HeaderTooLarge("elements", HEADER_LIMIT_ELEMENTS)
        if self.position - self.start > HEADER_LIMIT_BYTES:
            raise HeaderTooLarge("bytes", HEADER_LIMIT_BYTES)
        # A sequence adds two levels, itself and its item.
        if len(stack) > 2 * SEQUENCE_LIMIT_DEPTH + 1:
            raise NestedTooDeep(SEQUENCE_LIMIT_DEPTH)

    def _peek(self, count: int) -> bytes:
        """Up to `count` bytes (at most a window) from where we are."""
        at = self.position - self.window_start
        if at + count > len(self.window):
            self.source.seek(self.position)
            self.window, self.window_start, at = self.source.read(_WINDOW_BYTES), self.position, 0
        return self.window[at : at + count]

    def _take(self, count: int) -> bytes:
        taken = self._peek(count)
        if len(taken) < count:
            raise TruncatedFile("the next element", count, len(taken))
        self.position += count
        return taken

    def _skip(self, what: str, count: int) -> None:
        if count > self.size - self.position:
            raise TruncatedFile(what, count, self.size - self.position)
        self.position += count

    def _element(self, implicit: bool) -> _Element:
        """Tag, VR and length; the position is then at the value."""
        head = self._take(8)
        if not implicit:
            group, number, vr, length = _EXPLICIT[self.little].unpack(head)
            tag = group << 16 | number
            if vr in _LONG_VRS:
                return _Element(tag, vr, _LENGTH[self.little].unpack(self._take(4))[0])
            if vr in _VRS or b"AA" <= vr <= b"ZZ":
                return _Element(tag, vr, length)
        group, number, length = _IMPLICIT[self.little].unpack(head)
        tag = group << 16 | number
        known = dictionary_has_tag(tag)
        return _Element(tag, dictionary_VR(tag).encode() if known else b"", length)

    def _enter(self, element: _Element, level: _Level, stack: list[_Level]) -> None:
        """Step over a value, or into it where it is a sequence."""
        if element.length != _UNDEFINED:
            # Only a sequence is held to its item here: a value that leaves it ends the item.
            sequence = element.vr == b"SQ"
            end = level.end if sequence and level.end is not None else self.size
            room = end - self.position
            if element.length > room:
                what = f"element ({element.tag >> 16:04X},{element.tag & 0xFFFF:04X})"
                raise TruncatedFile(what, element.length, room)
            if not sequence:
                self.position += element.length
                return
            stack.append(_Level(_Kind.ITEMS, self.position + element.length, level.implicit))
        elif element.vr in (b"SQ", b"UN", b""):
            stack.append(_Level(_Kind.ITEMS, None, level.implicit))
        else:
            stack.append(_Level(_Kind.FRAGMENTS, None, level.implicit))

    def _item(self, level: _Level, stack: list[_Level]) -> None:
        """An item of a sequence, or the end of the sequence."""
        group, number, length = _IMPLICIT[self.little].unpack(self._take(8))
        tag = group << 16 | number
        if tag == _SEQUENCE_END:
            stack.pop()
            return
        if tag != _ITEM:
            raise Unparsable("a sequence holds something that is no item")
        if level.kind is _Kind.FRAGMENTS:
            self._skip("a fragment", length)
            return
        if length != _UNDEFINED and length > self.size - self.position:
            raise TruncatedFile("a sequence item", length, self.size - self.position)
        end = None if length == _UNDEFINED else self.position + length
        stack.append(_Level(_Kind.ELEMENTS, end, level.implicit or self._looks_implicit()))

    def _looks_implicit(self) -> bool:
        """Whether what follows has no VR: some writers switch inside sequences."""
        vr = self._peek(6)[4:]
        return len(vr) == 2 and not all(0x40 < letter < 0x5B for letter in vr)

    def _pixels(self, element: _Element) -> PixelLocation:
        offset = self.position
        keyword = {0x7FE00009: "DoubleFloatPixelData", 0x7FE00008: "FloatPixelData"}.get(
            element.tag, "PixelData"
        )
        if element.length != _UNDEFINED:
            self._skip(keyword, element.length)
            return PixelLocation(keyword, offset, element.length, None)
        items = 0
        while True:
            group, number, length = _IMPLICIT[self.little].unpack(self._take(8))
            tag = group << 16 | number
            if tag == _SEQUENCE_END:
                return PixelLocation(keyword, offset, self.position - offset, items - 1)
            if tag != _ITEM:
                raise Unparsable("encapsulated pixel data hold something that is no fragment")
            self._skip("a fragment of the pixel data", length)
            items += 1


def walk(source: BinaryIO, start: int, size: int, *, implicit: bool, little: bool) -> Walked:
    """Check all lengths of a dataset up to and with its pixel data.

    Parameters
    ----------
    source : BinaryIO
        Seekable; holds the dataset.
    start, size : int
        First byte of the dataset; bytes of the source in all.
    implicit, little : bool
        Encoding of the dataset.

    Raises
    ------
    TruncatedFile
        A length reaches beyond the source or the enclosing item.
    NestedTooDeep, HeaderTooLarge
        A limit of this module is passed.
    Unparsable
        The items of a sequence don't follow PS3.5 section 7.5.
    """
    return _Walk(source, start, size, little).run(implicit)
