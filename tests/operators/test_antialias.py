"""The blur of head_neck_oar_ct before its coarser grid, against MONAI's own convolutions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import GaussianSmooth

from operators.models.bundle_code import own_modules

BUNDLE = Path(__file__).parents[2] / "bundles" / "head_neck_oar_ct"
SPACING_MM = (3.906, 3.906, 2.5)


@pytest.fixture
def antialias():
    with own_modules(BUNDLE):
        from scripts.antialias import antialias

        yield antialias


@pytest.mark.parametrize("own_mm", [(0.8, 0.8, 1.5), (1.2, 0.7, 0.6), (3.0, 2.0, 2.4)])
def test_it_is_monais_gaussian(antialias, own_mm):
    torch.manual_seed(1)
    affine = torch.diag(torch.tensor([*own_mm, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.randn(1, 41, 37, 30) * 400, affine=affine)

    made = antialias(image, SPACING_MM)

    sigma = [
        0.5 * (wanted**2 - own**2) ** 0.5 / own
        for wanted, own in zip(SPACING_MM, own_mm, strict=True)
    ]
    wanted = GaussianSmooth(sigma=sigma)(image)
    assert np.abs(made - wanted).max() < 1e-3  # HU
    assert np.abs(made - image).max() > 100
    assert torch.equal(made.affine, affine)


def test_an_axis_that_is_coarse_already_stays(antialias):
    image = MetaTensor(torch.randn(1, 9, 9, 9), affine=torch.diag(torch.tensor([4.0, 4, 3, 1])))
    assert torch.equal(antialias(image, SPACING_MM).as_tensor(), image.as_tensor())
