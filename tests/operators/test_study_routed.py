"""Routes and cards: a route opens a way, and overrules a card in the body part at most."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from operators.job import Study
from operators.study.read import read_drop
from operators.study.select import Accepts, RoutedPair, select
from tests.series import centred_grid, write_ct_series

SHAPE = (6, 8, 9)
CARD = Accepts(modality=("CT",), body_part=("HEAD",), min_slices=5)


@pytest.fixture
def studies(tmp_path: Path) -> tuple[Study, ...]:
    """Two series of six slices, of the head and of nothing in particular."""
    grid = centred_grid(SHAPE, (2.5, 0.8, 1.1))
    for series, body_part in (("a", "HEAD"), ("b", None)):
        folder = tmp_path / series
        write_ct_series(folder, np.zeros(SHAPE, np.int16), grid, series=series, body_part=body_part)
    return read_drop(tmp_path).studies


def uid_of(studies: tuple[Study, ...], body_part: str) -> str:
    (uid,) = (
        series.series_instance_uid
        for series in studies[0].series
        if series.instances[0].header.get("BodyPartExamined", "") == body_part
    )
    return uid


def test_only_what_is_routed_is_matched_and_the_rest_says_so(studies) -> None:
    head, other = uid_of(studies, "HEAD"), uid_of(studies, "")
    cards = {"one": CARD, "two": replace(CARD, body_part=())}

    matches, unmatched = select(studies, cards, routed=[RoutedPair("one", head)])

    assert [(m.bundle, m.series.series_instance_uid) for m in matches] == [("one", head)]
    (left,) = unmatched
    assert left.what == other
    assert left.reason.count("no route sends it there") == 2


def test_no_routes_at_all_is_what_it_was(studies) -> None:
    cards = {"one": CARD, "two": replace(CARD, body_part=())}
    everything = [
        RoutedPair(bundle, series.series_instance_uid)
        for bundle in cards
        for series in studies[0].series
    ]

    assert select(studies, cards) == select(studies, cards, routed=everything)


def test_a_route_may_vouch_for_the_body_part_and_for_nothing_else(studies) -> None:
    other = uid_of(studies, "")

    def matched(accepts: Accepts, *, ask_body_part: bool) -> bool:
        pairs = [RoutedPair("one", other, ask_body_part)]
        return bool(select(studies, {"one": accepts}, routed=pairs)[0])

    assert not matched(CARD, ask_body_part=True)
    assert matched(CARD, ask_body_part=False)
    for limit in (
        {"modality": ("MR",)},
        {"min_slices": 7},
        {"max_slice_spacing_mm": 2.0},
        {"max_pixel_mm": 1.0},
        {"image_type_none_of": ("AXIAL",)},
        {"sop_classes": ("1.2.840.10008.5.1.4.1.1.4",)},
    ):
        assert not matched(replace(CARD, **limit), ask_body_part=False), limit


def test_a_person_who_forces_a_bundle_is_not_stopped_by_routes(studies) -> None:
    matches, _ = select(studies, {"one": CARD}, "one", routed=[])

    assert len(matches) == 2
