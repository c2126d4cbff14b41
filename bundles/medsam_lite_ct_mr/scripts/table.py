"""The accuracy table as markdown: all methods, paired differences, wins and losses alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .confidence import LIMIT, Line, calibration_error, pairs
from .measure import Score
from .paired import Difference, Interval, bootstrap, by_unit, difference

TUNED, PUBLISHED = "tuned", "published"
METHODS = (
    TUNED,
    PUBLISHED,
    "tuned, two looks",
    "published, two looks",
    "ellipse",
    "filled box",
    "Otsu in the box",
)
RIVALS = (PUBLISHED, "ellipse", "filled box", "Otsu in the box")


def accuracy(scores: Sequence[Score]) -> str:
    """Mean Dice of every method on every set, with intervals by patient."""
    head = ["set", "patients", "crops", *METHODS]
    rows = []
    for data, own in _sets(scores).items():
        units = len(by_unit(own, TUNED))
        cells = [_interval(bootstrap(_values(own, method))) for method in METHODS]
        rows.append([data, _units(own, units), str(len({s.key for s in own})), *cells])
    return _table(head, rows)


def differences(scores: Sequence[Score]) -> str:
    """The tuned weights against each rival, patient by patient."""
    head = ["set", *(f"tuned − {rival}" for rival in RIVALS)]
    rows = [
        [data, *(_difference(difference(own, TUNED, rival)) for rival in RIVALS)]
        for data, own in _sets(scores).items()
    ]
    return _table(head, rows)


def structures(scores: Sequence[Score]) -> str:
    """Mean Dice by structure, for the sets with several: where it helps, and where not."""
    shown = (TUNED, PUBLISHED, "ellipse")
    rows = []
    for data, own in _sets(scores).items():
        names = sorted({score.structure for score in own})
        for name in names if len(names) > 1 else ():
            of_it = [score for score in own if score.structure == name]
            cells = [f"{_values_of(of_it, method).mean():.3f}" for method in shown]
            rows.append([data, name, str(len({s.key for s in of_it})), *cells])
    return _table(["set", "structure", "crops", *shown], rows)


def calibration(scores: Sequence[Score], line: Line) -> str:
    """How far the calibrated confidence is from the Dice, set by set."""
    rows = []
    for data, own in _sets(scores).items():
        iou, dice = pairs(own, TUNED)
        error = calibration_error(line(iou), dice)
        verdict = "holds" if error <= LIMIT else "fails"
        rows.append([data, str(len(iou)), f"{error:.3f}", verdict])
    return _table(["set", "crops", "calibration error", f"at most {LIMIT}"], rows)


def confidence_holds(scores: Sequence[Score], line: Line) -> bool:
    """Whether a number may be shown: the calibration error is low enough on every set."""
    return all(
        calibration_error(line(iou), dice) <= LIMIT
        for iou, dice in (pairs(own, TUNED) for own in _sets(scores).values())
    )


def _sets(scores: Iterable[Score]) -> dict[str, list[Score]]:
    found: dict[str, list[Score]] = {}
    for score in scores:
        found.setdefault(score.data, []).append(score)
    return found


def _values(scores: Sequence[Score], method: str) -> np.ndarray:
    return np.array(list(by_unit(scores, method).values()))


def _values_of(scores: Sequence[Score], method: str) -> np.ndarray:
    return np.array([score.dice for score in scores if score.method == method])


def _units(scores: Sequence[Score], count: int) -> str:
    one_patient = len({score.patient for score in scores}) == 1
    return f"1 ({count} structures)" if one_patient else str(count)


def _interval(found: Interval) -> str:
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _difference(found: Difference) -> str:
    interval = found.interval
    return (
        f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}], "
        f"{found.wins} better, {found.losses} worse"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
