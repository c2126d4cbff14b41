"""Probabilities on the network's grid to labels or planes on the source grid, in bounded memory.

The decision comes last: interpolating labels would make blocks of the network's
voxels. Eight channels of a 512 x 512 x 300 CT would be 2.5 GB in float32, so a
few slices are interpolated at a time and only what was decided is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

SLAB_VALUES = 32 << 20  # of all channels together: 128 MB


def labels_on_grid(probabilities: Any, affine: Any, shape: tuple[int, int, int]) -> Any:
    """Interpolate each channel to another grid (trilinear) and take the argmax.

    Parameters
    ----------
    probabilities : monai.data.MetaTensor, shape (C, X, Y, Z)
        One channel a class, channel 0 background; its `affine` is index → mm.
    affine : torch.Tensor, shape (4, 4)
        Index → mm of the wanted grid, same world space.
    shape : tuple of int
        (X, Y, Z) of the wanted grid.

    Returns
    -------
    torch.Tensor, shape (X, Y, Z), uint8 or int16
        Class of the largest probability. Outside the network's grid the nearest
        border value holds, up to half a voxel; farther out it is background.
    """
    import torch

    kind = torch.uint8 if len(probabilities) <= 256 else torch.int16
    labels = torch.zeros(shape, dtype=kind)
    for start, values, inside in _slabs(probabilities, affine, shape):
        labels[start : start + len(inside)] = values.argmax(dim=0).to(kind) * inside
    return labels


def planes_on_grid(
    probabilities: Any, affine: Any, shape: tuple[int, int, int], threshold: float, count: int
) -> np.ndarray:
    """Interpolate each channel to another grid (trilinear) and cut it at a threshold.

    Parameters
    ----------
    probabilities, affine, shape
        As for `labels_on_grid`; segments may overlap, and there is no background.
    threshold : float
        In the segment is what lies at or above it, as `AsDiscreted` has it.
    count : int
        Channels that are kept, from the first.

    Returns
    -------
    numpy.ndarray, shape (X, Y, Z), unsigned
        Bit n of a voxel: whether it is in channel n. Outside the network's grid none.
    """
    planes = np.zeros(shape, plane_kind(count))
    for start, values, inside in _slabs(probabilities[:count], affine, shape):
        part = planes[start : start + len(inside)]
        for n, channel in enumerate(values):
            part |= ((channel >= threshold) & inside).numpy().astype(part.dtype) << n
    return planes


def unpacked(planes: np.ndarray, count: int) -> Any:
    """Bits of `planes_on_grid` as channels of 0 and 1, (C, X, Y, Z), uint8 torch.Tensor."""
    import torch

    return torch.stack(
        [
            torch.from_numpy(((planes >> planes.dtype.type(n)) & 1).astype("u1"))
            for n in range(count)
        ]
    )


def plane_kind(count: int) -> np.dtype[Any]:
    """The smallest unsigned integer with `count` bits, at most 64."""
    size = next(size for size in (1, 2, 4, 8) if count <= 8 * size)
    return np.dtype(f"u{size}")


def _slabs(
    probabilities: Any, affine: Any, shape: tuple[int, int, int]
) -> Iterator[tuple[int, Any, Any]]:
    """First index, interpolated channels (C, x, Y, Z) and whether the grid reaches there."""
    import torch
    import torch.nn.functional as functional

    source = probabilities.as_tensor().float()
    size = source.shape[1:]
    source_from_target = torch.linalg.inv(probabilities.affine.double()) @ affine.double()
    # grid_sample wants the last axis first, and -1 to 1 from centre to centre.
    scale = torch.tensor([2.0 / max(n - 1, 1) for n in size], dtype=torch.float64)
    step = max(1, SLAB_VALUES // (len(source) * shape[1] * shape[2]))
    y, z = torch.meshgrid(
        torch.arange(shape[1], dtype=torch.float64),
        torch.arange(shape[2], dtype=torch.float64),
        indexing="ij",
    )
    last = torch.tensor(size, dtype=torch.float64) - 1
    for start in range(0, shape[0], step):
        x = torch.arange(start, min(start + step, shape[0]), dtype=torch.float64)
        index = torch.stack(
            [
                source_from_target[axis, 0] * x[:, None, None]
                + (source_from_target[axis, 1] * y + source_from_target[axis, 2] * z)[None]
                + source_from_target[axis, 3]
                for axis in range(3)
            ],
            dim=-1,
        )
        inside = ((index >= -0.5) & (index <= last + 0.5)).all(dim=-1)
        grid = (index * scale - 1.0).float().flip(-1)
        values = functional.grid_sample(
            source[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True
        )[0]
        yield start, values, inside
