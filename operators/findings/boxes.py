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
        if not found:
            return {}
        # Labels fill a small part of most volumes, and what is outside need not be looked at.
        labels = segmentation.labels
        seen = labels.max(axis=0)
        outer = _span(counts.max(axis=1)), _span(seen.max(axis=1)), _span(seen.max(axis=0))
        boxes = ndimage.find_objects(labels[outer])
        return {number: _moved(boxes[number - 1], outer) for number in found}
    # One bit per segment: what is left of all slices, laid on one another, has every bit
    # where its segment lies.
    seen = np.bitwise_or.reduce(segmentation.labels, axis=0)
    rows, columns = np.bitwise_or.reduce(seen, axis=1), np.bitwise_or.reduce(seen, axis=0)
    bits = {number: seen.dtype.type(1 << (number - 1)) for number in found}
    return {
        number: (_span(counts[:, number]), _span(rows & bit), _span(columns & bit))
        for number, bit in bits.items()
    }


def _moved(box: Box, outer: Box) -> Box:
    """A box within `outer`, as one within the array."""
    k, j, i = (
        slice(inner.start + around.start, inner.stop + around.start)
        for inner, around in zip(box, outer, strict=True)
    )
    return k, j, i


def _span(held: np.ndarray) -> slice:
    where = np.flatnonzero(held)
    return slice(int(where[0]), int(where[-1]) + 1)
