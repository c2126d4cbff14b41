"""From the network's own estimate of its IoU to a Dice that a person may be shown.

A straight line is fitted on validation patients. Whether a number is shown at all is
decided on the test lists: on each set the expected calibration error has to stay
below `LIMIT`, or the confidence stays null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .measure import Score

LIMIT = 0.05
BINS = 5


@dataclass(frozen=True)
class Line:
    """Dice = slope * IoU + intercept, kept within 0 and 1.

    Attributes
    ----------
    slope, intercept : float
        Least squares.
    n : int
        Crops that it was fitted on.
    error : float
        Mean absolute difference to the Dice of those crops.
    """

    slope: float
    intercept: float
    n: int
    error: float

    def __call__(self, iou: np.ndarray) -> np.ndarray:
        """Predicted Dice, shape of `iou`."""
        return np.clip(self.slope * iou + self.intercept, 0.0, 1.0)


def fit(iou: np.ndarray, dice: np.ndarray) -> Line:
    """The line of least squares through pairs, shapes (n,)."""
    slope, intercept = np.polyfit(iou, dice, 1)
    line = Line(float(slope), float(intercept), len(iou), 0.0)
    error = float(np.abs(line(iou) - dice).mean())
    return Line(line.slope, line.intercept, line.n, error)


def calibration_error(predicted: np.ndarray, dice: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: mean distance of predicted and true Dice, bin by bin.

    Parameters
    ----------
    predicted, dice : numpy.ndarray, shape (n,)
        n >= 1.
    bins : int
        Of equally many crops each, by `predicted`.

    Returns
    -------
    float
        Weighted by the crops of a bin.

    References
    ----------
    Naeini et al., Obtaining well calibrated probabilities using Bayesian binning,
    AAAI 2015; equal-mass bins.
    """
    order = np.argsort(predicted, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(float(predicted[part].mean() - dice[part].mean())) for part in parts]
    return float(np.average(gaps, weights=[len(part) for part in parts]))


def pairs(scores: Sequence[Score], method: str) -> tuple[np.ndarray, np.ndarray]:
    """What a method said of its IoU, and the Dice it had, shapes (n,)."""
    own = [score for score in scores if score.method == method and score.iou is not None]
    return np.array([score.iou for score in own]), np.array([score.dice for score in own])
