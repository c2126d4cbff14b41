"""In which shapes an inferer asks its network, found out without running the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import torch

# Two images that no window covers, and that every usual depth of a network divides.
PROBES = ((160, 192, 224), (192, 160, 160))


class _Asked(Exception):
    """No error: it carries the answer out of the inferer."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


def windows_of(inferer: Any, channels: int, dimensions: int) -> list[tuple[int, ...]]:
    """Shapes of the first call of a network on two images of different size, batch of one.

    Parameters
    ----------
    inferer : callable
        ``inferer(image, network)``.
    channels, dimensions : int
        Of the image: channels, and 2 or 3 axes.

    Returns
    -------
    list of tuple of int
        Two shapes (1, channels, …): equal for a sliding window, as large as the images
        where the network is asked about whole ones.
    """
    import torch

    def network(image: torch.Tensor, *_: Any, **__: Any) -> NoReturn:
        raise _Asked(tuple(image.shape))

    found = []
    for size in PROBES:
        try:
            inferer(torch.zeros(1, channels, *size[:dimensions]), network)
        except _Asked as asked:
            found.append((1, *asked.shape[1:]))
    return found


def input_of(network: torch.nn.Module, metadata: dict[str, Any]) -> tuple[int, int]:
    """Channels and axes (2 or 3) of what a network takes.

    Parameters
    ----------
    network : torch.nn.Module
        Its first convolution knows; a network without one is asked by its metadata.
    metadata : dict
        ``configs/metadata.json``: ``network_data_format.inputs.image``.

    Raises
    ------
    ValueError
        Neither says it.
    """
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d | torch.nn.Conv2d):
            return module.in_channels, 3 if isinstance(module, torch.nn.Conv3d) else 2
    try:
        image = metadata["network_data_format"]["inputs"]["image"]
        return int(image["num_channels"]), len(image["spatial_shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("neither the network nor its metadata says what goes in") from error
