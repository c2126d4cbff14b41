"""Loose boxes are pixel edges, moved outward only; crops hold them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bundles.medsam_lite_ct_mr.scripts.boxes import (
    loose_box,
    looseness_px,
    random_crop,
    tight_box,
)

SHAPE = (40, 60)


def rectangle(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_the_far_corner_is_one_past_the_last_pixel() -> None:
    assert tight_box(rectangle(3, 7, 1, 1)) == (7.0, 3.0, 8.0, 4.0)
    assert tight_box(rectangle(3, 7, 5, 2)) == (7.0, 3.0, 9.0, 8.0)


@given(
    st.integers(0, 35), st.integers(0, 55), st.integers(1, 40), st.integers(1, 60), st.integers()
)
def test_a_loose_box_only_grows_and_stays_on_the_slice(top, left, height, width, seed) -> None:
    tight = tight_box(rectangle(top, left, height, width))

    x0, y0, x1, y1 = loose_box(tight, SHAPE, 5.0, np.random.default_rng(abs(seed)))

    assert 0 <= x0 <= tight[0] and 0 <= y0 <= tight[1]
    assert tight[2] <= x1 <= SHAPE[1] and tight[3] <= y1 <= SHAPE[0]
    assert max(tight[0] - x0, tight[1] - y0, x1 - tight[2], y1 - tight[3]) <= 5.0


def test_each_side_moves_on_its_own_and_evenly() -> None:
    tight = tight_box(rectangle(15, 25, 4, 4))
    random = np.random.default_rng(1)

    moved = np.array([loose_box(tight, SHAPE, 5.0, random) for _ in range(4000)]) - tight

    outward = np.abs(moved)
    assert np.allclose(outward.mean(axis=0), 2.5, atol=0.1)
    assert np.allclose(np.corrcoef(outward.T), np.eye(4), atol=0.06)


def test_the_same_seed_draws_the_same_box() -> None:
    tight = tight_box(rectangle(15, 25, 4, 4))

    boxes = {loose_box(tight, SHAPE, 5.0, np.random.default_rng(9)) for _ in range(3)}

    assert len(boxes) == 1


def test_coarse_grids_are_loose_by_one_pixel() -> None:
    assert [looseness_px(mm) for mm in (0.5, 0.977, 1.0, 3.9)] == [5.0, 5.0, 1.0, 1.0]


@given(
    st.integers(0, 30), st.integers(0, 50), st.integers(2, 10), st.integers(2, 10), st.integers()
)
def test_a_crop_holds_its_box(top, left, height, width, seed) -> None:
    box = tight_box(rectangle(top, left, height, width))

    crop = random_crop(box, SHAPE, np.random.default_rng(abs(seed)))

    assert 0 <= crop.left <= box[0] and box[2] <= crop.right <= SHAPE[1]
    assert 0 <= crop.top <= box[1] and box[3] <= crop.bottom <= SHAPE[0]
