"""What a classifier or a detector says of a volume: results without a mask."""

from __future__ import annotations

from dataclasses import dataclass

from operators.job import Code, ModelIdentity, Segment, Volume


@dataclass(frozen=True)
class OutputClass:
    """What one class of a classifier or detector stands for.

    Attributes
    ----------
    name : str
        For machines.
    label : str
        For readers.
    code : Code or None
        What it is.
    """

    name: str
    label: str
    code: Code | None = None


@dataclass(frozen=True)
class OperatingPoint:
    """At which score a class counts, and how that was measured.

    Without one no confidence is shown: a network's score is no probability.
    """

    threshold: float
    sensitivity: float
    specificity: float
    data: str
    n: int


@dataclass(frozen=True)
class ClassScores:
    """Scores of one image: slice `k`, or the whole volume (None); in the order of the classes."""

    k: int | None
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Box:
    """A box in the patient, its sides along the axes of the grid that the detector saw.

    Attributes
    ----------
    class_index : int
        Into `Reading.classes`.
    score : float
        The detector's own; no probability.
    centre_lps_mm : tuple of float
        Middle.
    edges_lps_mm : tuple of three tuples
        Its edges as vectors, LPS mm.
    """

    class_index: int
    score: float
    centre_lps_mm: tuple[float, ...]
    edges_lps_mm: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Reading:
    """What a classifier or a detector says of a volume: no mask.

    Attributes
    ----------
    volume : Volume
        The source.
    classes : tuple of OutputClass
        What it can tell apart.
    model : ModelIdentity
        Who says so.
    scores : tuple of ClassScores
        Of a classifier.
    boxes : tuple of Box
        Of a detector, best first.
    detector : bool
        Which of the two it is; a detector may find nothing.
    operating_point : OperatingPoint or None
        None: scores are no confidence.
    """

    volume: Volume
    classes: tuple[OutputClass, ...]
    model: ModelIdentity
    scores: tuple[ClassScores, ...] = ()
    boxes: tuple[Box, ...] = ()
    detector: bool = False
    operating_point: OperatingPoint | None = None

    @property
    def segments(self) -> tuple[Segment, ...]:
        """None: nothing is outlined."""
        return ()
