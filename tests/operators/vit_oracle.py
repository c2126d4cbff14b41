"""What the transformers library makes of SAM with a ViT: the same weights, the same pictures.

transformers is no part of radloop's environment (it doubles the import of monai), so
it lies in a folder of its own (`make peers`) and runs in a process of its own:

    PYTHONPATH=var/peers python tests/operators/vit_oracle.py FOLDER '{"depth": 12, ...}'

writes random weights in transformers' layout, and its answers, into FOLDER;
`--shapes` in its place prints names and shapes. Nothing of radloop is imported here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

WEIGHTS, ANSWERS = "pytorch_model.bin", "answers.npz"
VIT_B = {"depth": 12, "width": 768, "heads": 12, "all_round": [2, 5, 8, 11]}
SMALL = {"depth": 3, "width": 48, "heads": 4, "all_round": [1]}
# Inside, at a corner, with fractions, the whole picture.
BOXES = (
    (240.0, 192.0, 720.0, 800.0),
    (0.0, 0.0, 90.0, 150.0),
    (41.5, 400.25, 360.0, 600.75),
    (0.0, 0.0, 1024.0, 1024.0),
)
# Two prompts of two points each, inside and outside.
POINTS = (((500.0, 480.5), (60.0, 900.25)), ((820.0, 100.0), (0.0, 1023.0)))
INSIDE = ((True, False), (True, True))


def earlier_mask() -> torch.Tensor:
    """Logits of a disc, shape (1, 1, 256, 256)."""
    y, x = np.mgrid[:256, :256]
    return torch.tensor(8 - 0.1 * np.hypot(x - 120, y - 130)[None, None], dtype=torch.float32)


def picture() -> torch.Tensor:
    """Three different channels with waves, an edge and a disc; shape (1, 3, 1024, 1024)."""
    y, x = np.mgrid[:1024, :1024] / 1024
    disc = ((x - 0.47) ** 2 + (y - 0.49) ** 2 < 0.05).astype(float)
    waves = 0.25 + 0.15 * np.sin(57 * x + 13 * y) + 0.1 * np.cos(31 * y)
    channels = [waves + 0.4 * disc, 0.8 * waves + 0.1 * (x > 0.6), 0.5 * disc + 0.3 * y]
    return torch.tensor(np.clip(channels, 0, 1)[None], dtype=torch.float32)


def build(size: dict[str, Any]) -> Any:
    """transformers' SAM of that size, as it comes."""
    from transformers import SamConfig, SamModel
    from transformers.models.sam.configuration_sam import SamVisionConfig

    vision = SamVisionConfig(
        num_hidden_layers=size["depth"],
        hidden_size=size["width"],
        num_attention_heads=size["heads"],
        global_attn_indexes=size["all_round"],
        image_size=1024,
    )
    return SamModel(SamConfig(vision_config=vision)).eval()


def randomise(model: Any) -> None:
    """Every number away from 0 and 1, large enough for answers that differ."""
    draw = torch.Generator().manual_seed(16)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=draw)
        if parameter.ndim > 1 and "embed" not in name and "rel_pos" not in name:
            parameter.data = noise * parameter[0].numel() ** -0.5
        elif "layer_norm" in name or "bias" in name:
            parameter.data += 0.1 * noise
        else:  # positions and tokens
            parameter.data = noise


def answers(model: Any, embedding: torch.Tensor) -> dict[str, torch.Tensor]:
    """Logits and estimates of every kind of prompt, by its name."""
    points, inside = torch.tensor(POINTS), torch.tensor(INSIDE)
    boxes, mask = torch.tensor(BOXES), earlier_mask()
    asked = {
        "boxes": {"input_boxes": boxes[None]},
        "points": {"input_points": points[None], "input_labels": inside[None].long()},
        "both": {
            "input_points": points[None],
            "input_labels": inside[None].long(),
            "input_boxes": boxes[None, :2],
        },
        "mask": {"input_boxes": boxes[None, :1], "input_masks": mask},
    }
    found = {}
    for name, prompt in asked.items():
        out = model(image_embeddings=embedding, multimask_output=False, **prompt)
        found[f"{name} logits"], found[f"{name} iou"] = (
            out.pred_masks[0, :, 0],
            out.iou_scores[0, :, 0],
        )
    return found


def main(folder: Path, size: dict[str, Any]) -> None:
    """Write weights and answers."""
    with torch.inference_mode():
        model = build(size)
        randomise(model)
        torch.save(model.state_dict(), folder / WEIGHTS)
        embedding = model.get_image_embeddings(picture())
        found = {"embedding": embedding, **answers(model, embedding)}
        # SAM's own code has 1e-5 here, transformers 1e-6; everything else is alike.
        for part in model.mask_decoder.transformer.modules():
            if isinstance(part, torch.nn.LayerNorm):
                part.eps = 1e-5
        for name, value in answers(model, embedding).items():
            found[f"{name}, eps of SAM"] = value
    np.savez(folder / ANSWERS, **{name: value.numpy() for name, value in found.items()})


def shapes(size: dict[str, Any]) -> dict[str, list[int]]:
    """Of its tensors, by name; none is drawn."""
    with torch.device("meta"):
        return {name: list(value.shape) for name, value in build(size).state_dict().items()}


if __name__ == "__main__":
    where, asked = sys.argv[1], json.loads(sys.argv[2])
    if where == "--shapes":
        print(json.dumps(shapes(asked)))
    else:
        main(Path(where), asked)
