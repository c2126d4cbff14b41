"""Structures that are cut off where the image ends: their numbers are of a part.

A mask that touches the first or last slice, the border of the matrix, or pixels that
the source calls padding (a scanner's round field of view) may go on outside. Nobody can
tell from the image; so it is said, by name, and no number is changed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import binary_dilation

from operators.findings.tally import tally
from operators.job import QualityFlag, Segmentation

NAME = "incomplete-coverage"
_PLACES = ("first slice", "last slice", "edge of the field of view")


def remark_coverage(segmentation: Segmentation) -> Segmentation:
    """`segmentation`, its volume with a flag per place where structures are cut off.

    Slices are not judged again where the volume already has such a flag: whoever followed
    a structure through the slices knows where it ended.

    Raises
    ------
    GridMismatch, UndescribedLabel
        See `tally`.
    """
    volume = segmentation.volume
    told = any(flag.name == NAME for flag in volume.quality)
    cut = cut_off(segmentation)
    flags = [
        QualityFlag(
            NAME,
            f"Touches the {place}, may go on outside and be larger: {', '.join(labels)}.",
        )
        for place, labels in cut.items()
        if labels and not (told and place in _PLACES[:2])
    ]
    if not flags:
        return segmentation
    return replace(segmentation, volume=replace(volume, quality=(*volume.quality, *flags)))


def cut_off(segmentation: Segmentation) -> dict[str, list[str]]:
    """Labels of the structures that touch an end of the image, by place.

    Parameters
    ----------
    segmentation : Segmentation
        Of a stack or of a 2D image, which has no first and last slice.

    Returns
    -------
    dict
        "first slice", "last slice", "edge of the field of view" → labels, in the order of
        the segments. Slices are in the order of the volume's.
    """
    volume, counts = segmentation.volume, tally(segmentation)
    found: dict[str, list[str]] = {place: [] for place in _PLACES}
    outside = [_outside(volume.padding, k) for k in range(len(counts))]
    for segment in segmentation.segments:
        slices = np.flatnonzero(counts[:, segment.number])
        if not len(slices):
            continue
        last = len(counts) - 1
        edge = any(_touches(segmentation.mask(segment.number, int(k)), outside[k]) for k in slices)
        stack = volume.plane is None
        for place, touches in zip(
            _PLACES, (stack and slices[0] == 0, stack and slices[-1] == last, edge), strict=True
        ):
            if touches:
                found[place].append(segment.label)
    return found


def _outside(padding: np.ndarray | None, k: int) -> np.ndarray | None:
    """Pixels of slice k that are no image or lie next to such a one; None where all are."""
    if padding is None or not padding[k].any():
        return None
    return np.asarray(binary_dilation(padding[k]))


def _touches(mask: np.ndarray, outside: np.ndarray | None) -> bool:
    border = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
    return bool(border or (outside is not None and (mask & outside).any()))
