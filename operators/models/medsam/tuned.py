"""A tuned bundle's weights: a part that replaces the same part of its base.

Such a bundle ships what was tuned and no more; its card names the base by sha256.
The base is loaded as ever, then the part is put in strictly: an entry that the network
does not have, or of another shape or type, is no part of it.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from operators.models.bundle import WeightsUnfit, load_state


def put_part(bundle: str, network: nn.Module, file: Path) -> None:
    """Replace some of a network's weights, all of the file's or none.

    Parameters
    ----------
    bundle : str
        Only for the message.
    network : torch.nn.Module
        With the weights of the base.
    file : Path
        Written by `torch.save`; names to tensors.

    Raises
    ------
    WeightsUnfit
        The file holds no weights, or one that is no part of the network.
    """
    part = load_state(bundle, file)
    whole = network.state_dict()
    if not isinstance(part, dict) or not part:
        raise WeightsUnfit(bundle, "it holds no weights")
    for name, value in part.items():
        if name not in whole:
            raise WeightsUnfit(bundle, f"{name} is not in the weights that it completes")
        if value.shape != whole[name].shape or value.dtype != whole[name].dtype:
            raise WeightsUnfit(bundle, f"{name} has another shape or type than in the base")
    network.load_state_dict(whole | part)
