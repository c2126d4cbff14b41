"""Routes in the real graph: what a plan sends nowhere is not run, and is told so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.graph import analyse, load_models
from operators.job import StudyJob
from operators.study.select import NO_ROUTE, RoutedPair
from tests.series import centred_grid, stable_uid, write_ct_series

SHAPE = (4, 8, 9)  # fewer slices than the shipped bundle's card asks: its network stays unloaded
SERIES = stable_uid("PHANTOM-1", "study", "series")


@pytest.fixture
def run(tmp_path: Path):
    grid = centred_grid(SHAPE, (2.5, 0.8, 1.1))
    write_ct_series(tmp_path / "in", np.zeros(SHAPE, np.int16), grid, body_part="ABDOMEN")

    def analysed(routed: tuple[RoutedPair, ...] | None) -> StudyJob:
        models = load_models()
        return analyse(
            tmp_path / "in", tmp_path / "out", "20240102030405", models=models, routed=routed
        )

    return analysed


@pytest.mark.parametrize(
    ("routed", "said"),
    [
        (None, "body part 'ABDOMEN' is none of"),
        ((), NO_ROUTE),
        ((RoutedPair("head_neck_oar_ct", "1.2.3"),), NO_ROUTE),
        ((RoutedPair("head_neck_oar_ct", SERIES),), "body part 'ABDOMEN' is none of"),
        ((RoutedPair("head_neck_oar_ct", SERIES, ask_body_part=False),), "it has 4 slices, fewer"),
    ],
)
def test_routes_reach_the_selector(run, routed, said) -> None:
    job = run(routed)

    assert job.matches == ()
    (left,) = job.unmatched
    assert said in left.reason
