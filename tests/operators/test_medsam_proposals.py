"""Proposals with a network whose answers are known: what is kept follows from the rule alone."""

from __future__ import annotations

import numpy as np
import pytest

from operators.models.medsam.proposals import (
    MOST_SEGMENTS,
    ProposalRule,
    grid_boxes,
    overlap,
    propose,
    proposed_segments,
)

SHAPE = (96, 128)
SIDE = 128
RULE = ProposalRule()
Y, X = np.mgrid[:SIDE, :SIDE] + 0.5
PICTURE = np.random.default_rng(1).random(SHAPE).astype(np.float32)


def disc(x: float, y: float, radius: float) -> np.ndarray:
    """Distance inside the edge in pixels, so that thresholds of 1 are rings of one pixel."""
    return (radius - np.hypot(X - x, Y - y)).astype(np.float32)


def nearest(*discs: tuple[float, float, float], sharpness: float = 4.0):
    """A network that answers each box with the disc whose centre is nearest to its middle."""

    def answer(boxes: np.ndarray) -> np.ndarray:
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
        chosen = [
            min(discs, key=lambda d, m=middle: np.hypot(d[0] - m[0], d[1] - m[1]))
            for middle in middles
        ]
        return np.stack([disc(*each) * sharpness for each in chosen])

    return answer


def test_every_disc_is_proposed_once_and_where_it_is():
    discs = ((30, 30, 12), (90, 40, 15), (60, 75, 10))

    found = propose(nearest(*discs), PICTURE, RULE)

    assert len(found) == len(discs)
    rows, columns = SHAPE
    for x, y, radius in discs:
        truth = disc(x, y, radius)[:rows, :columns] > 0
        assert max(overlap(p.mask, truth) for p in found) == 1.0
    assert [p.stability for p in found] == sorted((p.stability for p in found), reverse=True)


def test_an_outline_that_moves_with_the_threshold_is_dropped():
    """Radius r, slope s: the two masks have radii r - 1/s and r + 1/s."""
    radius, sharpness = 12.0, 0.4
    expected = ((radius - 1 / sharpness) / (radius + 1 / sharpness)) ** 2
    (found,) = propose(
        nearest((64, 48, radius), sharpness=sharpness), PICTURE, ProposalRule(least_stability=0.0)
    )

    assert found.stability == pytest.approx(expected, abs=0.02)
    assert expected < RULE.least_stability
    assert propose(nearest((64, 48, radius), sharpness=sharpness), PICTURE, RULE) == ()


def test_an_answer_that_only_follows_its_box_is_dropped():
    """A network that fills half of whatever box it is given finds nothing."""

    def half(boxes: np.ndarray) -> np.ndarray:
        x0, y0, x1, y1 = (column[:, None, None] for column in boxes.T)
        inside = (x0 < X) & ((x0 + x1) / 2 > X) & (y0 < Y) & (y1 > Y)
        return np.where(inside, 9.0, -9.0).astype(np.float32)

    assert propose(half, PICTURE, ProposalRule(least_agreement=0.0))
    assert propose(half, PICTURE, RULE) == ()


@pytest.mark.parametrize(
    ("radius", "why"), [(2.0, "smaller than 0.2 % of the picture"), (60.0, "larger than half")]
)
def test_noise_and_background_are_no_regions(radius, why):
    assert propose(nearest((64, 48, radius)), PICTURE, RULE) == (), why


def test_a_region_in_which_nothing_is_to_be_seen_is_dropped():
    black = PICTURE.copy()
    black[:48] = 0.0

    (found,) = propose(nearest((40, 24, 14), (90, 72, 14)), black, RULE)

    assert found.mask[72, 90]


def test_boxes_lie_inside_the_picture_and_reach_its_edges():
    boxes = grid_boxes(SHAPE, RULE)

    assert len(boxes) == 9 + 25 + 6 + 6
    assert boxes.min() == 0
    assert boxes[:, 2].max() == pytest.approx(SHAPE[1])
    assert boxes[:, 3].max() == pytest.approx(SHAPE[0])


def test_segments_say_that_they_are_proposed_and_fit_the_planes_of_bits():
    segments = proposed_segments(RULE.most)

    assert [s.number for s in segments] == list(range(1, RULE.most + 1))
    assert all(s.label.startswith("Proposed region") for s in segments)
    assert RULE.most <= MOST_SEGMENTS
