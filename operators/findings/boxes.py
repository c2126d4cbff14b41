"""Where each segment lies in the array, so that nothing is measured on more than its box."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from operators.job import Segmentation

Box = tuple[slice, slice, slice]


def bounding_boxes(segmentation: Segmentation, counts: np.ndarray) -> Mapping[int, Box]:
    """Smallest box (k, j, i) around every label that occurs.

    Parameters
    ----------
    segmentation : Segmentation
        Labels on the grid of their volume.
    counts : numpy.ndarray, shape (slices, labels)
        As `tally` gives it.
    """
    found = [int(number) for number in np.flatnonzero(counts.any(axis=0))]
    if not segmentation.overlapping:
        boxes = ndimage.find_objects(segmentation.labels)
        return {number: boxes[number - 1] for number in found}
    # One bit per segment: what is left of all slices, laid on one another, has every bit
    # where its segment lies.
    seen = np.bitwise_or.reduce(segmentation.labels, axis=0)
    rows, columns = np.bitwise_or.reduce(seen, axis=1), np.bitwise_or.reduce(seen, axis=0)
    bits = {number: seen.dtype.type(1 << (number - 1)) for number in found}
    return {
        number: (_span(counts[:, number] > 0), _span(rows & bit > 0), _span(columns & bit > 0))
        for number, bit in bits.items()
    }


def _span(held: np.ndarray) -> slice:
    where = np.flatnonzero(held)
    return slice(int(where[0]), int(where[-1]) + 1)
