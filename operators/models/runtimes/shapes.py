"""Shapes that a part was exported for, and calls that have more in their batch than one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from operators.models.runtimes.refusals import WindowUnfit

if TYPE_CHECKING:
    import numpy as np
    import torch

Shape = tuple[int, ...]
"""-1 stands for any length."""


def call_numpy(
    call: Callable[[list[np.ndarray]], list[np.ndarray]],
    inputs: Sequence[torch.Tensor],
    shapes: Sequence[Shape],
    runtime: str,
) -> Any:
    """Call something on arrays with tensors, one of the batch at a time where it takes one.

    A tracer fixes the length of the batch, and windows of a volume keep a CPU busy one
    by one, so a network that is called whole is exported for a batch of one.

    Parameters
    ----------
    call : callable
        Arrays in, fresh arrays out.
    inputs : sequence of torch.Tensor
        As a `Runtime` gets them.
    shapes : sequence of tuple of int
        What was exported, one for each input.
    runtime : str
        Only for the message.

    Raises
    ------
    WindowUnfit
        Another number of inputs, or a shape that was not exported.
    """
    import torch

    if len(inputs) != len(shapes):
        raise WindowUnfit(runtime, [len(inputs)], [len(shapes)])
    home = inputs[0].device
    arrays = [value.detach().to("cpu", torch.float32).contiguous().numpy() for value in inputs]
    alone = len(arrays) == 1 and shapes[0][0] == 1
    pieces = [[arrays[0][n : n + 1]] for n in range(len(arrays[0]))] if alone else [arrays]
    for piece in pieces:
        for array, shape in zip(piece, shapes, strict=True):
            if not fits(array.shape, shape):
                raise WindowUnfit(runtime, array.shape, shape)
    found = [[torch.from_numpy(array) for array in call(piece)] for piece in pieces]
    whole = found[0] if len(found) == 1 else [torch.cat(each) for each in zip(*found, strict=True)]
    moved = tuple(value.to(home) for value in whole)
    return moved[0] if len(moved) == 1 else moved


def fits(found: Sequence[int], exported: Shape) -> bool:
    """Whether a shape is one that was exported."""
    return len(found) == len(exported) and all(
        wanted in (-1, length) for length, wanted in zip(found, exported, strict=True)
    )


def common_shape(first: Sequence[int], second: Sequence[int]) -> Shape:
    """The shape that both have; -1 where they differ."""
    return tuple(a if a == b else -1 for a, b in zip(first, second, strict=True))
