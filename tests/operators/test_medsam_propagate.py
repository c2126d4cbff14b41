"""Following a structure through slices, with a segmenter that is a formula.

It marks what is bright inside the box; so the truth is the phantom, and what is
tested is the following alone: boxes, pieces, stops.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from operators.models.medsam.picture import Box
from operators.models.medsam.propagate import (
    End,
    FollowRule,
    Propagated,
    bounding_box,
    continuing_piece,
    interpolated,
    largest_piece,
    propagate,
)
from tests.series import Ball, centred_grid, render

RULE = FollowRule(widen_px=3.0, stop_sd=1.0, smallest_sd_share=0.02, slope=1.0)
STEP_PX = 2.0
WINDOW = (-160.0, 240.0)
SHAPE_ZYX = (40, 64, 72)


def bright_in(array: np.ndarray):
    """Segmenter: brighter than 0 HU, and the pixel's centre in the box; counts its calls."""
    calls: list[int] = []

    def segment_slice(k: int, box: Box) -> np.ndarray:
        calls.append(k)
        j, i = np.mgrid[: array.shape[1], : array.shape[2]] + 0.5
        x0, y0, x1, y1 = box
        return (array[k] > 0) & (i > x0) & (i < x1) & (j > y0) & (j < y1)

    segment_slice.calls = calls  # type: ignore[attr-defined]
    return segment_slice


def from_box(array: np.ndarray, k: int, box: Box, look) -> Propagated:
    """Follow from one box on one slice."""
    return propagate(
        array,
        {k: largest_piece(look(k, box))},
        look,
        window=WINDOW,
        step_px=STEP_PX,
        rule=RULE,
    )


def noisy(shapes: list[Ball], shape_zyx=SHAPE_ZYX) -> np.ndarray:
    array = render(shapes, shape_zyx, centred_grid(shape_zyx, (2.0, 1.0, 1.0)))
    noise = np.random.default_rng(5).normal(0, 8, array.shape)
    return (array + noise).astype(np.int16)


def test_a_ball_is_followed_to_both_poles_and_no_further() -> None:
    array = noisy([Ball((0, 0, 0), 20.0, 100)])

    found = from_box(array, 20, (14, 10, 58, 54), bright_in(array))

    assert found.ends == (End.EMPTY, End.EMPTY)
    assert np.array_equal(found.mask, array > 0)
    assert found.mask[found.first].any() and found.mask[found.last].any()
    assert not found.mask[: found.first].any() and not found.mask[found.last + 1 :].any()


def test_only_the_boxed_one_of_two_balls_is_taken() -> None:
    left, right = Ball((-18, 0, 0), 14.0, 100), Ball((16, 0, 0), 14.0, 100)
    array = noisy([left, right])
    alone = noisy([left]) > 0

    found = from_box(array, 20, (2, 15, 35, 49), bright_in(array))

    assert np.array_equal(found.mask, alone)


def test_it_stops_where_the_tissue_changes_and_says_so() -> None:
    """The upper half of one bright column is 60 HU brighter; noise is 8 HU."""
    array = noisy([])
    array[:, 20:40, 20:40] += 1100
    array[25:, 20:40, 20:40] += 60

    found = from_box(array, 10, (17, 17, 43, 43), bright_in(array))

    assert (found.first, found.last) == (0, 24)
    assert found.ends == (End.SERIES, End.INTENSITY)


def test_a_mask_that_once_falls_upon_a_part_grows_back() -> None:
    """The segmenter sees a corner of a column on one slice, and then what its box holds."""
    array = noisy([])
    array[:, 20:44, 20:44] = 100
    look = bright_in(array)

    def lapsing(k: int, box: Box) -> np.ndarray:
        found = look(k, box)
        if k == 22:
            found[26:] = found[:, 26:] = False
        return found

    found = from_box(array, 20, (17, 17, 47, 47), lapsing)

    assert found.mask[22].sum() >= 20 * 20  # 24 x 24, its outline moved in by 2
    assert np.array_equal(found.mask[24:], array[24:] > 0)


