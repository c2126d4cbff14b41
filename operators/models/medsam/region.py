"""One structure that a person asks for, by whatever they marked of it.

ModelRefusal
├── PointUnreadable    RL-1710   not two numbers and a sign
├── PairsUneven        RL-1711   boxes and slices that don't pair
├── NothingMarked      RL-1712   neither box nor point nor file
├── MarkedTwice        RL-1713   two boxes on one slice
├── PointOutside       RL-1714   past the edge of the image
├── NoPointInside      RL-1715   only points that say where it is not
└── SourcesMixed       RL-1716   boxes or points beside a file

`place.py` brings marks to slices; `report_marks.py`, `contour_marks.py` and
`mask_marks.py` read them from files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pydicom.dataset import Dataset

from operators.errors import ModelRefusal
from operators.models.medsam.drawn import Shape
from operators.models.medsam.picture import Box, Point
from operators.models.medsam.request import (
    DECIMALS,
    DEFAULT_LABEL,
    BoxPrompt,
    check_label,
)


class PointUnreadable(ModelRefusal):
    """The text of a point is not two numbers and a sign."""

    code = "RL-1710"

    def __init__(self, text: str) -> None:
        super().__init__(
            f"point '{text[:40]}' is not two numbers. Write it as x,y in pixels, with ,- behind it "
            "where the structure is not: for example 82,70 or 82,70,-."
        )


class PairsUneven(ModelRefusal):
    """So many boxes, and another number of slices."""

    code = "RL-1711"

    def __init__(self, boxes: int, slices: int, points: int) -> None:
        super().__init__(
            f"{boxes} boxes, {points} points and {slices} slices don't pair. Give one --slice "
            "after each --box; points go with one slice and without a box, since the network "
            "answers a box better without them."
        )


class NothingMarked(ModelRefusal):
    """No box, no point, no file."""

    code = "RL-1712"

    def __init__(self) -> None:
        super().__init__(
            "nothing is marked. Give --box x0,y0,x1,y1 --slice N, or --point x,y --slice N, or "
            "--from FILE with an SR, an RTSTRUCT or a SEG."
        )


class MarkedTwice(ModelRefusal):
    """Two marks of one structure on one slice."""

    code = "RL-1713"

    def __init__(self, sop_uid: str) -> None:
        super().__init__(
            f"image {sop_uid} bears two boxes of one structure. Give one box on each slice; "
            "for two structures run the command twice."
        )


class PointOutside(ModelRefusal):
    """The point lies beyond the image."""

    code = "RL-1714"

    def __init__(self, point: Point, rows: int, columns: int) -> None:
        super().__init__(
            f"point {point[0]:g},{point[1]:g} lies beyond the image, which is {columns} pixels "
            f"wide and {rows} high: x goes from 0 to {columns}, y from 0 to {rows}."
        )


class NoPointInside(ModelRefusal):
    """Nothing says where the structure is."""

    code = "RL-1715"

    def __init__(self, count: int) -> None:
        super().__init__(
            f"{count} points say where the structure is not, none where it is. Give a box, or one "
            "point inside it: --point x,y."
        )


class SourcesMixed(ModelRefusal):
    """A file of marks, and marks beside it."""

    code = "RL-1716"

    def __init__(self) -> None:
        super().__init__(
            "--from takes its marks from the file: leave --box, --point and --slice out, or --from."
        )


PATIENT_AND_STUDY = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID")


@dataclass(frozen=True)
class OnImage:
    """Marks on an image that is named.

    Attributes
    ----------
    image : str
        InstanceNumber or SOP Instance UID.
    box : tuple of float or None
        Pixel edges x0, y0, x1, y1.
    points : tuple of Point
        In pixel edges.
    """

    image: str
    box: Box | None = None
    points: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Drawing:
    """A drawing of a file: on an image that is named, or in the patient.

    Attributes
    ----------
    shape : Shape
        How the points are read.
    points : numpy.ndarray, shape (n, 2) or (n, 3), float64
        Pixel edges (x, y) of the image; or LPS mm.
    image_uid : str
        SOP Instance UID; "" for a drawing in the patient.
    frame_of_reference_uid : str
        Of a drawing in the patient; else "".
    frames : tuple of int
        Frames of the image that it is on, from 1; empty where none is named.
    origin : str
        Pixel Origin Interpretation (0048,0301): FRAME, VOLUME, or "" where it is absent.
    """

    shape: Shape
    points: np.ndarray
    image_uid: str = ""
    frame_of_reference_uid: str = ""
    frames: tuple[int, ...] = ()
    origin: str = ""


@dataclass(frozen=True)
class Painted:
    """A mask of a file, on a grid of its own.

    Attributes
    ----------
    mask : numpy.ndarray, shape (z, y, x), bool
        At least one voxel is set.
    lps_from_index : numpy.ndarray, shape (4, 4), float64
        (i, j, k, 1) → LPS mm.
    frame_of_reference_uid : str
        Where that holds.
    """

    mask: np.ndarray
    lps_from_index: np.ndarray
    frame_of_reference_uid: str


Mark = OnImage | Drawing | Painted


@dataclass(frozen=True)
class Region:
    """One structure that is asked for.

    Attributes
    ----------
    marks : tuple of Mark
        On one or more slices of one series; at least one.
    label : str
        What the structure shall be called.
    origin : tuple of (str, str)
        Where the marks were taken from, by name: part of the result's identity.
    images : tuple of str
        SOP Instance UIDs that the marks name, and `series` the Series Instance UIDs:
        they say which series is meant where a person has not.
    whole : bool
        The marks show all slices of the structure, so nothing is followed beyond them.
    marked_in : Dataset or None
        Patient and study of the file of the marks (`PATIENT_AND_STUDY`); PHI: compared,
        never shown.

    Raises
    ------
    LabelUnfit
    """

    marks: tuple[Mark, ...]
    label: str = DEFAULT_LABEL
    origin: tuple[tuple[str, str], ...] = ()
    images: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    whole: bool = False
    marked_in: Dataset | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_label(self.label)


def of_box(prompt: BoxPrompt) -> Region:
    """The region that one box asks for."""
    return Region((OnImage(prompt.slice, prompt.box),), prompt.label)


def of_marks(
    boxes: Sequence[Box], points: Sequence[Point], slices: Sequence[str], label: str
) -> Region:
    """What boxes, points and slices of a command line ask for together.

    Parameters
    ----------
    boxes, points : sequence
        In pixel edges.
    slices : sequence of str
        One for each box in its order; one for all points.
    label : str
        What the structure shall be called.

    Raises
    ------
    NothingMarked, PairsUneven, NoPointInside, BoxEmpty, LabelUnfit
    """
    if not boxes and not points:
        raise NothingMarked
    if (boxes and points) or len(slices) != max(len(boxes), 1):
        raise PairsUneven(len(boxes), len(slices), len(points))
    if points:
        if not any(inside for *_, inside in points):
            raise NoPointInside(len(points))
        return Region((OnImage(slices[0], None, tuple(points)),), label)
    checked = [BoxPrompt(image, box, label) for image, box in zip(slices, boxes, strict=True)]
    return Region(tuple(OnImage(prompt.slice, prompt.box) for prompt in checked), label)


def parse_point(text: str) -> Point:
    """``"82,70"`` or ``"82,70,-"`` as x, y and whether the structure is there.

    Raises
    ------
    PointUnreadable
        Not two finite numbers and, where there is a third part, no sign.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (2, 3) or parts[2:] not in ([], ["+"], ["-"]):
        raise PointUnreadable(text)
    try:
        x, y = (round(float(part), DECIMALS) for part in parts[:2])
    except (ValueError, OverflowError) as error:
        raise PointUnreadable(text) from error
    if not (math.isfinite(x) and math.isfinite(y)):
        raise PointUnreadable(text)
    return x, y, parts[2:] != ["-"]
