"""Where a box lies in what the network sees, and where its answer lies on the slice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from operators.job import Volume
from operators.models.medsam.picture import (
    Crop,
    CropRule,
    box_in_picture,
    crop_around,
    display_window,
    fitted_shape,
    to_mask,
    to_picture,
)

RULE = CropRule(small_share=0.25, factor=2.0, coarse_pixel_mm=2.0, coarse_factor=1.5)


def volume(array: np.ndarray, unit: str = "HU", padding: np.ndarray | None = None) -> Volume:
    return Volume(array, np.eye(4), unit, "1.2", (), "1.3", "medsam_lite", padding=padding)


def test_hounsfield_units_are_shown_in_the_soft_tissue_window() -> None:
    assert display_window(volume(np.array([[[-1024, 3000]]]))) == (-160.0, 240.0)


def test_other_units_are_shown_between_percentiles_of_what_is_not_padding() -> None:
    array = np.concatenate([np.zeros(1000), np.arange(1, 1002), np.full(50, 9e6)])
    padding = (array > 1e6)[None, None]

    low, high = display_window(volume(array[None, None], "arbitrary", padding))

    assert (low, high) == pytest.approx((6.0, 996.0))


def test_a_slice_without_contrast_gives_a_finite_picture() -> None:
    picture = to_picture(np.full((40, 60), -1000, np.int16), (-160.0, 240.0))

    assert picture.shape == (1, 3, 256, 256)
    assert torch.isfinite(picture).all()


def test_a_picture_is_the_slice_scaled_to_256_with_zeros_below() -> None:
    """A step at column 90 of 180 lies at 128 of 256; 120 rows become 171."""
    part = np.zeros((120, 180), np.int16)
    part[:, 90:] = 100

    picture = to_picture(part, (-160.0, 240.0))[0, 0]

    assert fitted_shape(part.shape) == (171, 256)
    assert picture[171:].abs().max() == 0
    assert picture[:171, :127].max() == 0 and picture[:171, 129:].min() == 1


boxes = st.tuples(*[st.floats(0, 1)] * 4)


@settings(max_examples=200, deadline=None)
@given(
    corners=boxes,
    shape=st.tuples(st.integers(20, 700), st.integers(20, 700)),
    pixel_mm=st.sampled_from([0.5, 4.0]),
)
def test_the_crop_holds_the_box_and_stays_in_the_slice(corners, shape, pixel_mm) -> None:
    rows, columns = shape
    x0, x1 = sorted((corners[0] * columns, corners[1] * columns))
    y0, y1 = sorted((corners[2] * rows, corners[3] * rows))
    assume(x1 - x0 >= 1 and y1 - y0 >= 1)

    crop = crop_around((x0, y0, x1, y1), shape, pixel_mm, RULE)

    assert 0 <= crop.top <= y0 and y1 <= crop.bottom <= rows
    assert 0 <= crop.left <= x0 and x1 <= crop.right <= columns


def test_a_small_box_is_shown_twice_as_wide_and_a_large_one_with_the_whole_slice() -> None:
    assert crop_around((200, 210, 240, 230), (512, 512), 0.8, RULE) == Crop(180, 180, 260, 260)
    assert crop_around((0, 10, 40, 30), (512, 512), 0.8, RULE) == Crop(0, 0, 80, 80)
    assert crop_around((100, 100, 228, 130), (512, 512), 0.8, RULE) == Crop(0, 0, 512, 512)
    assert crop_around((10, 10, 20, 20), (30, 40), 5.0, RULE) == Crop(7, 7, 23, 23)


@settings(max_examples=100, deadline=None)
@given(corners=boxes, shape=st.tuples(st.integers(30, 600), st.integers(30, 600)))
def test_what_the_network_marks_comes_back_to_the_pixels_of_the_box(corners, shape) -> None:
    """A network that marks just the box it is given: pixels whose centre lies in the box."""
    rows, columns = shape
    x0, x1 = sorted((corners[0] * columns, corners[1] * columns))
    y0, y1 = sorted((corners[2] * rows, corners[3] * rows))
    assume(x1 - x0 >= 8 and y1 - y0 >= 8)
    crop = crop_around((x0, y0, x1, y1), shape, 0.8, RULE)
    left, top, right, bottom = box_in_picture((x0, y0, x1, y1), crop)
    at = torch.arange(256) + 0.5
    # Rising from outside to inside with slope 1: linear interpolation keeps it.
    across = torch.minimum(at - left, right - at)[None]
    down = torch.minimum(at - top, bottom - at)[:, None]
    logits = torch.minimum(across, down)

    mask = to_mask(logits, crop, shape)

    j, i = np.mgrid[:rows, :columns] + 0.5
    depth = np.minimum(np.minimum(i - x0, x1 - i), np.minimum(j - y0, y1 - j))
    # Averaging rounds the corners by up to half a pixel; a picture's pixel may be wider still.
    slack = 0.5 + 0.75 * max(crop.shape) / 256
    assert mask[depth > slack].all()
    assert not mask[depth < -slack].any()
