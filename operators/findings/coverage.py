"""Structures that are cut off where the image ends: their numbers are of a part.

A mask that touches the first or last slice, the border of the matrix, or pixels that
the source calls padding (a scanner's round field of view) may go on outside. Nobody can
tell from the image; so it is said, by name, and no number is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.ndimage import binary_dilation

from operators.findings.boxes import Box, bounding_boxes
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
    boxes = bounding_boxes(segmentation, counts)
    slices, rows, columns = segmentation.labels.shape
    stack = volume.plane is None
    outside = [_outside(volume.padding, k) for k in range(slices)]
    found: dict[str, list[str]] = {place: [] for place in _PLACES}
    for segment in segmentation.segments:
        if segment.number not in boxes:
            continue
        box = boxes[segment.number]
        edge = (
            box[1].start == 0
            or box[1].stop == rows
            or box[2].start == 0
            or box[2].stop == columns
            or _touches_padding(segmentation, segment.number, box, outside)
        )
        for place, touches in zip(
            _PLACES,
            (stack and box[0].start == 0, stack and box[0].stop == slices, edge),
            strict=True,
        ):
            if touches:
                found[place].append(segment.label)
    return found


def _outside(padding: np.ndarray | None, k: int) -> np.ndarray | None:
    """Pixels of slice k that are no image or lie next to such a one; None where all are."""
    if padding is None or not padding[k].any():
        return None
    return np.asarray(binary_dilation(padding[k]))


def _touches_padding(
    segmentation: Segmentation, number: int, box: Box, outside: Sequence[np.ndarray | None]
) -> bool:
    inside = ((k, outside[k]) for k in range(box[0].start, box[0].stop))
    return any(
        pixels is not None and bool((segmentation.mask(number, k) & pixels).any())
        for k, pixels in inside
    )
