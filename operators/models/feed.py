"""What a config's loader would have given: a volume in memory as the config wants it.

Index order is (i, j, k), the order in which MONAI reads files, and the affine is
RAS, which is what its readers give. Nothing is copied that need not be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from operators.errors import ModelRefusal
from operators.job import Volume
from operators.models.run_block import Input, Run

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class ChannelsUnfit(ModelRefusal):
    """The volume has not the channels that the bundle takes."""

    code = "RL-1442"

    def __init__(self, bundle: str, found: int, wanted: str) -> None:
        super().__init__(
            f"bundle '{bundle}': the volume has {found} channels, it takes {wanted}. "
            "Name a series for each in `run.channels` of its card."
        )


def feed(
    volume: Volume, run: Run, keys: tuple[str, ...], *, channel_first: bool
) -> Iterator[dict[str, Any]]:
    """The items to run, one for a volume, one per slice for a network of two dimensions.

    Parameters
    ----------
    volume : Volume
        Array (z, y, x); with `channels`, more of them. For ``rgb``, (3, rows, columns).
    run : Run
        The card's block.
    keys : tuple of str
        What the config's loader would have read. With several, one channel each.
    channel_first : bool
        Hand over with a channel axis.

    Yields
    ------
    dict
        Key → monai.data.MetaTensor, float32: (X, Y, Z) or (X, Y), with channels
        first or, for a colour image that the config itself turns, last. Images that the
        config names apart come with ``<key>_meta_dict`` behind them.

    Raises
    ------
    ChannelsUnfit
        Another number of channels than the card names.
    """
    arrays = (volume.array, *volume.channels)
    if len(arrays) != max(1, len(run.channels)):
        raise ChannelsUnfit(volume.bundle, len(arrays), str(max(1, len(run.channels))))
    affine = RAS_FROM_LPS @ volume.lps_from_index
    if run.input is Input.RGB:
        yield {keys[0]: _colour(volume, affine, channel_first=channel_first)}
        return
    names = [channel.name for channel in run.channels]
    apart = bool(names) and (len(keys) > 1 or keys[0] in names)
    only = "image" if "image" in keys else keys[0]  # beside a label, which nobody has
    if apart and not set(names) <= set(keys):
        raise ChannelsUnfit(volume.bundle, len(arrays), f"images called {', '.join(keys)}")
    for at, place in _parts(volume, run, affine):
        cut = [np.ascontiguousarray(array[at].T) for array in arrays]
        if apart:
            images = {
                name: _tensor(array, place, volume, channel_first=channel_first)
                for name, array in zip(names, cut, strict=True)
            }
            # A config that puts its images together may ask for what a loader says of each.
            said = {f"{name}_meta_dict": dict(image.meta) for name, image in images.items()}
            yield images | said
        elif len(cut) == 1:
            yield {only: _tensor(cut[0], place, volume, channel_first=channel_first)}
        else:  # as a loader stacks the files of a list
            yield {keys[0]: _stack(np.stack(cut), place, volume)}


def _parts(volume: Volume, run: Run, affine: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
    """Index into (z, y, x) and affine of what it gives: the whole, or each slice."""
    if run.input is Input.VOLUME:
        yield slice(None), affine
        return
    for k in range(len(volume.array)):
        place = affine.copy()
        place[:3, 3] = affine[:3] @ (0, 0, k, 1)
        yield k, place


def _tensor(array: np.ndarray, affine: np.ndarray, volume: Volume, *, channel_first: bool) -> Any:
    if channel_first:
        return _stack(array[None], affine, volume)
    return _meta(array, array.shape, affine, volume, "no_channel")


def _stack(arrays: np.ndarray, affine: np.ndarray, volume: Volume) -> Any:
    return _meta(arrays, arrays.shape[1:], affine, volume, 0)


def _colour(volume: Volume, affine: np.ndarray, *, channel_first: bool) -> Any:
    if volume.array.ndim != 3 or len(volume.array) != 3:
        raise ChannelsUnfit(volume.bundle, len(volume.array), "one colour image (3 channels)")
    xy = volume.array.transpose(0, 2, 1)  # (3, columns, rows)
    if channel_first:
        return _meta(np.ascontiguousarray(xy), xy.shape[1:], affine, volume, 0)
    last = np.ascontiguousarray(xy.transpose(1, 2, 0))
    return _meta(last, last.shape[:2], affine, volume, 2)


def _meta(
    array: np.ndarray, shape: tuple[int, ...], affine: np.ndarray, volume: Volume, channel: Any
) -> Any:
    import torch
    from monai.data import MetaTensor

    meta = {
        "original_channel_dim": channel,
        "spatial_shape": np.array(shape),
        "filename_or_obj": volume.series_instance_uid,
        "space": "RAS",
    }
    return MetaTensor(
        torch.from_numpy(np.asarray(array)).float(), affine=torch.from_numpy(affine), meta=meta
    )
