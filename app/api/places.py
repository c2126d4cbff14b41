"""Where each segment lies, read from the SEG that was written: what a viewer would show.

Frame by frame, so that a SEG of a hundred structures needs no more memory than one frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom


@dataclass(frozen=True)
class Place:
    """One segment in the patient.

    Attributes
    ----------
    segment_number : int
        In the SEG, where segments are numbered without gaps: not the label's number.
    center_lps_mm : tuple of float
        Mean of its voxel centres, LPS, mm.
    box_lps_mm : tuple of (tuple of float, tuple of float)
        Lowest and highest corner, LPS, mm, around its voxel centres; on an oblique grid
        around the rectangles that hold them.
    """

    segment_number: int
    center_lps_mm: tuple[float, float, float]
    box_lps_mm: tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class PixelPlace:
    """One segment in a 2D image.

    Attributes
    ----------
    segment_number : int
        In the SEG.
    box_px : tuple of int
        Left, top, right and bottom edge, pixels.
    """

    segment_number: int
    box_px: tuple[int, int, int, int]


def read_pixel_places(seg: Path) -> dict[str, PixelPlace]:
    """Box of every segment of the SEG of a 2D image, by Tracking ID: frame n is segment n."""
    dataset = pydicom.dcmread(seg)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    packed = np.frombuffer(dataset.PixelData, np.uint8)
    places = {}
    for number, item in enumerate(dataset.SegmentSequence):
        frame = _frame(packed, number, rows, columns)
        (top, bottom), (left, right) = (
            np.flatnonzero(frame.any(axis=axis))[[0, -1]] for axis in (1, 0)
        )
        box = int(left), int(top), int(right) + 1, int(bottom) + 1
        places[str(item.TrackingID)] = PixelPlace(int(item.SegmentNumber), box)
    return places


@dataclass
class _Sum:
    voxels: int = 0
    total: np.ndarray = field(default_factory=lambda: np.zeros(3))
    low: np.ndarray = field(default_factory=lambda: np.full(3, np.inf))
    high: np.ndarray = field(default_factory=lambda: np.full(3, -np.inf))


def read_places(seg: Path) -> dict[str, Place]:
    """Centre and box of every segment of a SEG.

    Parameters
    ----------
    seg : Path
        A BINARY Segmentation of ours: pixel measures and orientation shared, a plane
        position for each frame.

    Returns
    -------
    dict of str to Place
        By Tracking ID (0062,0020), which is the structure's machine name.

    References
    ----------
    DICOM PS3.3 C.7.6.2.1.1 equation 1 (index to LPS), C.8.20.2; PS3.5 8.1.1 (one bit
    pixels are packed without a gap between frames, lowest bit first).
    """
    dataset = pydicom.dcmread(seg)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    # First value: between rows (PS3.3 10.7.1.3).
    row_mm, column_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    axes = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    along_row, along_column = axes[:3] * column_mm, axes[3:] * row_mm
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    packed = np.frombuffer(dataset.PixelData, np.uint8)
    sums: dict[int, _Sum] = {}
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame = _frame(packed, number, rows, columns)
        by_row, by_column = frame.sum(axis=1), frame.sum(axis=0)
        count = int(by_row.sum())
        if not count:
            continue
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        found = sums.setdefault(
            int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber), _Sum()
        )
        found.voxels += count
        found.total += origin * count
        found.total += along_row * float(by_column @ np.arange(columns))
        found.total += along_column * float(by_row @ np.arange(rows))
        (top, bottom), (left, right) = (np.flatnonzero(by)[[0, -1]] for by in (by_row, by_column))
        corners = [
            origin + along_row * i + along_column * j for i in (left, right) for j in (top, bottom)
        ]
        found.low = np.minimum(found.low, np.min(corners, axis=0))
        found.high = np.maximum(found.high, np.max(corners, axis=0))
    names = {int(item.SegmentNumber): str(item.TrackingID) for item in dataset.SegmentSequence}
    return {
        names[number]: Place(number, _point(s.total / s.voxels), (_point(s.low), _point(s.high)))
        for number, s in sums.items()
    }


def _frame(packed: np.ndarray, number: int, rows: int, columns: int) -> np.ndarray:
    """Frame of shape (rows, columns), 0 or 1."""
    start = number * rows * columns
    end = start + rows * columns
    bits = np.unpackbits(packed[start // 8 : -(-end // 8)], bitorder="little")
    return bits[start % 8 : start % 8 + rows * columns].reshape(rows, columns)


def _point(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (round(float(value), 2) for value in values)
    return x, y, z
