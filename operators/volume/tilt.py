"""Stacks of a tilted gantry: slices that are shifted against each other in their plane.

Such a stack is a grid like any other, with a leaning third axis: it is kept, and what is
found lies on the slices as they were taken. A network, though, has seen upright patients
only. It is given the same values on the upright grid: every slice moved back within its own
plane, nothing mixed across slices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from operators.job import QualityFlag, Volume
from operators.volume.geometry import DRIFT_TOLERANCE_MM
from operators.volume.pixels import outside_value

NAME = "gantry-tilt"


@dataclass(frozen=True)
class Upright:
    """The rectangular grid round a leaning stack.

    Attributes
    ----------
    offsets_px : numpy.ndarray, shape (slices, 2), float64
        Where pixel (0, 0) of each slice lies on the new grid: row, column; 0 or more.
    shape : tuple of int
        (slices, rows, columns) of the new grid, so that nothing is cut off.
    lps_from_index : numpy.ndarray, shape (4, 4), float64
        Its affine: the old one's rows and columns, slices along their normal.
    """

    offsets_px: np.ndarray
    shape: tuple[int, int, int]
    lps_from_index: np.ndarray

    def volume(self, leaning: Volume) -> Volume:
        """The values of a leaning stack on this grid, linear within each slice, air outside."""
        outside = outside_value(leaning.unit)
        return replace(
            leaning,
            array=self._moved(leaning.array, outside),
            channels=tuple(self._moved(array, outside) for array in leaning.channels),
            padding=None,
            lps_from_index=self.lps_from_index,
        )

    def _moved(self, array: np.ndarray, outside: float) -> np.ndarray:
        moved = np.empty(self.shape, array.dtype)
        room = np.full(self.shape[1:], outside, np.float32)
        _, rows, columns = array.shape
        for plane, offset, target in zip(array, self.offsets_px, moved, strict=True):
            room[:] = outside
            room[:rows, :columns] = plane
            shifted = ndimage.shift(room, offset, order=1, mode="grid-constant", cval=outside)
            target[:] = np.rint(shifted) if array.dtype.kind == "i" else shifted
        return moved

    def labels_on_slices(self, labels: np.ndarray, rows: int, columns: int) -> np.ndarray:
        """Labels of this grid on the slices as they were taken: each from the nearest pixel.

        Parameters
        ----------
        labels : numpy.ndarray, shape `shape`
            Numbers, or bits of planes.
        rows, columns : int
            Of the leaning stack.

        Returns
        -------
        numpy.ndarray, shape (slices, rows, columns)
            Off by half a pixel at most, in the plane.
        """
        return np.stack(
            [
                plane[j : j + rows, i : i + columns]
                for plane, (j, i) in zip(labels, self._nearest_px, strict=True)
            ]
        )

    def labels_moved(self, labels: np.ndarray) -> np.ndarray:
        """Labels of the slices as they were taken on this grid; `labels_on_slices` undoes it.

        Parameters
        ----------
        labels : numpy.ndarray, shape (slices, rows, columns)
            Of the leaning stack; 0 is where it has none.

        Returns
        -------
        numpy.ndarray, shape `shape`
            Off by half a pixel at most, in the plane.
        """
        moved = np.zeros(self.shape, labels.dtype)
        _, rows, columns = labels.shape
        for plane, (j, i), target in zip(labels, self._nearest_px, moved, strict=True):
            target[j : j + rows, i : i + columns] = plane
        return moved

    @property
    def _nearest_px(self) -> np.ndarray:
        return np.rint(self.offsets_px).astype(int)


def upright(volume: Volume) -> Upright | None:
    """The rectangular grid of a volume whose stack leans; None where it doesn't.

    Networks that see slices one by one need none.

    Parameters
    ----------
    volume : Volume
        A stack, with perpendicular rows and columns.
    """
    count, rows, columns = volume.array.shape
    if volume.plane is not None or not _leans(volume.lps_from_index, count):
        return None
    affine = volume.lps_from_index
    lean = _lean_mm(affine)
    # Row and column that one slice is shifted by, along the steps of j and i.
    step_px = np.array([lean @ affine[:3, n] / (affine[:3, n] @ affine[:3, n]) for n in (1, 0)])
    shifts = np.arange(count)[:, None] * step_px
    lowest, highest = np.floor(shifts.min(axis=0)), np.ceil(shifts.max(axis=0))
    grown = (highest - lowest).astype(int)
    straight = affine.copy()
    straight[:3, 2] = affine[:3, 2] - lean
    straight[:3, 3] = affine[:3] @ (lowest[1], lowest[0], 0, 1)
    return Upright(
        offsets_px=shifts - lowest,
        shape=(count, rows + int(grown[0]), columns + int(grown[1])),
        lps_from_index=straight,
    )


def tilt_flags(lps_from_index: np.ndarray, slices: int) -> tuple[QualityFlag, ...]:
    """What a reader must know of a stack that leans.

    Parameters
    ----------
    lps_from_index : numpy.ndarray, shape (4, 4)
        (i, j, k, 1) → LPS mm.
    slices : int
        How many there are.
    """
    if not _leans(lps_from_index, slices):
        return ()
    lean = _lean_mm(lps_from_index)
    shift_mm = float(np.linalg.norm(lean))
    along_mm = float(np.linalg.norm(lps_from_index[:3, 2] - lean))
    text = (
        f"The gantry was tilted by {np.degrees(np.arctan2(shift_mm, along_mm)):.1f} degrees: each "
        f"slice is shifted by {shift_mm:.2f} mm in its plane against the one before. Results lie "
        "on the slices as they were taken; a network that takes all slices as one volume saw "
        "them moved back within their planes."
    )
    return (QualityFlag(NAME, text),)


def _lean_mm(lps_from_index: np.ndarray) -> np.ndarray:
    """The part of the step from slice to slice that lies in their plane, LPS mm."""
    column, row, step = lps_from_index[:3, :3].T
    normal = np.cross(column, row)
    normal /= np.linalg.norm(normal)
    return np.asarray(step - (step @ normal) * normal)


def _leans(lps_from_index: np.ndarray, slices: int) -> bool:
    """Whether the last slice lies beside the first one's normal by more than noise."""
    drift_mm = float(np.linalg.norm(_lean_mm(lps_from_index))) * (slices - 1)
    return drift_mm > DRIFT_TOLERANCE_MM
