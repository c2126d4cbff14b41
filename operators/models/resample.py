"""Probabilities on the network's grid to labels on the source grid, in bounded memory.

The argmax comes last: interpolating labels would make blocks of the network's
voxels. Eight channels of a 512 x 512 x 300 CT would be 2.5 GB in float32, so a
few slices are interpolated at a time and only their argmax is kept.
"""

from __future__ import annotations

from typing import Any

SLAB_VOXELS = 4 << 20


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
    import torch.nn.functional as functional

    source = probabilities.as_tensor().float()
    channels, *size = source.shape
    source_from_target = torch.linalg.inv(probabilities.affine.double()) @ affine.double()
    kind = torch.uint8 if channels <= 256 else torch.int16
    labels = torch.zeros(shape, dtype=kind)
    # grid_sample wants the last axis first, and -1 to 1 from centre to centre.
    scale = torch.tensor([2.0 / max(n - 1, 1) for n in size], dtype=torch.float64)
    step = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
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
        labels[start : start + len(x)] = values.argmax(dim=0).to(kind) * inside
    return labels
