"""Weights of SAM in the names of the transformers library, brought into the names of SAM's own.

`medsam_vit_b.pth` has SAM's names, `pytorch_model.bin` of medsam-vit-base those of
transformers (`SamModel`). Only names differ, no number does. Nothing is guessed: a
key that no line below knows keeps its name, and the strict load then refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

Layout = Literal["SAM", "transformers"]

# One fixed set of frequencies, which transformers keeps under both names.
SHARED = "shared_image_embedding.positional_embedding"
SHARED_AGAIN = "prompt_encoder.shared_embedding.positional_embedding"
FREQUENCIES = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"

_PERCEPTRON = r"(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))"
# In this order; each is tried on what the ones before it have made.
_RENAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (rf"^{re.escape(SHARED_AGAIN)}$", FREQUENCIES),
        (r"^vision_encoder\.", "image_encoder."),
        (r"^image_encoder\.layers\.", "image_encoder.blocks."),
        (r"^image_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
        (r"^(image_encoder\.neck)\.conv1\.", r"\1.0."),
        (r"^(image_encoder\.neck)\.layer_norm1\.", r"\1.1."),
        (r"^(image_encoder\.neck)\.conv2\.", r"\1.2."),
        (r"^(image_encoder\.neck)\.layer_norm2\.", r"\1.3."),
        (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
        (r"^prompt_encoder\.mask_embed\.", "prompt_encoder.mask_downscaling."),
        (r"^(prompt_encoder\.mask_downscaling)\.conv1\.", r"\1.0."),
        (r"^(prompt_encoder\.mask_downscaling)\.layer_norm1\.", r"\1.1."),
        (r"^(prompt_encoder\.mask_downscaling)\.conv2\.", r"\1.3."),
        (r"^(prompt_encoder\.mask_downscaling)\.layer_norm2\.", r"\1.4."),
        (r"^(prompt_encoder\.mask_downscaling)\.conv3\.", r"\1.6."),
        (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
        (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
        (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
        # The middle layer first: it is layers.0 there and layers.1 here.
        (rf"^{_PERCEPTRON}\.layers\.0\.", r"\1.layers.1."),
        (rf"^{_PERCEPTRON}\.proj_in\.", r"\1.layers.0."),
        (rf"^{_PERCEPTRON}\.proj_out\.", r"\1.layers.2."),
        (r"\.layer_norm(_final_attn|\d)\.", r".norm\1."),
    )
)


def layout_of(state: Mapping[str, Any]) -> Layout:
    """In which names these weights are."""
    return "transformers" if any(key.startswith("vision_encoder.") for key in state) else "SAM"


def in_sam_layout(state: Mapping[str, Any]) -> dict[str, Any]:
    """The same tensors under SAM's names.

    Parameters
    ----------
    state : mapping of str to torch.Tensor
        In either layout.

    Returns
    -------
    dict of str to torch.Tensor
        Not copied.

    Raises
    ------
    ValueError
        The two places of transformers' shared frequencies differ: which of the two the
        network was trained with can't be told.
    """
    if layout_of(state) == "SAM":
        return dict(state)
    state = dict(state)
    if SHARED in state:
        shared = state.pop(SHARED)
        if not shared.equal(state.setdefault(SHARED_AGAIN, shared)):
            raise ValueError(f"{SHARED} and {SHARED_AGAIN} differ")
    return {_renamed(key): tensor for key, tensor in state.items()}


def _renamed(key: str) -> str:
    for pattern, name in _RENAMES:
        key = pattern.sub(name, key)
    return key
