"""What other runtimes take over of a prompted network: its image encoder.

Prompt encoder and mask decoder stay in torch. Other runtimes took twice torch's time for the
decoder, whose matrices are small, and new kinds of prompt change both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from operators.models.medsam.networks import PromptedNetwork
from operators.models.runtimes.interface import Serving

if TYPE_CHECKING:
    import torch

    from operators.models.runtimes.export import Part

ENCODER = "image_encoder"


def modules_of(network: Any) -> dict[str, torch.nn.Module]:
    """The parts by name."""
    return {ENCODER: network.image_encoder}


def take_over(network: Any, serving: Serving) -> None:
    """Let the parts of `serving` answer in the place of the network's own."""
    import torch

    class Answered(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.runtime = serving.parts[name]

        def forward(self, *inputs: torch.Tensor) -> Any:
            return self.runtime(*inputs)

    for name, part in serving.parts.items():
        setattr(network, name, part if isinstance(part, torch.nn.Module) else Answered(name))


def exportable_parts(network: PromptedNetwork) -> list[Part]:
    """The parts, each with two calls to compare on; pictures come one at a time."""
    from operators.models.runtimes.export import Part
    from operators.models.runtimes.network import phantom

    side = network.PICTURE_SIDE
    first, second = (phantom((1, 3, side, side), seed).clamp(0, 1) for seed in (0, 1))
    return [Part(ENCODER, modules_of(network)[ENCODER], ((first,), (second,)), None)]
