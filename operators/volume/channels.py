"""Several series onto one grid: the channels of one volume.

All must share a Frame of Reference; one on another grid is resampled onto that of
the first channel, linearly, and a quality flag says so. Nothing is registered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from operators.errors import VolumeRefusal
from operators.job import QualityFlag, Volume
from operators.volume.pixels import outside_value
from operators.volume.tilt import NAME as TILT

SAME_GRID_MM = 0.01
LEAST_COVERED = 0.5


class ChannelFrameDiffers(VolumeRefusal):
    """Two channels are not in one coordinate system."""

    code = "RL-1444"

    def __init__(self, first_uid: str, other_uid: str) -> None:
        super().__init__(
            f"series {other_uid} is to be a channel beside series {first_uid}, but their Frames "
            "of Reference differ, so nobody knows how they lie to each other. Send series of one "
            "examination, or register them first."
        )


class ChannelUnitDiffers(VolumeRefusal):
    """Two channels hold other quantities than the bundle was trained on together."""

    code = "RL-1447"

    def __init__(self, first: Volume, other: Volume) -> None:
        super().__init__(
            f"series {other.series_instance_uid} is in {other.unit} and is to be a channel beside "
            f"series {first.series_instance_uid}, which is in {first.unit}. Send the series that "
            "the bundle's card names, with their Rescale Type."
        )


class ChannelApart(VolumeRefusal):
    """A channel does not cover the first one's volume."""

    code = "RL-1445"

    def __init__(self, first_uid: str, other_uid: str, covered: float) -> None:
        super().__init__(
            f"series {other_uid} covers {covered:.0%} of the volume of series {first_uid}, whose "
            f"channel it is to be (limit {LEAST_COVERED:.0%}). Send series of one region."
        )


class ChannelParts(VolumeRefusal):
    """A channel's series holds several volumes."""

    code = "RL-1446"

    def __init__(self, uid: str, parts: int) -> None:
        super().__init__(
            f"series {uid} holds {parts} volumes (acquisitions), and it can't be told which is "
            "the channel. Send each as a series of its own."
        )


def stack_channels(built: Sequence[tuple[Volume, ...]]) -> Volume:
    """One volume of all channels, on the grid of the first.

    Parameters
    ----------
    built : sequence of tuple of Volume
        What each channel's series gave, in the order of the channels.

    Raises
    ------
    ChannelParts, ChannelFrameDiffers, ChannelUnitDiffers, ChannelApart
    """
    for volumes in built:
        if len(volumes) != 1:
            raise ChannelParts(volumes[0].series_instance_uid, len(volumes))
    first, *others = (volumes[0] for volumes in built)
    arrays: list[np.ndarray] = []
    flags = list(first.quality)
    for other in others:
        if other.frame_of_reference_uid != first.frame_of_reference_uid:
            raise ChannelFrameDiffers(first.series_instance_uid, other.series_instance_uid)
        if other.unit != first.unit:
            raise ChannelUnitDiffers(first, other)
        array, covered = on_grid_of(first, other)
        if covered < LEAST_COVERED:
            raise ChannelApart(first.series_instance_uid, other.series_instance_uid, covered)
        text = f"Series {other.series_instance_uid} is channel {len(arrays) + 2}."
        remarks = other.quality
        if array is not other.array:
            text += f" It was resampled and covers {covered:.0%} of the grid."
            # It leans no more, or just as the first one, which has its own remark.
            remarks = tuple(flag for flag in remarks if flag.name != TILT)
        flags += [QualityFlag("channel", text), *remarks]
        arrays.append(array)
    return replace(
        first,
        channels=tuple(arrays),
        channel_headers=tuple(other.headers for other in others),
        quality=tuple(dict.fromkeys(flags)),
    )


def on_grid_of(first: Volume, other: Volume) -> tuple[np.ndarray, float]:
    """The values of one volume on another's grid, and the share of it that they cover.

    Returns
    -------
    array : numpy.ndarray, shape of `first.array`
        `other.array` itself where the grids are one; else float32, linear between
        centres, 0 (air, for HU) outside.
    covered : float
        0 to 1.
    """
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in reversed(first.array.shape)]))
    corners = np.vstack([corners.reshape(3, -1), np.ones(8)])
    moved = (first.lps_from_index - other.lps_from_index) @ corners
    if first.array.shape == other.array.shape and np.abs(moved).max() < SAME_GRID_MM:
        return other.array, 1.0
    # scipy works in the order of the array, (z, y, x).
    flip = np.eye(4)[[2, 1, 0, 3]]
    zyx = flip @ np.linalg.inv(other.lps_from_index) @ first.lps_from_index @ flip
    array = ndimage.affine_transform(
        other.array.astype(np.float32),
        zyx[:3, :3],
        zyx[:3, 3],
        output_shape=first.array.shape,
        order=1,
        mode="constant",
        cval=outside_value(first.unit),
    )
    size = np.array(other.array.shape)
    covered = 0.0
    for k in range(len(first.array)):  # slice by slice: coordinates are larger than values
        rows, columns = np.indices(first.array.shape[1:]).reshape(2, -1)
        at = zyx[:3] @ np.vstack([np.full(rows.shape, k), rows, columns, np.ones(rows.shape)])
        inside = ((at >= -0.5) & (at <= size[:, None] - 0.5)).all(axis=0)
        covered += inside.mean() / len(first.array)
    return array, float(covered)
