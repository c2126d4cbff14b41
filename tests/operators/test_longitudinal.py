"""Growth between two studies, against formulas: balls on whatever two grids."""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest

from operators.compared import Comparison, Prior, Priors, WhoAndWhen
from operators.findings.longitudinal import (
    check_comparable,
    compare,
    compare_job,
    doubling_time_days,
    who_and_when,
)
from operators.findings.prior_refusals import PriorRefusal
from operators.job import Plane, Report, StudyJob
from tests.operators.priors import (
    CENTRE,
    FRAME,
    SHAPE,
    as_prior,
    ball,
    lesion,
    study,
)
from tests.operators.report import make_report
from tests.operators.scene import MODEL, RECORDED_AT, segment
from tests.series import Ball, oblique

THEN, NOW = "20240102", "20240201"
DAYS = 30
LARYNX = segment(1, "larynx")
GRIDS = {
    "same": (SHAPE, (1.0, 0.8, 0.9), None),
    "anisotropic": ((20, 70, 60), (2.5, 0.7, 0.8), None),
    "oblique": ((44, 60, 60), (1.1, 0.9, 0.9), oblique(25, 35)),
    "flipped": (SHAPE, (1.0, 0.8, 0.9), np.diag([-1.0, 1.0, -1.0])),
    "left-handed": (SHAPE, (1.0, 0.8, 0.9), np.diag([1.0, 1.0, -1.0])),
    "sagittal": ((50, 60, 50), (0.9, 0.9, 0.9), np.eye(3)[:, (1, 2, 0)]),
}


def then(folder: Path, radius_mm: float, grid: str = "same") -> Prior:
    shape, spacing, directions = GRIDS[grid]
    return as_prior(
        study(
            folder / "then",
            [ball(radius_mm)],
            [LARYNX],
            date=THEN,
            shape_zyx=shape,
            spacing_zyx_mm=spacing,
            directions=directions,
        ),
        folder / "written",
    )


def through(report: Report, *priors: Prior) -> Comparison:
    """As the graph compares."""
    job = StudyJob(Path(), Path(), RECORDED_AT, reports=(report,))
    (compared,) = compare_job(job, lambda present: Priors(priors)).reports
    assert compared.comparison is not None
    return compared.comparison


def why_not(report: Report, *priors: Prior) -> str:
    said = through(report, *priors)
    assert said.prior is None and not said.pairs
    (flag,) = said.flags
    assert flag.name == "prior-not-compared"
    return flag.text


@pytest.mark.parametrize("grid", GRIDS)
def test_a_ball_of_10_mm_that_becomes_12_has_grown_by_728_per_mille(
    tmp_path: Path, grid: str
) -> None:
    now = study(tmp_path / "now", [ball(12.0)], [LARYNX], date=NOW)

    said = through(now, then(tmp_path, 10.0, grid))

    (pair,) = said.pairs
    volume = pair.changes[0]
    assert (said.interval_days, pair.matched_by, pair.dice) == (DAYS, "code and side", None)
    assert volume.prior == pytest.approx(4.18879, rel=0.02)
    assert volume.change_percent == pytest.approx(72.8, abs=3.0)
    assert volume.exceeds_uncertainty
    assert pair.doubling_time_days == pytest.approx(DAYS * log(2) / log(1.728), rel=0.05)
    if grid in ("oblique", "sagittal"):
        assert len(pair.changes) == 1
        assert "axes are not compared" in pair.remarks[0]
    else:
        assert [change.name for change in pair.changes] == ["volume", "long_axis", "short_axis"]
        assert [change.change for change in pair.changes[1:]] == pytest.approx([4, 4], abs=1.2)
        assert pair.remarks == ()
    assert said.flags == () and said.not_matched == ()


@pytest.mark.parametrize("grid", GRIDS)
def test_the_same_ball_on_another_grid_has_not_grown(tmp_path: Path, grid: str) -> None:
    now = study(tmp_path / "now", [ball(10.0)], [LARYNX], date=NOW)

    (pair,) = through(now, then(tmp_path, 10.0, grid)).pairs

    assert [change.exceeds_uncertainty for change in pair.changes] == [False] * len(pair.changes)
    assert pair.doubling_time_days is None


def test_the_uncertainty_is_the_root_of_both_squares(tmp_path: Path) -> None:
    now = study(tmp_path / "now", [ball(12.0)], [LARYNX], date=NOW)
    earlier = study(tmp_path / "earlier", [ball(10.0)], [LARYNX], date=THEN)

    (pair,) = through(now, as_prior(earlier, tmp_path / "out")).pairs

    both = [
        {m.name: m for m in report.findings[0].measurements}[pair.changes[0].name]
        for report in (earlier, now)
    ]
    assert pair.changes[0].prior == pytest.approx(both[0].value, rel=1e-9)
    squares = sum((measured.uncertainty or 0) ** 2 for measured in both)
    assert pair.changes[0].uncertainty == pytest.approx(squares**0.5, rel=1e-9)


