"""Training of the decoder: exact to the step, cut or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bundles.medsam_lite_ct_mr.scripts.crops import CropSpec
from bundles.medsam_lite_ct_mr.scripts.embeddings import file_of, load
from bundles.medsam_lite_ct_mr.scripts.tune import Recipe, Tuning, blend, chosen, jittered, rate
from operators.models.medsam.network import LiteMedSam
from operators.models.medsam.picture import Crop

RECIPE = Recipe(
    seed=5,
    steps=2,
    batch=1,
    learning_rate=1e-3,
    warmup=1,
    loose_share=0.1,
    loose_px=1.0,
    iou_weight=0.5,
    every=1,
)


def made_crops(folder: Path) -> list[CropSpec]:
    """Two crops of 16 x 16 pixels with a square in each; their embeddings are noise."""
    folder.mkdir()
    specs = []
    for n in range(2):
        mask = np.zeros((16, 16), bool)
        mask[4 : 10 + n, 5:11] = True
        box = (4.0, 3.0, 12.0, 12.0)
        spec = CropSpec("made", f"p{n}", f"c{n}", "square", 0, Crop(0, 0, 16, 16), box)
        noise = np.random.default_rng(n).normal(size=(256, 64, 64)).astype(np.float16)
        np.savez(file_of(spec, folder), embedding=noise, mask=mask, plane=mask.astype(np.float32))
        specs.append(spec)
    return specs


def tuning(folder: Path, specs: list[CropSpec], run: str) -> Tuning:
    torch.manual_seed(0)
    return Tuning(LiteMedSam(), specs, folder / "embeddings", folder / run, RECIPE)


def test_a_run_that_was_cut_ends_where_one_that_was_not_does(tmp_path: Path) -> None:
    specs = made_crops(tmp_path / "embeddings")
    whole = tuning(tmp_path, specs, "whole")
    untouched = {k: v.clone() for k, v in whole.network.image_encoder.state_dict().items()}
    before = {k: v.clone() for k, v in whole.network.mask_decoder.state_dict().items()}

    whole.run()
    tuning(tmp_path, specs, "cut").run(until=1)
    resumed = tuning(tmp_path, specs, "cut")
    resumed.run()

    after = whole.network.mask_decoder.state_dict()
    assert resumed.step == 2
    assert all(
        torch.equal(after[k], v) for k, v in resumed.network.mask_decoder.state_dict().items()
    )
    assert any(not torch.equal(after[k], before[k]) for k in before)
    encoder = whole.network.image_encoder.state_dict()
    assert all(torch.equal(encoder[k], untouched[k]) for k in untouched)


def test_every_crop_comes_once_before_any_comes_again() -> None:
    recipe = replace(RECIPE, batch=4)

    seen = np.concatenate([chosen(recipe, step, 10) for step in range(5)])

    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])


def test_the_learning_rate_rises_linearly_and_ends_as_a_cosine() -> None:
    recipe = replace(RECIPE, steps=110, warmup=10, learning_rate=1.0)

    assert rate(recipe, 4) == pytest.approx(0.5)
    assert rate(recipe, 10) == pytest.approx(1.0)
    assert rate(recipe, 60) == pytest.approx(0.5)
    assert rate(recipe, 109) == pytest.approx(0.0, abs=3e-4)


def test_a_training_box_never_cuts_the_structure_nor_leaves_the_picture() -> None:
    tight = torch.tensor([2.0, 100.0, 60.0, 255.0])
    random = np.random.default_rng(0)

    boxes = torch.stack([jittered(tight, 4.0, RECIPE, random) for _ in range(200)])

    assert (boxes[:, :2] <= tight[:2]).all() and (boxes[:, 2:] >= tight[2:]).all()
    assert boxes.min() >= 0 and boxes.max() <= 256
    # A tenth of the longer side (155) is more than one source pixel (4).
    assert 14.0 < float((boxes[:, 2] - tight[2]).max()) <= 15.5


def test_a_blend_lies_between_the_two_weights() -> None:
    published, tuned = {"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([4.0, 2.0])}

    assert torch.equal(blend(published, tuned, 0.25)["w"], torch.tensor([1.0, 2.0]))
    assert torch.equal(blend(published, tuned, 1.0)["w"], tuned["w"])


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    spec = made_crops(tmp_path / "embeddings")[1]

    kept = load(spec, tmp_path / "embeddings")

    assert kept.embedding.dtype == torch.float16 and kept.embedding.shape == (256, 64, 64)
    assert kept.mask.sum() == 7 * 6
