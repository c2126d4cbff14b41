"""From points to a box: which sizes are tried, and which answer is believed."""

from __future__ import annotations

import numpy as np
import pytest

from operators.models.medsam.picture import Point
from operators.models.medsam.propose import Answer, best_box, candidate_boxes

SHAPE = (60, 90)
INSIDE: Point = (30.0, 20.0, True)


def disc(radius: float, x: float = 30.0, y: float = 20.0) -> np.ndarray:
    j, i = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    return (i - x) ** 2 + (j - y) ** 2 <= radius**2


def test_candidates_rise_hold_every_point_and_stay_on_the_slice() -> None:
    points = [INSIDE, (44.0, 30.0, True), (80.0, 50.0, False)]
    boxes = candidate_boxes(points, SHAPE)

    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
    assert areas == sorted(areas) and len(boxes) > 5
    for x0, y0, x1, y1 in boxes:
        assert 0 <= x0 < 30 and 44 < x1 <= 90 and 0 <= y0 < 20 and 30 < y1 <= 60
    assert areas[-1] > 0.5 * 60 * 60


def test_the_surest_answer_that_holds_the_points_gives_its_tight_box() -> None:
    answers = [
        Answer(disc(4), 0.5),
        Answer(disc(10), 0.8),
        Answer(disc(15), 0.4),
        Answer(disc(6, x=70.0), 0.99),  # elsewhere
    ]

    assert best_box(answers, [INSIDE]) == (20.0, 10.0, 40.0, 30.0)


def test_a_point_outside_turns_the_choice() -> None:
    answers = [Answer(disc(6), 0.7), Answer(disc(14), 0.9)]

    assert best_box(answers, [INSIDE]) == pytest.approx((16, 6, 44, 34))
    assert best_box(answers, [INSIDE, (40.0, 20.0, False)]) == pytest.approx((24, 14, 36, 26))


def test_where_no_mask_holds_the_point_there_is_no_box() -> None:
    assert best_box([Answer(disc(5, x=70.0), 0.9), Answer(disc(0), 0.9)], [INSIDE]) is None
