"""Points and masks become what the paper's formulas say, worked out here without our modules.

Kirillov et al., Segment Anything, ICCV 2023, appendix A: a point is the Fourier encoding
of its place plus a learned vector for its kind; without a box one "no point" token follows;
a mask is halved twice by 2 x 2 convolutions of stride 2 with layer norm and GELU, then
mapped 1 x 1 to the width of the embedding. The published code adds half a pixel to every
coordinate. Only the raw arrays of the published weights are used, by numpy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import erf

from operators.models.medsam.network import LiteMedSam

POINTS = np.array([[[60.0, 48.5], [200.25, 10.0], [0.0, 255.0]]], np.float32)
INSIDE = np.array([[True, False, True]])


@pytest.fixture(scope="module")
def state(medsam_weights: Path) -> dict[str, np.ndarray]:
    """The published arrays of the prompt encoder, float64."""
    loaded = torch.load(medsam_weights, weights_only=True)
    head = "prompt_encoder."
    return {
        name.removeprefix(head): value.double().numpy()
        for name, value in loaded.items()
        if name.startswith(head)
    }


@pytest.fixture(scope="module")
def network(medsam_weights: Path) -> LiteMedSam:
    loaded = LiteMedSam()
    loaded.load_state_dict(torch.load(medsam_weights, weights_only=True))
    return loaded.eval()


def fourier(state: dict[str, np.ndarray], xy: np.ndarray) -> np.ndarray:
    frequencies = state["pe_layer.positional_encoding_gaussian_matrix"]
    phase = 2 * np.pi * ((2 * (xy + 0.5) / 256 - 1) @ frequencies)
    return np.concatenate([np.sin(phase), np.cos(phase)], axis=-1)


def test_points_and_the_missing_box_are_tokens_of_the_papers_formula(state, network) -> None:
    kinds = np.stack([state[f"point_embeddings.{n}.weight"][0] for n in (0, 1)])
    expected = fourier(state, POINTS.astype(np.float64)) + kinds[INSIDE.astype(int)]

    with torch.inference_mode():
        tokens = network.prompt_encoder.point_tokens(torch.tensor(POINTS), torch.tensor(INSIDE))
        nothing = network.prompt_encoder.no_point(2)

    np.testing.assert_allclose(tokens.numpy(), expected, atol=1e-4)
    assert nothing.shape == (2, 1, 256)
    np.testing.assert_array_equal(
        nothing[1, 0].detach().double().numpy(), state["not_a_point_embed.weight"][0]
    )


def test_a_mask_is_halved_twice_as_the_paper_says(state, network) -> None:
    mask = np.random.default_rng(4).normal(0, 8, (256, 256))

    def halved(x: np.ndarray, layer: int) -> np.ndarray:
        kernel, bias = (state[f"mask_downscaling.{layer}.{part}"] for part in ("weight", "bias"))
        channels, rows, columns = x.shape
        blocks = x.reshape(channels, rows // 2, 2, columns // 2, 2)
        return np.einsum("crisj,ocij->ors", blocks, kernel) + bias[:, None, None]

    def normed(x: np.ndarray, layer: int) -> np.ndarray:
        scale, shift = (state[f"mask_downscaling.{layer}.{part}"] for part in ("weight", "bias"))
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)
        return x * scale[:, None, None] + shift[:, None, None]

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * (1 + erf(x / np.sqrt(2))) / 2

    x = gelu(normed(halved(mask[None], 0), 1))
    x = gelu(normed(halved(x, 3), 4))
    kernel, bias = (state[f"mask_downscaling.6.{part}"] for part in ("weight", "bias"))
    expected = np.einsum("chw,oc->ohw", x, kernel[:, :, 0, 0]) + bias[:, None, None]

    with torch.inference_mode():
        added = network.prompt_encoder.with_mask(
            torch.tensor(mask, dtype=torch.float32)[None, None]
        )

    np.testing.assert_allclose(added[0].numpy(), expected, atol=1e-4)


def test_the_decoder_gets_points_first_and_then_the_corners(network) -> None:
    """What `decode` hands on, caught at the decoder; order and padding are the published ones."""
    encoder, caught = network.prompt_encoder, []
    handle = network.mask_decoder.register_forward_pre_hook(lambda _, given: caught.append(given))
    embedding = torch.zeros(1, 256, 64, 64)
    points, inside = torch.tensor(POINTS), torch.tensor(INSIDE)
    boxes = torch.tensor([[10.0, 20.0, 90.0, 120.0]])
    masks = torch.full((1, 1, 256, 256), -3.0)
    try:
        with torch.inference_mode():
            network.decode(embedding, points=points, inside=inside)
            network.decode(embedding, boxes, points=points, inside=inside, masks=masks)
            dots, corners = encoder.point_tokens(points, inside), encoder.box_tokens(boxes)
            added = encoder.with_mask(masks)
    finally:
        handle.remove()

    (image, _, alone), (refined, _, both) = caught
    torch.testing.assert_close(alone, torch.cat([dots, encoder.no_point(1)], dim=1))
    torch.testing.assert_close(both, torch.cat([dots, corners], dim=1))
    torch.testing.assert_close(image, encoder.without_mask().expand(1, -1, 64, 64))
    torch.testing.assert_close(refined, added)
