"""What a person drew, and the box round what was meant by it.

All shapes are worked out in millimetres on the plane of the image, since a circle is one
in the patient, not in pixels that are no squares.
"""

from __future__ import annotations

from enum import Enum

import numpy as np

# Of a length: how wide the structure is taken to be across its longest diameter. Over the
# contours of 30 head-and-neck training patients (1,424 slices) and the CT of STS_002 (16),
# the box of an ellipse of this ratio overlaps the contour's own box best together (median
# IoU .74 and .85; a square of the length .63 and .66, the box of the two ends .60 and .40).
SHORT_OF_LONG = 0.7


class Shape(Enum):
    """How the points of a drawing are to be read."""

    LENGTH = "length"  # two ends of the longest diameter
    BIDIRECTIONAL = "bidirectional"  # ends of the long, then of the short diameter
    ELLIPSE = "ellipse"  # ends of the major, then of the minor axis (PS3.3 C.18.6.1.2)
    CIRCLE = "circle"  # centre and one point of it
    OUTLINE = "outline"  # corners of an outline, a rectangle too
    POINT = "point"  # a point of the structure


POINTS_NEEDED = {
    Shape.LENGTH: 2,
    Shape.BIDIRECTIONAL: 4,
    Shape.ELLIPSE: 4,
    Shape.CIRCLE: 2,
    Shape.OUTLINE: 3,
    Shape.POINT: 1,
}


def box_round(shape: Shape, points_mm: np.ndarray) -> tuple[float, float, float, float]:
    """The box along the rows and columns round a drawing.

    Parameters
    ----------
    shape : Shape
        Not POINT, which has no extent.
    points_mm : numpy.ndarray, shape (n, 2), float64
        x along the rows, y along the columns, mm from the outer corner of the first
        pixel; `POINTS_NEEDED` of them (an outline may have more).

    Returns
    -------
    tuple of float
        x0, y0, x1, y1, mm; not cut at the edge of the image.
    """
    if shape is Shape.OUTLINE:
        low, high = points_mm.min(axis=0), points_mm.max(axis=0)
    elif shape is Shape.CIRCLE:
        radius = float(np.linalg.norm(points_mm[1] - points_mm[0]))
        low, high = points_mm[0] - radius, points_mm[0] + radius
    else:
        low, high = _round_ellipse(shape, points_mm)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _round_ellipse(shape: Shape, points_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Box of the ellipse with the drawn diameters, and of their ends."""
    long_half = (points_mm[1] - points_mm[0]) / 2
    across = np.array([-long_half[1], long_half[0]])
    if shape is Shape.LENGTH:
        short_half = SHORT_OF_LONG * across
    else:
        # Its length alone: readers draw the short diameter not quite square to the long one.
        length = max(float(np.linalg.norm(across)) * 2, 1e-9)
        share = float(np.linalg.norm(points_mm[3] - points_mm[2])) / length
        short_half = share * across
    # The farthest point of an ellipse along an axis: half diameters added as squares.
    reach = np.hypot(long_half, short_half)
    centre = points_mm[:2].mean(axis=0)
    low = np.minimum(centre - reach, points_mm.min(axis=0))
    high = np.maximum(centre + reach, points_mm.max(axis=0))
    return low, high
