"""Probabilities on the network's grid to labels or planes on the source grid, in bounded memory.

The decision comes last: interpolating labels would make blocks of the network's
voxels. Between eight voxels of which one class is the likeliest in all, no other
class can be (a trilinear value is a mean of theirs, with weights that do not
depend on the class), so channels are interpolated only along borders: the answer
is that of interpolating them everywhere, in a fraction of its time. A few slices
are taken at a time and only what was decided is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

SLAB_VOXELS = 4 << 20
AT_ONCE_VALUES = 16 << 20  # of all channels together: 64 MB
NEGLIGIBLE_VOXELS = 1e-6  # over a whole axis
EDGE_VOXELS = 1e-6  # a slice that ends where the source ends is not lost to rounding


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
    source = probabilities.as_tensor().float().cpu()
    winner = source.argmax(dim=0).to(torch.int16)
    lowest, highest = _over_corners(winner, torch.minimum), _over_corners(winner, torch.maximum)
    mixed = lowest != highest
    points = _Points(source, mixed)
    known = lowest.masked_fill(mixed, -1)
    labels = torch.zeros(shape, dtype=kind)
    for start, slab in _slabs(probabilities.affine, source.shape[1:], affine, shape):
        found = slab.of(known)
        open_ = torch.nonzero(found < 0)
        for part in open_.split(points.at_once):
            found[tuple(part.T)] = points.values(slab, part).argmax(dim=1).to(found.dtype)
        labels[start : start + len(found)] = (found * slab.inside).to(kind)
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
    import torch

    source = probabilities.as_tensor()[:count].float().cpu()
    above = torch.zeros(source.shape[1:], dtype=torch.int64)
    for n, channel in enumerate(source):
        above |= (channel >= threshold).to(torch.int64) << n
    everywhere = _over_corners(above, torch.bitwise_and)
    mixed = everywhere != _over_corners(above, torch.bitwise_or)
    points = _Points(source, mixed)
    bit = torch.ones(count, dtype=torch.int64) << torch.arange(count)
    planes = np.zeros(shape, plane_kind(count))
    for start, slab in _slabs(probabilities.affine, source.shape[1:], affine, shape):
        found = slab.of(everywhere)
        for part in torch.nonzero(slab.of(mixed)).split(points.at_once):
            inside = points.values(slab, part) >= threshold
            found[tuple(part.T)] = (inside * bit).sum(dim=1)
        planes[start : start + len(found)] = (found * slab.inside).numpy().astype(planes.dtype)
    return planes


def nearest_on_grid(labels: Any, own: Any, affine: Any, shape: tuple[int, int, int]) -> Any:
    """Labels, which can't be interpolated, on another grid: that of the nearest voxel.

    Parameters
    ----------
    labels : torch.Tensor, shape (X, Y, Z)
        Decided already.
    own, affine : torch.Tensor, shape (4, 4)
        Index → mm of the labels' grid and of the wanted one, same world space.
    shape : tuple of int
        (X, Y, Z) of the wanted grid.

    Returns
    -------
    torch.Tensor, shape (X, Y, Z), as `labels`
        As `labels_on_grid` beyond the labels' grid.
    """
    import torch

    there = torch.zeros(shape, dtype=labels.dtype)
    for start, slab in _slabs(own, labels.shape, affine, shape):
        # Half way between two it is the even one, as rounding has it: always the lower one
        # would move everything by a quarter of a voxel where the source is twice as fine.
        nearest = tuple(
            low + ((along > 0.5) | ((along == 0.5) & (low % 2 == 1)))
            for low, along in zip(slab.cell, slab.along, strict=True)
        )
        found = labels[nearest].expand(slab.shape)
        there[start : start + len(found)] = found * slab.inside
    return there


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


def _over_corners(voxels: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """Combine the eight corners of each cell of a grid; an axis of one voxel has one cell."""
    for axis, n in enumerate(voxels.shape):
        if n > 1:
            voxels = combine(voxels.narrow(axis, 0, n - 1), voxels.narrow(axis, 1, n - 1))
    return voxels


@dataclass(frozen=True)
class _Slab:
    """Where a few slices of the wanted grid lie among the voxels of the source.

    Attributes
    ----------
    shape : tuple of int
        (x, Y, Z) of the slab; what follows broadcasts to it.
    cell : tuple of torch.Tensor
        Per source axis: index of the cell's lower corner.
    along : tuple of torch.Tensor
        Per source axis: how far through the cell, 0 to 1.
    inside : torch.Tensor
        Whether the source reaches there, half a voxel beyond its outer centres included.
    """

    shape: tuple[int, int, int]
    cell: tuple[Any, Any, Any]
    along: tuple[Any, Any, Any]
    inside: Any

    def of(self, cells: Any) -> Any:
        """What stands at the cell of each voxel, as a tensor of its own, (x, Y, Z)."""
        return cells[self.cell].expand(self.shape).contiguous()


class _Points:
    """Interpolates all channels at single points of a slab.

    Only the corners of `mixed` cells are kept, a row of channels each.
    """

    def __init__(self, source: Any, mixed: Any) -> None:
        import torch

        needed = torch.zeros(source.shape[1:], dtype=torch.bool)
        for corner in product((0, 1), repeat=3):
            ends = [
                slice(side, side + n) if size > 1 else slice(None)
                for side, n, size in zip(corner, mixed.shape, needed.shape, strict=True)
            ]
            needed[tuple(ends)] |= mixed
        self._rows = source[:, needed].T.contiguous()
        self._row_at = needed.flatten().cumsum(0).sub_(1)
        self._size = needed.shape
        self.at_once = max(1, AT_ONCE_VALUES // len(source))

    def values(self, slab: _Slab, at: Any) -> Any:
        """Channels at N points of a slab, (N, C); `at` is (N, 3), all in mixed cells."""
        import torch
        import torch.nn.functional as functional

        where = tuple(at.T)
        rows = torch.zeros(len(at), 8, dtype=torch.int64)
        weights = torch.ones(len(at), 8)
        for axis, n in enumerate(self._size):
            low = slab.cell[axis].expand(slab.shape)[where]
            along = slab.along[axis].expand(slab.shape)[where]
            for number, corner in enumerate(product((0, 1), repeat=3)):
                side = corner[axis]
                rows[:, number] = rows[:, number] * n + (low + side).clamp(max=n - 1)
                weights[:, number] *= along if side else 1.0 - along
        return functional.embedding_bag(
            self._row_at[rows], self._rows, mode="sum", per_sample_weights=weights
        )


def _slabs(
    own: Any, size: tuple[int, ...], affine: Any, shape: tuple[int, int, int]
) -> Iterator[tuple[int, _Slab]]:
    """First index and place of a few slices at a time."""
    import torch

    matrix = torch.linalg.inv(own.double()) @ affine.double()
    step = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        ranges = (torch.arange(start, stop), torch.arange(shape[1]), torch.arange(shape[2]))
        cell, along, inside = [], [], torch.ones(1, 1, 1, dtype=torch.bool)
        for axis, n in enumerate(size):
            # Grids that share their directions need one of the three terms: a line, no volume.
            index = matrix[axis, 3].reshape(1, 1, 1)
            for other, values in enumerate(ranges):
                if abs(matrix[axis, other]) * len(values) > NEGLIGIBLE_VOXELS:
                    line = values.double().reshape([-1 if a == other else 1 for a in range(3)])
                    index = index + matrix[axis, other] * line
            inside = inside & (index >= -0.5 - EDGE_VOXELS) & (index <= n - 0.5 + EDGE_VOXELS)
            index = index.clamp(0, n - 1)
            low = index.floor().clamp(max=max(n - 2, 0))
            cell.append(low.long())
            along.append((index - low).float())
        yield start, _Slab((stop - start, *shape[1:]), tuple(cell), tuple(along), inside)
