"""Is the challenger better? Pure arithmetic on Dice values, patient by patient.

Patients are the unit: two studies of one person are one opinion. A structure that is
unlabelled in a patient says nothing (nan) and is left out, for both models alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Decision = Literal["promote", "refused", "undecided"]
MIN_PATIENTS = 10
STRUCTURE_TOLERANCE = 0.01  # Dice that the mean of one structure may lose
BOOTSTRAP_DRAWS = 10_000
SEED = 20261124


@dataclass(frozen=True)
class Structure:
    """Means of one structure over the patients in whom it is labelled."""

    name: str
    patients: int
    champion: float
    challenger: float


@dataclass(frozen=True)
class Comparison:
    """What the hold-out says.

    Attributes
    ----------
    decision : Decision
        See `compare`.
    reasons : tuple of str
        With the numbers.
    patients : int
        Patients that count.
    champion, challenger : tuple of float
        Mean Dice of each patient, in the order given.
    mean_difference : float or None
        Challenger minus champion, mean over patients.
    interval : tuple of float or None
        95 % paired bootstrap interval of `mean_difference`.
    structures : tuple of Structure
        Those that are labelled in at least one patient.
    """

    decision: Decision
    reasons: tuple[str, ...]
    patients: int
    champion: tuple[float, ...]
    challenger: tuple[float, ...]
    mean_difference: float | None
    interval: tuple[float, float] | None
    structures: tuple[Structure, ...]


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two masks; nan where both are empty."""
    size = int(np.count_nonzero(found)) + int(np.count_nonzero(truth))
    return 2.0 * int(np.count_nonzero(found & truth)) / size if size else float("nan")


def compare(champion: np.ndarray, challenger: np.ndarray, names: tuple[str, ...]) -> Comparison:
    """Decide by paired values.

    "undecided" below 10 patients; "refused" where the lower bound of the 95 % interval
    of the mean difference is not above 0, or the mean of any structure falls by more
    than 0.01; else "promote".

    Parameters
    ----------
    champion, challenger : numpy.ndarray, shape (patients, structures)
        Dice; nan where a structure is unlabelled, at the same places in both.
    names : tuple of str
        Of the structures.
    """
    assert np.array_equal(np.isnan(champion), np.isnan(challenger))
    counts = ~np.isnan(champion).all(axis=1)
    champion, challenger = champion[counts], challenger[counts]
    structures = _structures(champion, challenger, names)
    before, after = np.nanmean(champion, axis=1), np.nanmean(challenger, axis=1)
    patients = len(before)
    mean, interval = _interval(after - before) if patients else (None, None)
    decision, reasons = _decide(patients, mean, interval, structures)
    return Comparison(
        decision=decision,
        reasons=reasons,
        patients=patients,
        champion=tuple(float(value) for value in before),
        challenger=tuple(float(value) for value in after),
        mean_difference=mean,
        interval=interval,
        structures=structures,
    )


def _structures(
    champion: np.ndarray, challenger: np.ndarray, names: tuple[str, ...]
) -> tuple[Structure, ...]:
    found = []
    for column, name in enumerate(names):
        labelled = ~np.isnan(champion[:, column])
        if labelled.any():
            before, after = (
                float(values[labelled, column].mean()) for values in (champion, challenger)
            )
            found.append(Structure(name, int(labelled.sum()), before, after))
    return tuple(found)


def _interval(differences: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Mean, and the percentile bootstrap over patients of that mean."""
    rng = np.random.default_rng(SEED)
    draws = rng.choice(differences, size=(BOOTSTRAP_DRAWS, len(differences))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(differences.mean()), (float(low), float(high))


def _decide(
    patients: int,
    mean: float | None,
    interval: tuple[float, float] | None,
    structures: tuple[Structure, ...],
) -> tuple[Decision, tuple[str, ...]]:
    if patients < MIN_PATIENTS or mean is None or interval is None:
        return "undecided", (
            f"{patients} hold-out patients (at least {MIN_PATIENTS} are needed)",
            *_measured(mean, interval),
        )
    worse = [
        f"{s.name} falls by {s.champion - s.challenger:.3f} from {s.champion:.3f} to "
        f"{s.challenger:.3f} (limit {STRUCTURE_TOLERANCE})"
        for s in structures
        if s.champion - s.challenger > STRUCTURE_TOLERANCE
    ]
    (measured,) = _measured(mean, interval)
    if interval[0] <= 0:
        return "refused", (f"{measured}: the lower bound is not above 0", *worse)
    if worse:
        return "refused", (measured, *worse)
    return "promote", (f"{measured} over {patients} patients", "no structure falls")


def _measured(mean: float | None, interval: tuple[float, float] | None) -> tuple[str, ...]:
    if mean is None or interval is None:
        return ()
    low, high = interval
    return (f"mean Dice changes by {mean:+.4f} (95 % interval {low:+.4f} to {high:+.4f})",)


def unfit(reason: str) -> Comparison:
    """A challenger that can't be run."""
    return Comparison("refused", (reason,), 0, (), (), None, None, ())


def by_patient(
    cases: Mapping[str, list[np.ndarray]],
) -> np.ndarray:
    """Mean over the cases of each patient, structure by structure; nan where none has it.

    Parameters
    ----------
    cases : mapping of str to list of numpy.ndarray, shape (structures,)
        Dice of every case, by patient.
    """
    rows = []
    for values in cases.values():
        stacked = np.stack(values)
        labelled = ~np.isnan(stacked)
        count = labelled.sum(axis=0)
        total = np.where(labelled, stacked, 0.0).sum(axis=0)
        rows.append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
    return np.array(rows)
