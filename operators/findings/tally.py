"""How many voxels of each label lie in each slice, in one pass over a label map.

Everything that is measured or written starts from this table: volumes, which
frames a SEG needs, and the slice of a structure's largest cross-section.
"""

from __future__ import annotations

import numpy as np

from operators.errors import ModelRefusal
from operators.job import Segmentation


class UndescribedLabel(ModelRefusal):
    """A label map holds a value that no segment describes."""

    code = "RL-0460"

    def __init__(self, series_uid: str, bundle: str, label: int, voxels: int) -> None:
        super().__init__(
            f"series {series_uid}: bundle {bundle} gave label {label} to {voxels} voxels, and its "
            f"card describes no segment {label}. Correct `segments` in the bundle's card.yaml."
        )


class GridMismatch(ModelRefusal):
    """A label map does not lie on the grid of its volume."""

    code = "RL-0461"

    def __init__(
        self, series_uid: str, bundle: str, found: tuple[int, ...], wanted: tuple[int, ...]
    ) -> None:
        super().__init__(
            f"series {series_uid}: bundle {bundle} gave labels of shape {found} for a volume of "
            f"shape {wanted} (slices, rows, columns). Labels must be put back on the source grid: "
            f"correct the bundle's postprocessing."
        )


def tally(segmentation: Segmentation) -> np.ndarray:
    """Count the voxels of every label in every slice.

    Parameters
    ----------
    segmentation : Segmentation
        Labels on the grid of their volume.

    Returns
    -------
    numpy.ndarray, shape (slices, highest segment number + 1), int64
        ``counts[k, n]``: voxels of label n in slice k. Column 0, the background, is 0.

    Raises
    ------
    GridMismatch
        The labels have another shape than the volume, or the volume has not one
        source header per slice.
    UndescribedLabel
        A label has no segment.
    """
    labels, volume = segmentation.labels, segmentation.volume
    grid = (len(volume.headers), *volume.array.shape[1:])
    if labels.shape != volume.array.shape or labels.shape != grid:
        raise GridMismatch(volume.series_instance_uid, volume.bundle, labels.shape, grid)
    numbers = [segment.number for segment in segmentation.segments]
    highest = 0 if segmentation.overlapping else int(labels.max(initial=0))
    width = max([*numbers, highest]) + 1
    counts = np.zeros((len(labels), width), np.int64)
    for k, plane in enumerate(labels):
        if segmentation.overlapping:
            for number in numbers:
                counts[k, number] = np.count_nonzero(segmentation.mask(number, k))
            continue
        # Counting only what is not background keeps bincount's int64 copies small.
        counts[k] = np.bincount(plane[plane != 0], minlength=width)
    per_label = counts.sum(axis=0)
    for label in np.flatnonzero(per_label):
        if label not in numbers:
            raise UndescribedLabel(
                volume.series_instance_uid, volume.bundle, int(label), int(per_label[label])
            )
    return counts
