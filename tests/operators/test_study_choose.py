"""Which series a person means, and what is said where that can't be told."""

from __future__ import annotations

from pathlib import Path

import pytest

from operators.study.choose import SeriesAmbiguous, SeriesNotThere, SeriesUnfit, choose_series
from operators.study.read import read_drop
from operators.study.select import Accepts
from tests.series import centred_grid, render, stable_uid, write_ct_series

SHAPE_ZYX = (4, 16, 16)
ACCEPTS = Accepts(modality=("CT", "MR", "PT"))


def studies(folder: Path, *names: str):
    affine = centred_grid(SHAPE_ZYX, (2.0, 1.0, 1.0))
    for name in names:
        write_ct_series(folder / name, render([], SHAPE_ZYX, affine), affine, series=name)
    return read_drop(folder).studies


def uid(name: str) -> str:
    return stable_uid("PHANTOM-1", "study", name)


def test_the_only_series_needs_no_name(tmp_path: Path) -> None:
    match = choose_series(studies(tmp_path, "a"), "medsam_lite", ACCEPTS, None)

    assert (match.bundle, match.series.series_instance_uid) == ("medsam_lite", uid("a"))


def test_of_several_the_named_one_is_taken(tmp_path: Path) -> None:
    match = choose_series(studies(tmp_path, "a", "b"), "medsam_lite", ACCEPTS, uid("b"))

    assert match.series.series_instance_uid == uid("b")


def test_several_without_a_name_are_listed(tmp_path: Path) -> None:
    with pytest.raises(SeriesAmbiguous, match="--series") as raised:
        choose_series(studies(tmp_path, "a", "b"), "medsam_lite", ACCEPTS, None)

    assert uid("a") in str(raised.value) and uid("b") in str(raised.value)
    assert "CT, 4 images" in str(raised.value)


def test_a_series_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(SeriesNotThere, match=uid("a")):
        choose_series(studies(tmp_path, "a"), "medsam_lite", ACCEPTS, "1.2.3")


@pytest.mark.parametrize("named", [False, True])
def test_a_series_that_the_bundle_can_not_take_is_refused_with_the_reason(tmp_path, named) -> None:
    accepts = Accepts(modality=("MR",))
    with pytest.raises(SeriesUnfit, match="'CT' is none of MR"):
        choose_series(studies(tmp_path, "a"), "b", accepts, uid("a") if named else None)


def test_a_folder_without_images_is_said_to_be_one() -> None:
    with pytest.raises(SeriesUnfit, match="holds no series"):
        choose_series((), "medsam_lite", ACCEPTS, None)
