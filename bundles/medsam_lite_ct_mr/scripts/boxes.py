"""Boxes as a person draws them: round the structure, and a little too large.

A box is (x0, y0, x1, y1) in pixel edges: the far corner is one past the last pixel.
"""

from __future__ import annotations

import numpy as np

from operators.models.medsam.picture import Box, Crop

COARSE_MM = 1.0  # from this pixel on, one pixel too large is as loose as five on a finer grid
LOOSE_PX = 5.0
LOOSE_COARSE_PX = 1.0


def tight_box(mask: np.ndarray) -> Box:
    """Pixel edges round a mask, shape (y, x); it holds at least one pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return (
        float(columns[0]),
        float(rows[0]),
        float(columns[-1] + 1),
        float(rows[-1] + 1),
    )


def looseness_px(pixel_mm: float) -> float:
    """How far outward a side may move: 5 pixels, 1 on grids of 1 mm or coarser."""
    return LOOSE_COARSE_PX if pixel_mm >= COARSE_MM else LOOSE_PX


def loose_box(
    tight: Box, shape: tuple[int, int], most_px: float, random: np.random.Generator
) -> Box:
    """Each side moved outward on its own, evenly between 0 and `most_px`.

    Parameters
    ----------
    tight : tuple of float
        Of `tight_box`.
    shape : tuple of int
        Rows and columns of the slice; the box stays inside.
    most_px : float
        Of `looseness_px`.
    random : numpy.random.Generator
        Draws four numbers: left, top, right, bottom.

    Returns
    -------
    tuple of float
        Pixel edges, never inside the tight box.
    """
    left, top, right, bottom = random.uniform(0.0, most_px, 4)
    return (
        float(max(tight[0] - left, 0.0)),
        float(max(tight[1] - top, 0.0)),
        float(min(tight[2] + right, shape[1])),
        float(min(tight[3] + bottom, shape[0])),
    )


def random_crop(box: Box, shape: tuple[int, int], random: np.random.Generator) -> Crop:
    """A square of 1.5 to 2.2 times the longer side of the box, not quite centred on it.

    Parameters
    ----------
    box : tuple of float
        Pixel edges; stays inside the crop.
    shape : tuple of int
        Rows and columns of the slice; the crop is cut where the slice ends.
    random : numpy.random.Generator
        Draws the size and the place.

    Returns
    -------
    Crop
    """
    x0, y0, x1, y1 = box
    side = max(x1 - x0, y1 - y0) * random.uniform(1.5, 2.2)
    shift = random.uniform(-0.1, 0.1, 2) * side
    left, top = (x0 + x1 - side) / 2 + shift[0], (y0 + y1 - side) / 2 + shift[1]
    return Crop(
        top=max(int(np.floor(min(top, y0))), 0),
        left=max(int(np.floor(min(left, x0))), 0),
        bottom=min(int(np.ceil(max(top + side, y1))), shape[0]),
        right=min(int(np.ceil(max(left + side, x1))), shape[1]),
    )
