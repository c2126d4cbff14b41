"""The outline of a structure's largest cross-section, along the edges of its pixels.

A polygon along pixel edges encloses exactly the pixels of the mask, however few
they are; one through pixel centres or half levels is smaller by half a pixel all
around. Coordinates follow PS3.3 C.18.6.1.2: (column, row), (0, 0) at the outer
corner of the first pixel, so (0.5, 0.5) at its centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from operators.evidence.frames import Masks

# Unit steps (column, row) with rows downwards, each a right turn from the one before.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
# Seen from a corner: the pixel on the right hand of each step, and the one on its left.
_RIGHT = ((0, 0), (-1, 0), (-1, -1), (0, -1))
_LEFT = ((0, -1), (0, 0), (-1, 0), (-1, -1))


@dataclass(frozen=True)
class Outline:
    """A closed polygon in one slice.

    Attributes
    ----------
    k : int
        Index of the slice.
    points : numpy.ndarray, shape (n, 2), float64
        (column, row) in pixels from the outer corner of the first pixel; the last
        point is the first again.
    """

    k: int
    points: np.ndarray

    @property
    def area_px(self) -> float:
        """Enclosed area, in pixels (shoelace formula)."""
        x, y = (self.points - self.points[0]).T
        return float(abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2)


def largest_outline(masks: Masks, number: int, per_slice: np.ndarray) -> Outline:
    """Outline of the largest piece of one label in the slice that holds most of it.

    Parameters
    ----------
    masks : callable
        Label and k → (rows, columns) bool, as `Segmentation.mask`.
    number : int
        The label; it must occur.
    per_slice : numpy.ndarray, shape (z,)
        Voxels of the label in every slice.

    Returns
    -------
    Outline
        Holes are not cut out: the polygon is the outer border.
    """
    k = int(np.argmax(per_slice))
    mask = masks(number, k)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # Pixels that touch only by a corner are two pieces (4-neighbours).
    pieces, _ = ndimage.label(box)
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    points = _trace(np.pad(pieces == largest, 1)) - 1
    return Outline(k, points + np.array([columns[0], rows[0]]))


def _trace(mask: np.ndarray) -> np.ndarray:
    """Walk around a 4-connected piece with its pixels on the right hand.

    Parameters
    ----------
    mask : numpy.ndarray, shape (rows, columns), bool
        One piece, with an empty border of one pixel.

    Returns
    -------
    numpy.ndarray, shape (n, 2), float64
        Corners (column, row), closed.
    """
    row, column = np.argwhere(mask)[0]
    x, y = start = int(column), int(row)
    corners = [start]
    filled = mask.tolist()  # plain lists: single elements of an array are slow to read
    step = 0  # along the top edge of the topmost row's first pixel
    while True:
        x, y = x + _STEPS[step][0], y + _STEPS[step][1]
        if (x, y) == start:
            return np.array([*corners, start], float)
        # Right first, so that pixels that touch by a corner are kept apart.
        for turned in ((step + 1) % 4, step, (step + 3) % 4):
            (right_x, right_y), (left_x, left_y) = _RIGHT[turned], _LEFT[turned]
            if filled[y + right_y][x + right_x] and not filled[y + left_y][x + left_x]:
                break
        if turned != step:
            corners.append((x, y))
        step = turned
