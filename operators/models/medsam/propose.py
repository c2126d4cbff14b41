"""From points to the box that they mean, for networks that were trained on boxes only.

LiteMedSAM's point tokens are in its weights and run, but nothing taught them: a point in
the middle of a structure gives an empty mask, and a point added to a box makes it worse
(README.md of the bundle). So boxes of many sizes are tried round the points, and the one
is taken whose mask is surest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from operators.models.medsam.picture import Box, Point
from operators.models.medsam.propagate import bounding_box, largest_piece

SIDES = 9
SMALLEST_SHARE, LARGEST_SHARE = 1 / 12, 1 / 1.4  # of the slice's longer side


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


@dataclass(frozen=True)
class Answer:
    """What the network says to one candidate.

    Attributes
    ----------
    mask : numpy.ndarray, shape (y, x), bool
        On the grid of the slice.
    iou : float
        The network's estimate of its IoU, not calibrated: good for an order only. On 14
        slices of one sarcoma it chose answers with a mean Dice of .72 (lowest .44), the
        stability of the outline .70 (.31); the best candidates had .82 (.61).
    """

    mask: np.ndarray
    iou: float


def best_box(answers: Sequence[Answer], points: Sequence[Point]) -> Box | None:
    """The tight box of the answer that holds the points and is surest.

    What counts is the share of points on their side, times the estimated IoU.

    Parameters
    ----------
    answers : sequence of Answer
        To the candidates.
    points : sequence of Point
        In pixel edges.

    Returns
    -------
    tuple of float or None
        None where no mask holds a point inside.
    """
    best, best_score = None, 0.0
    for answer in answers:
        mask = largest_piece(answer.mask)
        score = _share_right(mask, points) * answer.iou
        if score > best_score:
            best, best_score = bounding_box(mask, 0.0), score
    return best


def _share_right(mask: np.ndarray, points: Sequence[Point]) -> float:
    """Share of the points that are on their side of the mask; 0 where none inside is."""
    rows, columns = mask.shape
    held = [mask[min(int(y), rows - 1), min(int(x), columns - 1)] for x, y, _ in points]
    if not any(h for h, point in zip(held, points, strict=True) if point[2]):
        return 0.0
    return sum(bool(h) == point[2] for h, point in zip(held, points, strict=True)) / len(points)
