"""Which networks a prompted bundle may name, and what they have in common.

A further network gets one line in `NETWORKS`; `model.py` then runs it. Its module
is imported only when a bundle names it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

NETWORKS = {
    "operators.models.medsam.network.LiteMedSam": "LiteMedSAM, pictures of 256 x 256",
    "operators.models.medsam.vit.MedSamVit": "SAM with ViT-B, pictures of 1024 x 1024",
}


class PromptedNetwork(Protocol):
    """Picture and prompt to mask; a `torch.nn.Module` with the names of its published weights.

    Attributes
    ----------
    PICTURE_SIDE : int
        Rows and columns of the picture that `encode` wants. Boxes are in its pixels.
    """

    PICTURE_SIDE: int

    def encode(self, pictures: Any) -> Any:
        """Embeddings of pictures (n, 3, side, side), float32, values 0 to 1."""

    def decode(
        self,
        embedding: Any,
        boxes: Any = None,
        *,
        points: Any = None,
        inside: Any = None,
        masks: Any = None,
    ) -> tuple[Any, Any]:
        """Masks of n prompts; boxes, points or both are given.

        Boxes (n, 4), float32, are pixel edges x0, y0, x1, y1; points (n, p, 2), float32,
        with `inside` (n, p), bool; masks (n, 1, m, m), float32, are logits of an earlier
        mask. Returns logits (n, m, m), above 0 is inside, on a grid over the whole
        picture, and its own estimate of the IoU (n,), not calibrated.
        """


def build_network(target: str) -> Any:
    """The network of that name, with random weights.

    Parameters
    ----------
    target : str
        Key of `NETWORKS`: only those are imported, whatever a config names.

    Returns
    -------
    PromptedNetwork
        Also a `torch.nn.Module`.
    """
    if target not in NETWORKS:
        raise KeyError(target)
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)()