def test_values_beyond_the_window_do_not_stop_it() -> None:
    """Bone of 400 and of 900 HU is one white in the window."""
    array = noisy([])
    array[:, 20:40, 20:40] = 400
    array[25:, 20:40, 20:40] = 900

    found = from_box(array, 10, (17, 17, 43, 43), bright_in(array))

    assert (found.first, found.last) == (0, 39)


def test_an_empty_box_costs_one_look_and_gives_an_empty_mask() -> None:
    array = noisy([])
    look = bright_in(array)

    found = from_box(array, 7, (3, 3, 30, 30), look)

    assert not found.mask.any() and look.calls == [7]
    assert found.ends == (End.EMPTY, End.EMPTY)


def test_every_slice_is_looked_at_once() -> None:
    array = noisy([Ball((0, 0, 0), 20.0, 100)])
    look = bright_in(array)

    from_box(array, 20, (14, 10, 58, 54), look)

    assert len(look.calls) == len(set(look.calls))
    steps = {abs(b - a) for a, b in pairwise(look.calls)}
    assert steps <= {1, len(look.calls) // 2 + 1}


def test_between_marked_slices_the_box_moves_evenly() -> None:
    boxes = interpolated({26: (29.0, 18.0, 49.0, 44.0), 14: (17.0, 18.0, 37.0, 42.0)})

    assert list(boxes) == list(range(14, 27))
    assert boxes[14] == (17.0, 18.0, 37.0, 42.0) and boxes[26] == (29.0, 18.0, 49.0, 44.0)
    assert boxes[20] == (23.0, 18.0, 43.0, 43.0) and boxes[17] == (20.0, 18.0, 40.0, 42.5)
    assert interpolated({3: (0.0, 0.0, 5.0, 5.0)}) == {3: (0.0, 0.0, 5.0, 5.0)}


def test_beyond_the_outer_marked_slices_it_is_followed() -> None:
    array = noisy([])
    array[10:31, 20:40, 20:40] = 100
    look = bright_in(array)
    box: Box = (18.0, 18.0, 42.0, 42.0)
    marked = {k: look(k, box) for k in range(14, 27)}

    found = propagate(array, marked, look, window=WINDOW, step_px=STEP_PX, rule=RULE)

    assert np.array_equal(found.mask, array > 50)
    assert (found.first, found.last) == (10, 30)


def test_a_structure_that_is_marked_whole_is_not_followed_beyond() -> None:
    array = noisy([])
    array[:, 20:40, 20:40] = 100
    look = bright_in(array)
    box: Box = (18.0, 18.0, 42.0, 42.0)

    found = propagate(
        array,
        {k: look(k, box) for k in range(12, 16)},
        look,
        window=WINDOW,
        step_px=STEP_PX,
        rule=RULE,
        onward=False,
    )

    assert (found.first, found.last) == (12, 15) and found.ends == (End.MARKED, End.MARKED)
    assert found.mask.any(axis=(1, 2)).sum() == 4


def test_a_marked_slice_without_anything_is_left_out() -> None:
    array = noisy([Ball((0, 0, 0), 20.0, 100)])
    look = bright_in(array)
    boxes: dict[int, Box] = {2: (1.0, 1.0, 9.0, 9.0), 20: (14.0, 10.0, 58.0, 54.0)}

    found = propagate(
        array,
        {k: look(k, box) for k, box in boxes.items()},
        look,
        window=WINDOW,
        step_px=STEP_PX,
        rule=RULE,
    )

    assert np.array_equal(found.mask, array > 50)


def test_a_bounding_box_is_made_of_pixel_edges() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:9, 10:12] = True

    assert bounding_box(mask, 0.0) == (10.0, 4.0, 12.0, 9.0)
    assert bounding_box(mask, 5.0) == (5.0, 0.0, 17.0, 14.0)
    assert bounding_box(mask, 50.0) == (0.0, 0.0, 30.0, 20.0)


@pytest.mark.parametrize("function", [largest_piece, lambda m: continuing_piece(m, m)])
def test_of_two_pieces_the_larger_is_kept(function) -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:4, 2:4] = True
    mask[10:15, 10:15] = True

    kept = function(mask)

    assert kept.sum() == 25 and kept[12, 12]
    assert not function(np.zeros((4, 4), bool)).any()