def test_a_shrinking_ball_has_no_doubling_time(tmp_path: Path) -> None:
    now = study(tmp_path / "now", [ball(10.0)], [LARYNX], date=NOW)

    (pair,) = through(now, then(tmp_path, 12.0)).pairs

    assert pair.changes[0].exceeds_uncertainty and pair.changes[0].change < 0
    assert pair.doubling_time_days is None


def test_twice_the_volume_takes_the_interval() -> None:
    assert doubling_time_days(3.0, 6.0, 90) == pytest.approx(90)
    assert doubling_time_days(3.0, 12.0, 90) == pytest.approx(45)


def test_what_is_cut_off_then_or_now_is_not_judged(tmp_path: Path) -> None:
    at_the_end = (CENTRE[0], CENTRE[1], CENTRE[2] + 20.0)
    cut = study(tmp_path / "cut", [ball(12.0, at=at_the_end)], [LARYNX], date=NOW)
    cut_then = study(tmp_path / "cut-then", [ball(10.0, at=at_the_end)], [LARYNX], date=THEN)
    whole = study(tmp_path / "whole", [ball(12.0)], [LARYNX], date=NOW)

    for report, prior, when in (
        (cut, then(tmp_path, 10.0), "(now)"),
        (whole, as_prior(cut_then, tmp_path / "out"), "(then)"),
    ):
        (pair,) = through(report, prior).pairs
        assert {change.exceeds_uncertainty for change in pair.changes} == {None}
        assert pair.doubling_time_days is None
        assert when in pair.remarks[0]


# Which is which


def test_left_and_right_are_never_one(tmp_path: Path) -> None:
    left, right = segment(1, "parotid", "left"), segment(2, "parotid", "right")
    prior = as_prior(study(tmp_path / "then", [ball(8.0, 2)], [right], date=THEN), tmp_path / "out")
    now = study(tmp_path / "now", [ball(8.0, 1)], [left], date=NOW)

    said = through(now, prior)

    assert said.prior == prior.identity and not said.pairs
    assert [(one.label, one.present) for one in said.not_matched] == [
        ("Parotid left", True),
        ("Parotid right", False),
    ]


def test_each_side_is_compared_with_its_own(tmp_path: Path) -> None:
    left, right = segment(1, "parotid", "left"), segment(2, "parotid", "right")
    at = {1: (CENTRE[0] + 12, *CENTRE[1:]), 2: (CENTRE[0] - 12, *CENTRE[1:])}
    prior = as_prior(
        study(tmp_path / "then", [ball(6, 1, at[1]), ball(8, 2, at[2])], [left, right], date=THEN),
        tmp_path / "out",
    )
    now = study(tmp_path / "now", [ball(8, 2, at[2]), ball(6, 1, at[1])], [right, left], date=NOW)

    said = through(now, prior)

    assert {pair.label: pair.changes[0].exceeds_uncertainty for pair in said.pairs} == {
        "Parotid left": False,
        "Parotid right": False,
    }


def test_swapped_sides_are_not_compared(tmp_path: Path) -> None:
    left, right = segment(1, "parotid", "left"), segment(2, "parotid", "right")
    shapes = [ball(6, 1, (CENTRE[0] + 12, *CENTRE[1:])), ball(8, 2, (CENTRE[0] - 12, *CENTRE[1:]))]
    swapped = [ball(6, 2, (CENTRE[0] + 12, *CENTRE[1:])), ball(8, 1, (CENTRE[0] - 12, *CENTRE[1:]))]
    good = study(tmp_path / "good", shapes, [left, right], date=NOW)
    bad = study(tmp_path / "bad", swapped, [left, right], date=NOW)
    good_then = study(tmp_path / "good-then", shapes, [left, right], date=THEN)
    bad_then = study(tmp_path / "bad-then", swapped, [left, right], date=THEN)

    for report, earlier, which in ((bad, good_then, "this"), (good, bad_then, "the earlier")):
        said = through(report, as_prior(earlier, tmp_path / which))
        assert not said.pairs
        reasons = {one.reason for one in said.not_matched if one.present}
        assert reasons == {f"left and right may be swapped in {which} result"}


