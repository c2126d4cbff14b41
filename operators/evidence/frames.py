"""The frames of a BINARY SEG: bits, and the functional groups that say where each lies.

A SEG has one frame per segment and slice, and as nested data sets their headers
cost far more than their pixels. So the header of each slice is encoded once, the
numbers in which the frames of one slice differ are put into the bytes, and the
whole sequence goes into the data set as it will stand in the file.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from operators.evidence.encode import set_sequence

Masks = Callable[[int, int], np.ndarray]

_PIXEL_DATA = Tag("PixelData")
# Heads of the elements that differ from frame to frame, as explicit VR little endian.
_DIMENSION_INDEX_VALUES = struct.pack("<HH2sH", 0x0020, 0x9157, b"UL", 8)
_REFERENCED_SEGMENT_NUMBER = struct.pack("<HH2sH", 0x0062, 0x000B, b"US", 2)


@dataclass(frozen=True)
class Frame:
    """One frame: which label of which slice, and how it is numbered.

    Attributes
    ----------
    k : int
        Slice in the label map.
    label : int
        Value in the label map.
    segment_number : int
        From 1 without gaps.
    position : int
        Rank of the slice among those that hold a segment, from 1.
    """

    k: int
    label: int
    segment_number: int
    position: int


def list_frames(counts: np.ndarray, labels: Sequence[int]) -> tuple[Frame, ...]:
    """Non-empty frames, by segment and then by slice.

    Parameters
    ----------
    counts : numpy.ndarray, shape (slices, highest label + 1)
        Voxels of every label in every slice.
    labels : sequence of int
        Label of segment 1, 2, …
    """
    held = counts[:, labels] > 0
    position = np.cumsum(held.any(axis=1))
    return tuple(
        Frame(int(k), label, n + 1, int(position[k]))
        for n, label in enumerate(labels)
        for k in np.flatnonzero(held[:, n])
    )


def attach_frames(
    dataset: Dataset,
    masks: Masks,
    frames: Sequence[Frame],
    slices: Mapping[int, bytearray],
) -> None:
    """Put frames and their functional groups into a SEG, in place.

    Parameters
    ----------
    dataset : Dataset
        SEG header, explicit VR little endian.
    masks : callable
        Label and k → (rows, columns) bool, as `Segmentation.mask`.
    frames : sequence of Frame
        What to write, in this order.
    slices : mapping
        k → encoded item of the Per-Frame Functional Groups Sequence for every slice with
        a frame, complete but for the values of Dimension Index Values (2 of them) and
        Referenced Segment Number. Written to.
    """
    dataset.NumberOfFrames = len(frames)
    dataset.Rows, dataset.Columns = masks(frames[0].label, frames[0].k).shape
    set_sequence(dataset, "PerFrameFunctionalGroupsSequence", _encode_groups(frames, slices))
    # As a buffer: pydicom copies it to the file piece by piece.
    dataset[_PIXEL_DATA] = DataElement(_PIXEL_DATA, "OB", PackedFrames(masks, frames))


def _encode_groups(frames: Sequence[Frame], slices: Mapping[int, bytearray]) -> Iterator[bytes]:
    """The item of every frame as it stands in the file."""
    places = {
        k: (
            content.index(_DIMENSION_INDEX_VALUES) + len(_DIMENSION_INDEX_VALUES),
            content.index(_REFERENCED_SEGMENT_NUMBER) + len(_REFERENCED_SEGMENT_NUMBER),
        )
        for k, content in slices.items()
    }
    for frame in frames:
        content = slices[frame.k]
        dimensions, segment = places[frame.k]
        struct.pack_into("<II", content, dimensions, frame.segment_number, frame.position)
        struct.pack_into("<H", content, segment, frame.segment_number)
        yield bytes(content)


class PackedFrames(io.BufferedIOBase):
    """Bits of all frames, one after the other without gaps (PS3.5 8.1.1, 8.2), to read from.

    They are made as they are read: at once they would take as much memory as the file
    takes on disk. Frames whose size is no multiple of 8 share bytes with their neighbours:
    only eight of them together fill whole bytes.

    Parameters
    ----------
    masks, frames
        As for `attach_frames`; at least one frame.
    """

    def __init__(self, masks: Masks, frames: Sequence[Frame]) -> None:
        self._masks, self._frames = masks, frames
        self._of_eight = masks(frames[0].label, frames[0].k).size  # bytes
        content = -(-self._of_eight * len(frames) // 8)
        self._length = content + content % 2
        self._position = 0
        self._made: tuple[int, bytes] = (-1, b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Byte that is read next."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """As of any file."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file."""
        left = max(0, self._length - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        pieces = []
        while wanted:
            number, start = divmod(self._position, self._of_eight)
            piece = self._packed(number)[start : start + wanted] or b"\0"  # one fills it up
            pieces.append(piece)
            self._position += len(piece)
            wanted -= len(piece)
        return b"".join(pieces)

    def _packed(self, number: int) -> bytes:
        """Eight frames, or those that are left."""
        if self._made[0] != number:
            frames = self._frames[8 * number : 8 * number + 8]
            masks = [self._masks(frame.label, frame.k) for frame in frames]
            packed = np.packbits(np.stack(masks), bitorder="little").tobytes() if masks else b""
            self._made = (number, packed)
        return self._made[1]
