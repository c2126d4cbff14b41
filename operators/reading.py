"""What a classifier or a detector says of a volume: results without a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from operators.job import Code, ModelIdentity, Segment, Volume

Activation = Literal["softmax", "sigmoid"]


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
    """At which score one class counts, and how that was measured.

    Without one no confidence is shown: a network's score is no probability.

    Attributes
    ----------
    class_name : str
        Name of the class whose score it is about; of others it says nothing.
    threshold : float
        That class is said from this score on, 0 to 1.
    sensitivity, specificity : float
        Of that class at that threshold, 0 to 1.
    data, n : str, int
        On what that was measured, and how many cases.
    """

    class_name: str
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
class SourceImage:
    """One image as every viewer knows it; our own order of slices is nobody else's.

    Attributes
    ----------
    sop_instance_uid : str
        SOP Instance UID (0008,0018).
    instance_number : int or None
        Instance Number (0020,0013), which viewers show; None where it has none.
    """

    sop_instance_uid: str
    instance_number: int | None


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
    activation : str or None
        How a classifier's scores came about: ``softmax`` chooses one class of several,
        ``sigmoid`` judges each by itself; None of a detector.
    """

    volume: Volume
    classes: tuple[OutputClass, ...]
    model: ModelIdentity
    scores: tuple[ClassScores, ...] = ()
    boxes: tuple[Box, ...] = ()
    detector: bool = False
    operating_point: OperatingPoint | None = None
    activation: Activation | None = None

    @property
    def point_class(self) -> int | None:
        """Index of the class that the operating point is about; None without one."""
        if self.operating_point is None:
            return None
        return [kind.name for kind in self.classes].index(self.operating_point.class_name)

    def source_image(self, scores: ClassScores) -> SourceImage | None:
        """Which image some scores are about, by the source's own names; None: all of them."""
        if scores.k is None:
            return None
        header = self.volume.headers[scores.k]
        number = header.get("InstanceNumber")
        return SourceImage(str(header.SOPInstanceUID), None if number is None else int(number))

    def said_class(self, scores: ClassScores) -> int | None:
        """Index of the class that may be said of an image; None: none.

        The operating point decides about its own class, and no other class is said then.
        Without one, the largest of a softmax is said, since one of its classes must be. Of
        a sigmoid nothing is: the largest of independent scores may be as small as any.
        """
        if self.operating_point is not None and self.point_class is not None:
            reached = scores.scores[self.point_class] >= self.operating_point.threshold
            return self.point_class if reached else None
        if self.activation == "softmax" and len(scores.scores) > 1:
            return max(range(len(scores.scores)), key=scores.scores.__getitem__)
        return None

    @property
    def segments(self) -> tuple[Segment, ...]:
        """None: nothing is outlined."""
        return ()
