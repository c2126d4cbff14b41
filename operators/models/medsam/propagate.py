"""From marks on some slices to a whole structure, slice by slice in both directions.

Between two marked slices the boxes are interpolated. Beyond the outer ones the next
slice's box is that of the mask before it, widened; only the piece of the
new mask that continues the one before is kept, and its outline may move no farther
than the slices are apart (a surface of 45 degrees), but inwards wherever the tissue
changes: without that a mask that once falls upon a part of the structure stays
there. What ends it: an empty mask, the end
of the series, or a mean intensity that leaves the prompted slice's by more than one
standard deviation. On 18 structures that last rule lifted the median Dice from .61
(no stop) to .78, the same as with the extent known; area, overlap and predicted
IoU hardly ever stopped anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import numpy as np
from scipy import ndimage

from operators.models.medsam.picture import Box

# What lay deep inside stays inside where its 3 x 3 mean is within 2 SD of the prompted mean.
SMOOTHED_PX = 3
ALIKE_SD = 2.0


class End(Enum):
    """Why a direction was not followed further."""

    INTENSITY = "its mean intensity changed"
    EMPTY = "nothing was found on the next slice"
    SERIES = "the series ends there"
    MARKED = "it was marked that far"


@dataclass(frozen=True)
class FollowRule:
    """How a structure is followed, and what ends it.

    Attributes
    ----------
    widen_px : float
        Added to each side of a mask's bounding box for the next slice.
    stop_sd : float
        How many standard deviations of the prompted slice's mask the mean may move.
    smallest_sd_share : float
        Of the window's width: a smaller standard deviation is not believed (a phantom
        or a padded region has none, and any change would end it).
    slope : float
        How far the outline may move from slice to slice, in distances of slices.
    """

    widen_px: float
    stop_sd: float
    smallest_sd_share: float
    slope: float


@dataclass(frozen=True)
class Propagated:
    """A structure as far as it was followed.

    Attributes
    ----------
    mask : numpy.ndarray, shape (z, y, x), bool
        On the grid of the volume.
    first, last : int
        Slices that hold it, both included; equal to the prompted one where it is
        empty or was not followed.
    ends : tuple of End
        Why it ends before `first` and after `last`.
    """

    mask: np.ndarray
    first: int
    last: int
    ends: tuple[End, End]


def propagate(
    intensity: np.ndarray,
    marked: Mapping[int, np.ndarray],
    segment_slice: Callable[[int, Box], np.ndarray],
    *,
    window: tuple[float, float],
    step_px: float,
    rule: FollowRule,
    onward: bool = True,
) -> Propagated:
    """Follow a structure from its marked slices.

    Parameters
    ----------
    intensity : numpy.ndarray, shape (z, y, x)
        Values of the volume.
    marked : mapping of int to numpy.ndarray, shape (y, x), bool
        The mask of each marked slice and of those between, by k; at least one.
    segment_slice : callable
        (slice, box) → mask of that slice, shape (y, x), bool.
    window : tuple of float
        Lowest and highest value that the stop rule tells apart.
    step_px : float
        Distance of the slices in widths of a pixel.
    rule : FollowRule
        See there.
    onward : bool
        Whether it is followed beyond the outer marked slices.
    """
    mask = np.zeros(intensity.shape, bool)
    found = {k: piece for k, piece in sorted(marked.items()) if piece.any()}
    if not found:
        k = min(marked)
        return Propagated(mask, k, k, (End.EMPTY, End.EMPTY))
    mask[list(found)] = list(found.values())
    first, last = min(found), max(found)
    if not onward:
        return Propagated(mask, first, last, (End.MARKED, End.MARKED))
    values = np.concatenate([intensity[k][piece] for k, piece in found.items()])
    prompted = np.clip(values, *window).astype(np.float64)
    smallest_sd = rule.smallest_sd_share * (window[1] - window[0])
    mean, sd = float(prompted.mean()), max(float(prompted.std()), smallest_sd)
    reached, ends = [], []
    for start, step in ((first, -1), (last, 1)):
        here, end = start, End.SERIES
        while 0 <= here + step < len(mask):
            look = segment_slice(here + step, bounding_box(mask[here], rule.widen_px))
            look = continuing_piece(look, mask[here])
            if not look.any():
                end = End.EMPTY
                break
            plane = np.clip(intensity[here + step], *window).astype(np.float32)
            alike = np.abs(ndimage.uniform_filter(plane, SMOOTHED_PX) - mean) <= ALIKE_SD * sd
            look = within_reach(look, mask[here], max(rule.slope * step_px, 1.0), alike)
            if abs(float(plane[look].mean(dtype=np.float64)) - mean) > rule.stop_sd * sd:
                end = End.INTENSITY
                break
            here += step
            mask[here] = look
        reached.append(here)
        ends.append(end)
    return Propagated(mask, reached[0], reached[1], (ends[0], ends[1]))


def interpolated(boxes: Mapping[int, Box]) -> dict[int, Box]:
    """Boxes of marked slices, and of all slices between, moving evenly with the slice.

    Parameters
    ----------
    boxes : mapping of int to tuple of float
        Pixel edges by k.
    """
    filled = dict(boxes)
    for before, after in pairwise(sorted(boxes)):
        for k in range(before + 1, after):
            share = (k - before) / (after - before)
            ends = zip(boxes[before], boxes[after], strict=True)
            x0, y0, x1, y1 = (one + share * (other - one) for one, other in ends)
            filled[k] = (x0, y0, x1, y1)
    return dict(sorted(filled.items()))


def bounding_box(mask: np.ndarray, widen_px: float) -> Box:
    """Pixel edges round a mask with at least one pixel, widened, inside the slice."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    return (
        max(float(columns[0]) - widen_px, 0.0),
        max(float(rows[0]) - widen_px, 0.0),
        # The far edge of the last pixel is its index + 1.
        min(float(columns[-1]) + 1 + widen_px, float(width)),
        min(float(rows[-1]) + 1 + widen_px, float(height)),
    )


def within_reach(
    mask: np.ndarray, before: np.ndarray, reach_px: float, alike: np.ndarray
) -> np.ndarray:
    """The mask, its outline moved to no farther than `reach_px` from that of the one before.

    Parameters
    ----------
    mask, before : numpy.ndarray, shape (y, x), bool
        Of this slice and of the one before; they have pixels in common.
    reach_px : float
        At least 1.
    alike : numpy.ndarray, shape (y, x), bool
        Pixels that look like the structure: only those are put back.

    Returns
    -------
    numpy.ndarray, shape (y, x), bool
        One connected piece.
    """
    core = (ndimage.distance_transform_edt(before) > reach_px) & alike
    surroundings = ndimage.distance_transform_edt(~before) <= reach_px
    return continuing_piece((mask | core) & surroundings, before)


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """The connected piece with the most pixels; empty stays empty."""
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    return pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))


def continuing_piece(mask: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The connected piece that shares the most pixels with the mask before; none: empty."""
    pieces, _ = ndimage.label(mask)
    shared = np.bincount(pieces[before & mask])
    if not len(shared):
        return np.zeros_like(mask)
    return pieces == int(np.argmax(shared))
