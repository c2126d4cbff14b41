"""The one grid that the frames of a SEG lie on, leaning or not.

highdicom's grids are rectangular, and it takes a stack that leans by up to 2.5 degrees for
one: over a head that is several mm. So its grid is believed only where the frames do lie on
it; a leaning one (`tilt.py`) is found from the positions here.
"""

from __future__ import annotations

from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset

from operators.volume.geometry import (
    COSINE_TOLERANCE,
    DRIFT_TOLERANCE_MM,
    MOST_TILT_DEG,
    SAME_PLACE_MM,
)


@dataclass(frozen=True)
class SegGrid:
    """Where the voxels of a SEG lie; slices without a frame are part of it.

    Attributes
    ----------
    shape : tuple of int
        (slices, rows, columns).
    lps_from_index : numpy.ndarray, shape (4, 4), float64
        (i, j, k, 1) → LPS mm.
    frame_slices : numpy.ndarray, shape (frames,), int64, or None
        k of every frame of a leaning grid; None where highdicom knows the grid.
    """

    shape: tuple[int, int, int]
    lps_from_index: np.ndarray
    frame_slices: np.ndarray | None = None


def find_grid(segmentation: hd.seg.Segmentation) -> SegGrid | None:
    """The grid of a SEG's frames; None where they lie on no one grid.

    Parameters
    ----------
    segmentation : highdicom.seg.Segmentation
        Slices without a frame may be missing.

    References
    ----------
    DICOM PS3.3 C.7.6.16.2.3 Plane Position, C.7.6.16.2.1 Pixel Measures (Spacing Between
    Slices is measured along the normal).
    """
    geometry = segmentation.get_volume_geometry(allow_missing_positions=True)
    positions = _positions(segmentation)
    if positions is None:
        return None
    if geometry is not None:
        # highdicom's index is (slice, row, column); ours in an affine is (column, row, slice).
        affine = np.array(geometry.affine, np.float64)
        affine[:, :3] = affine[:, 2::-1]
        if _beside_mm(positions, affine) <= DRIFT_TOLERANCE_MM:
            slices, rows, columns = geometry.spatial_shape
            return SegGrid((slices, rows, columns), affine)
    return _leaning(segmentation, positions)


def read_mask(segmentation: hd.seg.Segmentation, number: int, grid: SegGrid) -> np.ndarray:
    """One segment of a binary SEG.

    Parameters
    ----------
    segmentation : highdicom.seg.Segmentation
    number : int
        Segment Number.
    grid : SegGrid
        Of `find_grid`.

    Returns
    -------
    numpy.ndarray, shape `grid.shape`, bool
    """
    if grid.frame_slices is None:
        volume = segmentation.get_volume(
            segment_numbers=[number],
            combine_segments=False,
            allow_missing_positions=True,
            dtype=np.uint8,
        )
        return np.asarray(volume.array.reshape(volume.spatial_shape) > 0)
    mask = np.zeros(grid.shape, bool)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    for n, group in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        (of,) = _group(group, shared, "SegmentIdentificationSequence")
        if int(of.ReferencedSegmentNumber) == number:
            mask[grid.frame_slices[n]] |= segmentation.get_stored_frame(n, as_index=True) > 0
    return mask


def _group(frame: Dataset, shared: Dataset, macro: str) -> list[Dataset]:
    """The items of a functional group, which stands with the frame or once for all."""
    return list(frame.get(macro) or shared.get(macro) or [])


def _positions(segmentation: hd.seg.Segmentation) -> np.ndarray | None:
    """Centre of the first pixel of every frame, LPS mm, (frames, 3); None where one has none."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    found = [
        item.ImagePositionPatient
        for group in segmentation.PerFrameFunctionalGroupsSequence
        for item in _group(group, shared, "PlanePositionSequence")
    ]
    frames = len(segmentation.PerFrameFunctionalGroupsSequence)
    return np.array(found, np.float64) if len(found) == frames else None


def _beside_mm(positions: np.ndarray, affine: np.ndarray) -> float:
    """How far a frame lies beside its place on a grid, in its plane, at most, mm."""
    offsets = positions - affine[:3, 3]
    index = offsets @ np.linalg.inv(affine[:3, :3]).T
    return float(np.linalg.norm(index[:, :2] @ affine[:3, :2].T, axis=1).max())


def _leaning(segmentation: hd.seg.Segmentation, positions: np.ndarray) -> SegGrid | None:
    """The grid of frames that are shifted evenly against each other; None where they aren't."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    if "PlaneOrientationSequence" not in shared or "PixelMeasuresSequence" not in shared:
        return None
    directions = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, np.float64)
    along_row, along_column = directions.reshape(2, 3)
    gram = directions.reshape(2, 3) @ directions.reshape(2, 3).T
    measures = shared.PixelMeasuresSequence[0]
    # First value: spacing between rows (PS3.3 10.7.1.3). A guess from the frames that there
    # are could skip slices that have none.
    spacing_mm = measures.get("SpacingBetweenSlices")
    if spacing_mm is None or np.abs(gram - np.eye(2)).max() > COSINE_TOLERANCE:
        return None
    row_spacing_mm, column_spacing_mm = (float(value) for value in measures.PixelSpacing)
    normal = np.cross(along_row, along_column)
    along = positions @ normal
    first, last = positions[int(np.argmin(along))], positions[int(np.argmax(along))]
    steps = round(float(np.ptp(along)) / float(spacing_mm)) if spacing_mm > SAME_PLACE_MM else 0
    if not steps:
        return None
    step = (last - first) / steps
    frame_slices = np.rint((along - along.min()) / (step @ normal)).astype(np.int64)
    off_mm = np.linalg.norm(positions - first - frame_slices[:, None] * step, axis=1).max()
    tilt_deg = np.degrees(np.arccos(min(1.0, step @ normal / np.linalg.norm(step))))
    uneven_mm = abs(step @ normal - float(spacing_mm)) * steps
    if max(off_mm, uneven_mm) > DRIFT_TOLERANCE_MM or tilt_deg > MOST_TILT_DEG:
        return None
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along_row * column_spacing_mm, along_column * row_spacing_mm
    affine[:3, 2], affine[:3, 3] = step, first
    shape = (steps + 1, int(segmentation.Rows), int(segmentation.Columns))
    return SegGrid(shape, affine, frame_slices)