def test_lesions_are_matched_by_where_they_are_not_by_their_number(tmp_path: Path) -> None:
    near, far = CENTRE, (CENTRE[0] - 14, CENTRE[1] + 14, CENTRE[2])
    both = [lesion(1), lesion(2)]
    prior = as_prior(
        study(
            tmp_path / "then",
            [ball(6.0, 1, near), ball(4.0, 2, far)],
            both,
            date=THEN,
            frame=FRAME,
            shape_zyx=(44, 70, 70),
            spacing_zyx_mm=(1.2, 0.9, 0.7),
            directions=oblique(15, 20),
        ),
        tmp_path / "out",
    )
    now = study(
        tmp_path / "now", [ball(7.0, 2, near), ball(4.0, 1, far)], both, date=NOW, frame=FRAME
    )

    said = through(now, prior)

    by_number = {pair.number: pair for pair in said.pairs}
    assert {n: pair.prior_number for n, pair in by_number.items()} == {1: 2, 2: 1}
    assert {pair.matched_by for pair in said.pairs} == {"overlap"}
    # Concentric: the smaller one lies within the larger one.
    assert by_number[2].dice == pytest.approx(2 * 6**3 / (6**3 + 7**3), abs=0.03)
    assert by_number[1].dice == pytest.approx(1.0, abs=0.12)


def test_lesions_of_two_frames_of_reference_are_not_matched(tmp_path: Path) -> None:
    prior = as_prior(
        study(tmp_path / "then", [ball(6.0)], [lesion(1)], date=THEN), tmp_path / "out"
    )
    now = study(tmp_path / "now", [ball(7.0)], [lesion(1)], date=NOW)

    said = through(now, prior)

    assert not said.pairs
    assert "share no frame of reference" in said.not_matched[0].reason


def test_a_lesion_elsewhere_and_a_second_one_in_one_place_stay_alone(tmp_path: Path) -> None:
    prior = as_prior(
        study(
            tmp_path / "then",
            [Ball(CENTRE, 8.0, 10)],
            [lesion(1)],
            date=THEN,
            frame=FRAME,
        ),
        tmp_path / "out",
    )
    beside = (CENTRE[0] + 7, *CENTRE[1:])
    away = (CENTRE[0] - 16, CENTRE[1] - 10, CENTRE[2])
    now = study(
        tmp_path / "now",
        [ball(6.5, 1), ball(4.0, 2, beside), ball(5.0, 3, away)],
        [lesion(1), lesion(2), lesion(3)],
        date=NOW,
        frame=FRAME,
    )

    said = through(now, prior)

    assert [(pair.number, pair.prior_number) for pair in said.pairs] == [(1, 1)]
    reasons = {one.label: one.reason for one in said.not_matched}
    assert "larger overlap" in reasons["Lesion 2"]
    # One that became two has not shrunk.
    assert said.pairs[0].changes[0].exceeds_uncertainty is None
    assert "merged or split" in said.pairs[0].remarks[0]
    assert "is below 0.1" in reasons["Lesion 3"]


def test_what_a_person_marked_with_an_earlier_segment_is_that_one(tmp_path: Path) -> None:
    prior = as_prior(
        study(tmp_path / "then", [ball(6.0)], [lesion(1)], date=THEN), tmp_path / "out"
    )
    (structure,) = prior.structures
    seg_uid = prior.identity.seg_sop_instance_uid
    for prompt in (
        (("prompt_tracking_uid", structure.tracking_uid),),
        (("prompt_seg", seg_uid), ("prompt_segment", "1")),
    ):
        model = replace(MODEL, prompt=prompt)
        now = study(tmp_path / "now", [ball(7.0)], [LARYNX], date=NOW, model=model)
        (pair,) = through(now, prior).pairs
        assert pair.matched_by == "tracking UID"


# Whose and when


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"patient_id": "P-2"}, "RL-2172"),
        ({"patient_id": "p-1"}, "RL-2172"),
        ({"patient_id": ""}, "RL-2172"),
        ({"issuer": "Other"}, "RL-2172"),
        ({"issuer": ""}, "RL-2172"),
        ({"study_date": ""}, "RL-2173"),
        ({"study_date": "2024"}, "RL-2173"),
        ({"study_date": NOW}, "RL-2174"),
        ({"study_date": "20240202"}, "RL-2174"),
    ],
)
def test_another_patient_s_or_no_earlier_result_is_refused(
    tmp_path: Path, change: dict[str, str], code: str
) -> None:
    prior = then(tmp_path, 10.0)
    now = study(tmp_path / "now", [ball(12.0)], [LARYNX], date=NOW)
    other = replace(prior, whose=replace(prior.whose, **change))

    said = why_not(now, other)

    assert code in said
    assert "P-1" not in said and "P-2" not in said
    # Beside one that fits, it is named and not used.
    both = through(now, other, prior)
    assert both.pairs and [flag.name for flag in both.flags] == ["prior-left-out"]


