"""Boxes, points and slices of a command line, and how each mistake is answered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.models.medsam.region import (
    NoPointInside,
    NothingMarked,
    OnImage,
    PairsUneven,
    PointUnreadable,
    of_marks,
    parse_point,
)
from operators.models.medsam.stated import format_point

BOX = (1.0, 2.0, 9.0, 8.0)


@given(st.integers(-99999, 99999), st.integers(-99999, 99999), st.booleans())
def test_a_point_is_read_as_it_is_written(x, y, inside) -> None:
    point = (x / 100, y / 100, inside)

    assert parse_point(format_point(point)) == point


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "1,2,+,4", "a,b", "1,inf", "nan,2", "1,2,x"])
def test_what_is_no_point_is_refused(text: str) -> None:
    with pytest.raises(PointUnreadable, match="82,70,-"):
        parse_point(text)


def test_boxes_and_slices_pair_in_their_order() -> None:
    other = (3.0, 3.0, 7.0, 7.0)
    region = of_marks([BOX, other], [], ["4", "9"], "Liver")

    assert region.marks == (OnImage("4", BOX), OnImage("9", other))
    assert region.label == "Liver" and not region.whole


@pytest.mark.parametrize(
    ("boxes", "points", "slices", "refusal"),
    [
        ([], [], ["1"], NothingMarked),
        ([BOX], [], [], PairsUneven),
        ([BOX, BOX], [], ["1"], PairsUneven),
        ([BOX], [(1, 1, True)], ["1"], PairsUneven),
        ([], [(1, 1, True)], ["1", "2"], PairsUneven),
        ([], [(1, 1, False)], ["1"], NoPointInside),
    ],
)
def test_what_does_not_go_together_is_refused(boxes, points, slices, refusal) -> None:
    with pytest.raises(refusal):
        of_marks(boxes, points, slices, "x")
