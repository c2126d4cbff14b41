"""From one box on one slice to a whole structure, slice by slice in both directions.

The next slice's box is that of the mask before it, widened; only the piece of the
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

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

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
    k: int,
    box: Box,
    segment_slice: Callable[[int, Box], np.ndarray],
    *,
    window: tuple[float, float],
    step_px: float,
    rule: FollowRule,
) -> Propagated:
    """Follow a structure from its prompted slice.

    Parameters
    ----------
    intensity : numpy.ndarray, shape (z, y, x)
        Values of the volume.
    k : int
        The prompted slice.
    box : tuple of float
        Pixel edges on it.
    segment_slice : callable
        (slice, box) → mask of that slice, shape (y, x), bool.
    window : tuple of float
        Lowest and highest value that the stop rule tells apart.
    step_px : float
        Distance of the slices in widths of a pixel.
    rule : FollowRule
        See there.
    """
    mask = np.zeros(intensity.shape, bool)
    mask[k] = largest_piece(segment_slice(k, box))
    if not mask[k].any():
        return Propagated(mask, k, k, (End.EMPTY, End.EMPTY))
    prompted = np.clip(intensity[k][mask[k]], *window).astype(np.float64)
    smallest_sd = rule.smallest_sd_share * (window[1] - window[0])
    mean, sd = float(prompted.mean()), max(float(prompted.std()), smallest_sd)
    reached, ends = [], []
    for step in (-1, 1):
        here, end = k, End.SERIES
        while 0 <= here + step < len(mask):
            found = segment_slice(here + step, bounding_box(mask[here], rule.widen_px))
            found = continuing_piece(found, mask[here])
            if not found.any():
                end = End.EMPTY
                break
            plane = np.clip(intensity[here + step], *window).astype(np.float32)
            alike = np.abs(ndimage.uniform_filter(plane, SMOOTHED_PX) - mean) <= ALIKE_SD * sd
            found = within_reach(found, mask[here], max(rule.slope * step_px, 1.0), alike)
            if abs(float(plane[found].mean(dtype=np.float64)) - mean) > rule.stop_sd * sd:
                end = End.INTENSITY
                break
            here += step
            mask[here] = found
        reached.append(here)
        ends.append(end)
    return Propagated(mask, reached[0], reached[1], (ends[0], ends[1]))


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
