"""Steps behind the decision give the same on the box of what was found as on the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, FillHolesd, KeepLargestConnectedComponentd

from operators.models.finish import finish

LARGEST = KeepLargestConnectedComponentd("pred", applied_labels=[1, 2], independent=True)


def scattered(seed: int, share: float, box: tuple[slice, ...] = (slice(None),) * 3) -> MetaTensor:
    rng = np.random.RandomState(seed)
    labels = np.zeros((1, 24, 30, 18), np.uint8)
    part = labels[(0, *box)]
    part[:] = rng.choice([0, 1, 2, 3], part.shape, p=[1 - share, *[share / 3] * 3])
    return MetaTensor(torch.from_numpy(labels), affine=torch.diag(torch.tensor([2.0, 2, 3, 1])))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("box", [(slice(None),) * 3, (slice(5, 11), slice(0, 9), slice(12, 18))])
def test_the_largest_pieces_are_those_of_the_whole_volume(seed, box):
    pred = scattered(seed, 0.5, box)
    whole = Compose([LARGEST])({"pred": pred.clone()})["pred"]

    made = finish(Compose([LARGEST]), {"pred": pred.clone()})["pred"]

    assert torch.equal(made.as_tensor(), whole.as_tensor())
    assert torch.equal(made.affine, pred.affine)
    assert (made != pred).any() and (made == 1).any() and (made == 3).any()


def test_other_steps_see_the_whole_volume():
    seen = []

    def look(item):
        seen.append(item["pred"].shape)
        return item

    pred = scattered(0, 0.5, (slice(4, 6),) * 3)
    finish(Compose([FillHolesd("pred"), look]), {"pred": pred})
    assert seen == [pred.shape]


def test_nothing_found_stays_nothing():
    pred = scattered(0, 0.0)
    assert not finish(Compose([LARGEST]), {"pred": pred})["pred"].any()
