"""Sliding windows with the argmax taken as they go: labels of many channels in bounded memory.

105 channels of a trunk CT at 1.5 mm are 12 GB in float32, and a softmax doubles
them. Windows are visited in the order of one axis, so only a band as thick as
one window has to be kept: what lies before the next window's start is final.
The windows, their weights and their sums are those of MONAI's
`sliding_window_inference`; nothing is divided by the sum of the weights, which
is the same for all channels.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any


def windowed_argmax(inferer: Any, image: Any, network: Any) -> Any:
    """Label of the largest blended score at each voxel.

    Parameters
    ----------
    inferer : monai.inferers.SlidingWindowInferer
        Gives window, overlap, blending and padding.
    image : torch.Tensor, shape (1, C, X, Y, Z), float32
        On the network's device.
    network : callable
        (N, C, x, y, z) → (N, classes, x, y, z), same window.

    Returns
    -------
    torch.Tensor, shape (X, Y, Z), uint8 or int16, on the CPU
        Index of the largest channel; the lower one of two that are equal.

    Raises
    ------
    ValueError
        The network answers with another shape than it was asked.
    """
    import torch
    import torch.nn.functional as functional
    from monai.data.utils import compute_importance_map, dense_patch_slices, get_valid_patch_size
    from monai.utils import ensure_tuple_rep, fall_back_tuple

    size = tuple(image.shape[2:])
    window = fall_back_tuple(inferer.roi_size, size)
    overlap = ensure_tuple_rep(inferer.overlap, 3)
    before = [max(w - n, 0) // 2 for n, w in zip(size, window, strict=True)]
    after = [max(w - n, 0) - b for n, w, b in zip(size, window, before, strict=True)]
    if any(before) or any(after):
        sides = [side for axis in (2, 1, 0) for side in (before[axis], after[axis])]
        image = functional.pad(image, sides, mode=str(inferer.padding_mode), value=inferer.cval)
    padded = tuple(image.shape[2:])
    interval = tuple(
        w if w == n else max(int(w * (1 - part)), 1)
        for w, n, part in zip(window, padded, overlap, strict=True)
    )
    weight = compute_importance_map(
        get_valid_patch_size(padded, window),
        mode=inferer.mode,
        sigma_scale=inferer.sigma_scale,
        device=image.device,
        dtype=image.dtype,
    )
    axis = max(range(3), key=lambda a: padded[a] / window[a])  # the thinnest band
    windows = sorted(dense_patch_slices(padded, window, interval), key=lambda w: w[axis].start)

    labels = torch.zeros(padded, dtype=torch.uint8)
    band, base = None, 0
    for start, group in groupby(windows, key=lambda w: w[axis].start):
        if band is not None:
            _settle(labels, band, axis, base, start - base)
            kept = band.narrow(axis + 1, start - base, window[axis] - (start - base)).clone()
            band.zero_().narrow(axis + 1, 0, kept.shape[axis + 1]).copy_(kept)
        base = start
        for batch in _batches(list(group), inferer.sw_batch_size):
            scores = network(torch.cat([image[(slice(None), slice(None), *w)] for w in batch]))
            if not isinstance(scores, torch.Tensor) or tuple(scores.shape[2:]) != tuple(window):
                raise ValueError(f"the network does not answer in its window {window}")
            if band is None:
                shape = [scores.shape[1], *padded]
                shape[axis + 1] = window[axis]
                band = torch.zeros(shape, dtype=image.dtype, device=image.device)
                labels = labels if shape[0] <= 256 else labels.to(torch.int16)
            for place, score in zip(batch, scores, strict=True):
                inside = list(place)
                inside[axis] = slice(0, window[axis])
                band[(slice(None), *inside)].addcmul_(score, weight)
    _settle(labels, band, axis, base, window[axis])
    return labels[tuple(slice(b, b + n) for b, n in zip(before, size, strict=True))].contiguous()


def _settle(labels: Any, band: Any, axis: int, base: int, thickness: int) -> None:
    """Write the labels of the band's first `thickness` layers."""
    final = band.narrow(axis + 1, 0, thickness).argmax(dim=0)
    labels.narrow(axis, base, thickness).copy_(final)


def _batches(windows: list[Any], size: int) -> list[list[Any]]:
    return [windows[at : at + size] for at in range(0, len(windows), size)]
