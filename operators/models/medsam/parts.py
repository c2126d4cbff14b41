"""A prompted network in the parts that other runtimes take over: image encoder, mask decoder.

The prompt encoder stays in torch: it is a few sums, and new kinds of prompt change it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from operators.models.medsam.networks import PromptedNetwork
from operators.models.runtimes.interface import Serving

if TYPE_CHECKING:
    import torch

    from operators.models.runtimes.export import Part

ENCODER, DECODER = "image_encoder", "mask_decoder"


def modules_of(network: Any) -> dict[str, torch.nn.Module]:
    """The parts by name."""
    return {ENCODER: network.image_encoder, DECODER: network.mask_decoder}


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
    """Both parts, with calls to compare on: one box, then two prompts of five tokens.

    Any number of prompts and of tokens may follow; pictures come one at a time.
    """
    import torch

    from operators.models.runtimes.export import Part
    from operators.models.runtimes.network import above_zero, phantom

    module: Any = network
    side = network.PICTURE_SIDE
    pictures = [phantom((1, 3, side, side), seed).clamp(0, 1) for seed in (0, 1)]
    prompts = module.prompt_encoder
    with torch.no_grad():
        first, second = (network.encode(picture) for picture in pictures)
        boxes = torch.tensor([[0.2, 0.25, 0.7, 0.8], [0.4, 0.1, 0.9, 0.5]]) * side
        points = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(0)) * side
        inside = torch.tensor([[True, True, False]] * 2)
        more = torch.cat([prompts.point_tokens(points, inside), prompts.box_tokens(boxes)], dim=1)
        position, added = prompts.grid(), prompts.without_mask()
        calls = (
            (first + added, position, prompts.box_tokens(boxes[:1])),
            (second.expand(2, -1, -1, -1) + added, position, more),
        )
    modules = modules_of(network)
    return [
        Part(ENCODER, modules[ENCODER], ((pictures[0],), (pictures[1],)), None),
        Part(DECODER, modules[DECODER], calls, above_zero),
    ]
