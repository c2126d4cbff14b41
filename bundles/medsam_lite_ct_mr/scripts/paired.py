"""Means by patient, and how sure a difference is: bootstrap over patients.

Crops of one patient are no independent observations, so a patient counts once, with
the mean of its crops. Where a set has one patient only, its structures are counted
instead, and the table says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .measure import Score

RESAMPLES = 10_000
SEED = 20_261_130


@dataclass(frozen=True)
class Interval:
    """A mean, and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def by_unit(scores: Iterable[Score], method: str) -> dict[str, float]:
    """Mean Dice of one method by patient, or by structure where all are of one patient."""
    own = [score for score in scores if score.method == method]
    one_patient = len({score.patient for score in own}) == 1
    values: dict[str, list[float]] = {}
    for score in own:
        values.setdefault(score.structure if one_patient else score.patient, []).append(score.dice)
    return {unit: float(np.mean(found)) for unit, found in sorted(values.items())}


def bootstrap(values: np.ndarray) -> Interval:
    """Mean of independent values and the percentiles 2.5 and 97.5 of resampled means.

    Parameters
    ----------
    values : numpy.ndarray, shape (n,)
        One a patient.
    """
    random = np.random.default_rng(SEED)
    drawn = random.integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """One method against another, paired.

    Attributes
    ----------
    interval : Interval
        Of the mean difference, first minus second.
    wins, losses : int
        Patients in whom the first is better, and worse.
    n : int
        Patients.
    """

    interval: Interval
    wins: int
    losses: int
    n: int


def difference(scores: Iterable[Score], first: str, second: str) -> Difference:
    """The first method's Dice minus the second's, patient by patient."""
    known = list(scores)
    a, b = by_unit(known, first), by_unit(known, second)
    gained = np.array([a[unit] - b[unit] for unit in a])
    return Difference(
        bootstrap(gained), int((gained > 0).sum()), int((gained < 0).sum()), len(gained)
    )
