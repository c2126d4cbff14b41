"""Our LiteMedSAM is the publisher's: same weights, same answers, whatever the order of calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from operators.models.medsam.network import LiteMedSam
from tests.operators.medsam_oracle import BOXES, KEPT, picture, reduced


@pytest.fixture(scope="module")
def network(medsam_weights: Path) -> LiteMedSam:
    """With the published weights."""
    loaded = LiteMedSam()
    state = torch.load(medsam_weights, weights_only=True)
    assert len(state) == 435
    loaded.load_state_dict(state, strict=True)
    return loaded.eval()


def answers(network: LiteMedSam) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        embedding = network.encode(picture())
        return reduced(embedding, *network.decode(embedding, torch.tensor(BOXES)))


def test_it_answers_as_the_publishers_own_code_does(network: LiteMedSam) -> None:
    """Embedding, masks and IoU of three boxes, against what `medsam_oracle.py` kept."""
    ours, theirs = answers(network), np.load(KEPT)

    assert np.abs(theirs["embedding"]).max() > 0.5 and np.abs(theirs["logits"]).max() > 10
    np.testing.assert_allclose(ours["embedding"], theirs["embedding"], atol=2e-5)
    np.testing.assert_allclose(ours["logits"], theirs["logits"], atol=1e-3)
    np.testing.assert_allclose(ours["iou"], theirs["iou"], atol=1e-5)


def test_weights_may_be_loaded_after_eval(network: LiteMedSam, medsam_weights: Path) -> None:
    """The published code keeps the attention bias of the moment of `eval()`; ours must not."""
    late = LiteMedSam().eval()
    late.load_state_dict(torch.load(medsam_weights, weights_only=True))
    small = picture()[:, :, :112, :112]  # window attention is what is asked, at any size

    with torch.inference_mode():
        torch.testing.assert_close(late.encode(small), network.encode(small))


def test_other_weights_are_refused_and_not_half_loaded() -> None:
    state = LiteMedSam().state_dict()
    del state["mask_decoder.iou_token.weight"]

    with pytest.raises(RuntimeError, match="iou_token"):
        LiteMedSam().load_state_dict(state)
