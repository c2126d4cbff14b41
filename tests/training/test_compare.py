"""The gate's arithmetic, with values whose answer can be said beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from training.compare import MIN_PATIENTS, by_patient, compare, dice

NAMES = ("left", "right")
NAN = np.nan


def values(*columns: float, patients: int = 12) -> np.ndarray:
    """The same Dice in every patient."""
    return np.tile(columns, (patients, 1)).astype(float)


def test_better_everywhere_is_promoted() -> None:
    found = compare(values(0.7, 0.8), values(0.8, 0.8), NAMES)

    assert found.decision == "promote"
    assert found.mean_difference == pytest.approx(0.05)
    assert found.interval == pytest.approx((0.05, 0.05))
    assert found.reasons[0].startswith("mean Dice changes by +0.0500 (95 % interval +0.0500")


def test_equal_is_refused() -> None:
    found = compare(values(0.7, 0.8), values(0.7, 0.8), NAMES)

    assert found.decision == "refused"
    assert "lower bound is not above 0" in found.reasons[0]


def test_worse_is_refused_with_its_numbers() -> None:
    found = compare(values(0.9, 0.9), values(0.4, 0.9), NAMES)

    assert found.decision == "refused"
    assert "mean Dice changes by -0.2500" in found.reasons[0]
    assert "left falls by 0.500 from 0.900 to 0.400 (limit 0.01)" in found.reasons


def test_a_gain_that_one_structure_pays_for_is_refused() -> None:
    found = compare(values(0.5, 0.80), values(0.9, 0.78), NAMES)

    assert found.interval is not None and found.interval[0] > 0
    assert found.decision == "refused"
    assert found.reasons[1] == "right falls by 0.020 from 0.800 to 0.780 (limit 0.01)"


def test_a_fall_within_the_tolerance_is_let_through() -> None:
    assert compare(values(0.5, 0.80), values(0.9, 0.795), NAMES).decision == "promote"


@pytest.mark.parametrize(("patients", "decision"), [(9, "undecided"), (10, "promote")])
def test_ten_patients_decide(patients: int, decision: str) -> None:
    before, after = values(0.5, 0.5, patients=patients), values(0.9, 0.9, patients=patients)

    found = compare(before, after, NAMES)

    assert found.decision == decision
    assert MIN_PATIENTS == 10
    if patients == 9:
        assert found.reasons[0] == "9 hold-out patients (at least 10 are needed)"
        assert "+0.4000" in found.reasons[1]


def test_nobody_held_out_is_undecided() -> None:
    found = compare(np.empty((0, 2)), np.empty((0, 2)), NAMES)

    assert (found.decision, found.patients, found.mean_difference) == ("undecided", 0, None)


def test_unlabelled_says_nothing() -> None:
    """Ten patients with one structure each; a third is labelled in none and does not count."""
    before = np.array([[0.5, NAN], [NAN, 0.5]] * 5 + [[NAN, NAN]])
    after = np.array([[0.6, NAN], [NAN, 0.8]] * 5 + [[NAN, NAN]])

    found = compare(before, after, NAMES)

    assert found.patients == 10
    assert found.mean_difference == pytest.approx(0.2)
    assert [(s.name, s.patients) for s in found.structures] == [("left", 5), ("right", 5)]


def test_the_interval_is_the_percentile_bootstrap_of_scipy() -> None:
    rng = np.random.default_rng(7)
    before = rng.uniform(0.6, 0.8, (40, 1))
    after = before + rng.normal(0.01, 0.03, (40, 1))

    found = compare(before, after, ("one",))

    judged = bootstrap(
        ((after - before)[:, 0],), np.mean, method="percentile", n_resamples=20_000, rng=rng
    ).confidence_interval
    assert found.interval == pytest.approx((judged.low, judged.high), abs=5e-4)
    assert compare(before, after, ("one",)) == found, "the same values, another interval"


def test_pairing_counts() -> None:
    """A shift of 0.02 in every patient is certain, however far patients lie apart."""
    before = np.linspace(0.2, 0.9, 12)[:, None]

    assert compare(before, before + 0.02, ("one",)).decision == "promote"


def test_dice_by_hand() -> None:
    one, other = np.zeros((2, 10), bool)
    one[:4], other[2:6] = True, True

    assert dice(one, other) == 0.5
    assert dice(one, np.zeros(10, bool)) == 0.0
    assert np.isnan(dice(np.zeros(10, bool), np.zeros(10, bool)))


def test_two_studies_of_one_patient_are_one_opinion() -> None:
    rows = by_patient(
        {"a": [np.array([0.4, NAN]), np.array([0.8, 0.5])], "b": [np.array([NAN, NAN])]}
    )

    assert rows == pytest.approx(np.array([[0.6, 0.5], [NAN, NAN]]), nan_ok=True)
