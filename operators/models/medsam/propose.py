"""From points to the box that they mean, for networks that were trained on boxes only.

LiteMedSAM's point tokens are in its weights and run, but nothing taught them: a point in
the middle of a structure gives an empty mask, and a point added to a box makes it worse
(README.md of the bundle). So boxes of many sizes are tried round the points, and the one
is taken whose mask agrees best with itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from operators.models.medsam.picture import Box, Point
from operators.models.medsam.propagate import bounding_box, largest_piece

SIDES = 9
SMALLEST_SHARE, LARGEST_SHARE = 1 / 12, 1 / 1.4  # of the slice's longer side
TOUCH_PX = 1.5


def candidate_boxes(points: Sequence[Point], shape: tuple[int, int]) -> list[Box]:
    """Squares of rising size round the points inside, cut at the edge of the slice.

    Parameters
    ----------
    points : sequence of Point
        At least one says where the structure is.
    shape : tuple of int
        Rows and columns of the slice.
    """
    inside = np.array([point[:2] for point in points if point[2]], np.float64)
    low, high = inside.min(axis=0), inside.max(axis=0)
    rows, columns = shape
    boxes = []
    for side in max(shape) * np.geomspace(SMALLEST_SHARE, LARGEST_SHARE, SIDES):
        grown = np.maximum(side, (high - low) * 1.2) / 2
        x0, y0 = (low + high) / 2 - grown
        x1, y1 = (low + high) / 2 + grown
        boxes.append(
            (
                max(float(x0), 0.0),
                max(float(y0), 0.0),
                min(float(x1), float(columns)),
                min(float(y1), float(rows)),
            )
        )
    return boxes


def best_box(
    boxes: Sequence[Box], points: Sequence[Point], segment: Callable[[Box], np.ndarray]
) -> Box:
    """The candidate whose mask holds the points and agrees best with itself.

    What counts, multiplied: the share of points on the right side; the Dice of the mask
    with that of its own tight box; the share of its outline that is free of the box.

    Parameters
    ----------
    boxes : sequence of tuple of float
        Of `candidate_boxes`.
    points : sequence of Point
        In pixel edges.
    segment : callable
        Box → mask, shape (y, x), bool.

    Returns
    -------
    tuple of float
        Tight round the best mask; the smallest candidate where no mask holds a point.
    """
    best, best_score = boxes[0], 0.0
    for box in boxes:
        mask = largest_piece(segment(box))
        right = _share_right(mask, points)
        if not mask.any() or not right:
            continue
        tight = bounding_box(mask, 0.0)
        again = largest_piece(segment(tight))
        agreement = 2 * float((mask & again).sum()) / float(mask.sum() + again.sum())
        score = right * agreement * _share_free(mask, box)
        if score > best_score:
            best, best_score = tight, score
    return best


def _share_right(mask: np.ndarray, points: Sequence[Point]) -> float:
    """Share of the points that are on their side of the mask; 0 where none inside is."""
    rows, columns = mask.shape
    held = [mask[min(int(y), rows - 1), min(int(x), columns - 1)] for x, y, _ in points]
    if not any(h for h, point in zip(held, points, strict=True) if point[2]):
        return 0.0
    return sum(bool(h) == point[2] for h, point in zip(held, points, strict=True)) / len(points)


def _share_free(mask: np.ndarray, box: Box) -> float:
    """Share of a mask's outline that does not lie along its box: a cut structure does."""
    padded = np.pad(mask, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rows, columns = np.nonzero(mask & ~core)
    x, y = columns + 0.5, rows + 0.5
    x0, y0, x1, y1 = box
    touching = (x < x0 + TOUCH_PX) | (x > x1 - TOUCH_PX) | (y < y0 + TOUCH_PX) | (y > y1 - TOUCH_PX)
    return 1.0 - float(touching.mean())
