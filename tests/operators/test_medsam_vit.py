"""Our SAM with a ViT is transformers' own: same weights in either layout, same answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from operators.models.medsam.layout import FREQUENCIES, SHARED, SHARED_AGAIN, in_sam_layout
from operators.models.medsam.vit import MedSamVit, VitSize
from operators.models.medsam.weights import load_weights
from tests.operators import vit_oracle
from tests.operators.vit_oracle import ANSWERS, SMALL, VIT_B, WEIGHTS

SMALL_SIZE = VitSize(depth=3, width=48, heads=4, all_round=(1,))


def run_oracle(peers: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, vit_oracle.__file__, *arguments],
        env={**os.environ, "PYTHONPATH": str(peers), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def theirs(peers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with transformers' random weights and its answers."""
    folder = tmp_path_factory.mktemp("transformers")
    run_oracle(peers, str(folder), json.dumps(SMALL))
    return folder


@pytest.fixture(scope="module")
def network(theirs: Path) -> MedSamVit:
    """With their weights, straight from their layout."""
    loaded = MedSamVit(SMALL_SIZE)
    assert load_weights("medsam_vit_b", loaded, theirs / WEIGHTS) == "transformers"
    return loaded.eval()


def answers(network: MedSamVit) -> dict[str, np.ndarray]:
    """To the same prompts as `vit_oracle.answers` asks."""
    boxes, points = torch.tensor(vit_oracle.BOXES), torch.tensor(vit_oracle.POINTS)
    dots = {"points": points, "inside": torch.tensor(vit_oracle.INSIDE)}
    with torch.inference_mode():
        embedding = network.encode(vit_oracle.picture())
        asked = {
            "boxes": network.decode(embedding, boxes),
            "points": network.decode(embedding, **dots),
            "both": network.decode(embedding, boxes[:2], **dots),
            "mask": network.decode(embedding, boxes[:1], masks=vit_oracle.earlier_mask()),
        }
    found = {"embedding": embedding.numpy()}
    for name, (logits, iou) in asked.items():
        found[f"{name} logits"], found[f"{name} iou"] = logits.numpy(), iou.numpy()
    return found


def test_every_prompt_is_answered_as_transformers_answers_it(
    theirs: Path, network: MedSamVit
) -> None:
    """Tightly with the epsilon of SAM's own code; transformers' own moves a logit by 1e-4."""
    expected = np.load(theirs / ANSWERS)

    ours = answers(network)

    assert expected["embedding"].std() > 0.5 and expected["boxes logits"].std() > 0.5
    np.testing.assert_allclose(ours.pop("embedding"), expected["embedding"], atol=1e-4)
    assert len(ours) == 8
    for name, found in ours.items():
        np.testing.assert_allclose(found, expected[f"{name}, eps of SAM"], atol=2e-5)
        np.testing.assert_allclose(found, expected[name], atol=3e-4)


def test_weights_in_sam_s_own_layout_are_the_same_network(
    network: MedSamVit, tmp_path: Path
) -> None:
    torch.save(network.state_dict(), tmp_path / "medsam_vit_b.pth")
    again = MedSamVit(SMALL_SIZE)

    assert load_weights("medsam_vit_b", again, tmp_path / "medsam_vit_b.pth") == "SAM"

    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, network.state_dict()[name], rtol=0, atol=0)


def test_at_full_size_no_tensor_is_missing_unknown_or_of_another_shape(peers: Path) -> None:
    """ViT-B itself, by names and shapes; 93.7 million numbers need not be drawn for that."""
    shapes = json.loads(run_oracle(peers, "--shapes", json.dumps(VIT_B)))
    state = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    with torch.device("meta"):
        ours = MedSamVit().state_dict()

    renamed = in_sam_layout(state)

    assert len(shapes) == 315 and len(ours) == 314  # theirs has its frequencies twice
    assert {name: tensor.shape for name, tensor in renamed.items()} == {
        name: tensor.shape for name, tensor in ours.items()
    }
    # As published lists of the official file's keys have them.
    assert ours["image_encoder.blocks.11.attn.rel_pos_w"].shape == (27 + 100, 64)
    assert ours["image_encoder.neck.2.weight"].shape == (256, 256, 3, 3)


def test_frequencies_that_contradict_each_other_are_not_chosen_between() -> None:
    state = {
        "vision_encoder.x": torch.zeros(1),
        SHARED: torch.zeros(2),
        SHARED_AGAIN: torch.ones(2),
    }

    with pytest.raises(ValueError, match="differ"):
        in_sam_layout(state)


@pytest.mark.parametrize("kept", [SHARED, SHARED_AGAIN])
def test_frequencies_may_stand_in_either_place(kept: str) -> None:
    state = {"vision_encoder.x": torch.zeros(1), kept: torch.ones(2)}

    assert FREQUENCIES in in_sam_layout(state)
