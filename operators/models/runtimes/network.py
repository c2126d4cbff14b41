"""The one part of a bundle's network that is called whole, with a phantom to compare on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from operators.models.runtimes.export import Part
from operators.models.runtimes.interface import WHOLE
from operators.models.runtimes.window import input_of, windows_of

if TYPE_CHECKING:
    import torch

BLOB_VOXELS = 6
"""Size of the phantom's blobs: structures that a network of any depth answers to."""


def whole_network(
    network: torch.nn.Module, inferer: Any, metadata: dict[str, Any], *, overlapping: bool
) -> Part:
    """A bundle's network as a part that can be exported.

    Parameters
    ----------
    network : torch.nn.Module
        Loaded, evaluating, on the CPU.
    inferer : callable
        Of the bundle; decides the window.
    metadata : dict
        Of the bundle.
    overlapping : bool
        Each channel is a mask of its own, above 0; else the largest channel is the label.

    Raises
    ------
    ValueError
        What goes in can't be told.
    """
    channels, dimensions = input_of(network, metadata)
    shapes = windows_of(inferer, channels, dimensions)
    if len(shapes) != 2:
        raise ValueError("the inferer does not ask the network")
    first, second = (phantom(shape, seed) for seed, shape in enumerate(shapes))
    return Part(
        name=WHOLE,
        module=network,
        samples=((first,), (second,)),
        labels=above_zero if overlapping else largest_channel,
    )


def phantom(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Blobs from 0 to 1 with some noise, each channel its own, shape (1, C, …), float32."""
    import torch
    import torch.nn.functional as functional

    generator = torch.Generator().manual_seed(seed)
    coarse = [max(n // BLOB_VOXELS, 2) for n in shape[2:]]
    blobs = functional.interpolate(
        torch.randn(1, shape[1], *coarse, generator=generator),
        size=shape[2:],
        mode="trilinear" if len(coarse) == 3 else "bilinear",
    )
    return torch.sigmoid(2 * blobs) + 0.02 * torch.randn(shape, generator=generator)


def largest_channel(scores: torch.Tensor) -> torch.Tensor:
    """Label of the largest channel; above 0 where there is one channel only."""
    return scores.argmax(1) if scores.ndim > 1 and scores.shape[1] > 1 else above_zero(scores)


def above_zero(scores: torch.Tensor) -> torch.Tensor:
    """1 where a score is above 0."""
    return (scores > 0).to(scores.new_zeros(()).long().dtype)