def test_without_a_patient_id_nothing_is_looked_for(tmp_path: Path) -> None:
    now = study(tmp_path / "now", [ball(12.0)], [LARYNX], date=NOW, patient_id="")
    nobody = replace(then(tmp_path, 10.0), whose=WhoAndWhen("Hospital", "", "1.2", THEN))

    assert "RL-2171" in why_not(now, nobody)


def test_a_rejected_result_is_refused_and_a_confirmed_one_comes_first(tmp_path: Path) -> None:
    now = study(tmp_path / "now", [ball(12.0)], [LARYNX], date=NOW)
    prior = then(tmp_path, 10.0)
    long_ago = replace(
        prior,
        whose=replace(prior.whose, study_date="20200101"),
        identity=replace(prior.identity, confirmed=True, study_date="20200101"),
    )

    assert "RL-2175" in why_not(now, replace(prior, rejected=True))
    assert through(now, prior, long_ago).prior == long_ago.identity
    unconfirmed = replace(long_ago, identity=replace(long_ago.identity, confirmed=False))
    assert through(now, unconfirmed, prior).prior == prior.identity


@pytest.mark.parametrize("change", [{"weights_sha256": "f" * 64}, {"version": "1.2.4"}])
def test_another_model_is_said(tmp_path: Path, change: dict[str, str]) -> None:
    model = replace(MODEL, **change)
    now = study(tmp_path / "now", [ball(12.0)], [LARYNX], date=NOW, model=model)

    said = through(now, then(tmp_path, 10.0))

    assert said.pairs
    assert [flag.name for flag in said.flags] == ["prior-other-model"]
    assert "may be the model's" in said.flags[0].text
    (pair,) = said.pairs
    assert {change.exceeds_uncertainty for change in pair.changes} == {None}
    assert pair.doubling_time_days is None and "not judged" in pair.remarks[0]
    assert pair.changes[0].change > 0


@pytest.mark.parametrize("keyword", ["birth_date", "sex"])
def test_who_shares_an_id_but_not_this_is_another_patient(tmp_path: Path, keyword: str) -> None:
    now = study(tmp_path / "now", [ball(12.0)], [LARYNX], date=NOW)
    prior = then(tmp_path, 10.0)
    present = who_and_when(now.segmentation.volume.headers[0])
    one, other = replace(present, **{keyword: "A"}), replace(prior.whose, **{keyword: "B"})

    with pytest.raises(PriorRefusal, match="another patient") as caught:
        check_comparable(one, replace(prior, whose=other))
    assert caught.value.code == "RL-2172"
    assert check_comparable(replace(one, **{keyword: ""}), replace(prior, whose=other)) > 0


def test_where_the_earlier_image_may_have_ended_in_it_growth_is_not_judged(tmp_path: Path) -> None:
    now = study(tmp_path / "now", [ball(12.0)], [LARYNX], date=NOW)
    prior = then(tmp_path, 10.0)
    (structure,) = prior.structures
    placed = replace(structure.load(), cut_off=None)

    said = through(now, replace(prior, structures=(replace(structure, load=lambda: placed),)))

    (pair,) = said.pairs
    assert pair.changes[0].exceeds_uncertainty is None and pair.doubling_time_days is None
    assert "can't be told" in pair.remarks[0]


def test_whatever_goes_wrong_the_job_goes_on(tmp_path: Path) -> None:
    now = study(tmp_path / "now", [ball(12.0)], [LARYNX], date=NOW)

    def broken(_present: WhoAndWhen) -> Priors:
        raise KeyError("Doe^John")

    job = StudyJob(Path(), Path(), RECORDED_AT, reports=(now, make_report(1)))
    first, second = compare_job(job, broken).reports

    assert first.findings == now.findings
    for report in (first, second):
        assert report.comparison is not None
        assert "KeyError" in report.comparison.flags[0].text
        assert "Doe" not in report.comparison.flags[0].text


def test_a_2d_image_is_not_compared_and_nothing_is_said() -> None:
    planar = make_report(1, plane=Plane("xray", None, (), ""))
    job = StudyJob(Path(), Path(), RECORDED_AT, reports=(planar,))

    assert compare_job(job, lambda _present: pytest.fail("asked")).reports == (planar,)


def test_compare_takes_the_interval_as_it_is(tmp_path: Path) -> None:
    now = study(tmp_path / "now", [ball(12.0)], [LARYNX], date=NOW)

    (pair,) = compare(now, then(tmp_path, 10.0), 60).pairs

    assert pair.doubling_time_days == pytest.approx(60 * log(2) / log(1.728), rel=0.05)
