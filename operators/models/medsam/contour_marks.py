"""Contours of one structure of an RTSTRUCT, as the region that they mark.

Contours are placed by their coordinates and the frame of reference, never by the images
they name: in structure sets whose images were cropped or resampled no named image exists
any more, while series and frame of reference still hold.

References
----------
DICOM PS3.3 C.8.8.5 Structure Set, C.8.8.6 ROI Contour.
"""

from __future__ import annotations

from itertools import chain

import numpy as np
from pydicom.dataset import Dataset

from operators.models.medsam.drawn import Shape
from operators.models.medsam.mark_file import (
    ChoiceNeeded,
    ChoiceNotThere,
    MarkFile,
    NoMarks,
    TooManyMarks,
)
from operators.models.medsam.region import Drawing, Region
from operators.models.medsam.request import DEFAULT_LABEL

CONTOURS_LIMIT = 5_000
POINTS_LIMIT = 2_000_000  # of one structure
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


def read_structure_set(structures: Dataset, asked: MarkFile) -> tuple[Region, ...]:
    """The one structure that is named, or the only one.

    Parameters
    ----------
    structures : Dataset
        An RTSTRUCT whose nesting was checked.
    asked : MarkFile
        `choice` is a ROI Name, or a ROI Number.

    Raises
    ------
    ChoiceNeeded, ChoiceNotThere, NoMarks, TooManyMarks
    """
    uid = str(structures.SOPInstanceUID)
    rois = {int(roi.ROINumber): roi for roi in structures.get("StructureSetROISequence") or []}
    number = _chosen(rois, asked.choice, uid)
    contours = [
        contour
        for entry in structures.get("ROIContourSequence") or []
        if int(entry.ReferencedROINumber) == number
        for contour in entry.get("ContourSequence") or []
        if str(contour.get("ContourGeometricType", "")) in _CLOSED
    ]
    if not contours:
        raise NoMarks("structure set", uid, f"structure {number} has no closed contour")
    if len(contours) > CONTOURS_LIMIT:
        raise TooManyMarks("contours", len(contours), CONTOURS_LIMIT)
    count = sum(len(contour.get("ContourData") or ()) for contour in contours) // 3
    if count > POINTS_LIMIT:
        raise TooManyMarks("points", count, POINTS_LIMIT)
    frame = str(rois[number].get("ReferencedFrameOfReferenceUID", "") or "")
    drawings = tuple(
        Drawing(Shape.OUTLINE, points, frame_of_reference_uid=frame)
        for contour in contours
        if (points := _points(contour)) is not None
    )
    if not drawings:
        raise NoMarks("structure set", uid, f"no contour of structure {number} has three points")
    named = str(rois[number].get("ROIName", "") or "")
    name = "".join(c for c in named if c.isprintable() and c != "\\")[:64].strip()
    return (
        Region(
            marks=drawings,
            label=asked.label or name or DEFAULT_LABEL,
            origin=(("prompt_structure_set", uid), ("prompt_structure", str(number))),
            images=tuple(dict.fromkeys(chain.from_iterable(map(_images, contours)))),
            series=_series(structures),
            whole=len(drawings) > 1,
        ),
    )


def _chosen(rois: dict[int, Dataset], choice: str | None, uid: str) -> int:
    if choice is None:
        if len(rois) != 1:
            raise ChoiceNeeded("--structure", uid, list(rois))
        return next(iter(rois))
    named = [n for n, roi in rois.items() if str(roi.get("ROIName", "") or "") == choice]
    if len(named) > 1:
        raise ChoiceNeeded("--structure", uid, named)
    if not named and choice.isdecimal() and int(choice) in rois:
        named = [int(choice)]
    if not named:
        raise ChoiceNotThere("--structure", choice, uid, list(rois))
    return named[0]


def _points(contour: Dataset) -> np.ndarray | None:
    """Corners, shape (n, 3), LPS mm; None where there are fewer than three or one is no number."""
    data = np.asarray([float(value) for value in contour.get("ContourData") or ()], np.float64)
    if len(data) % 3 or len(data) < 9 or not np.isfinite(data).all():
        return None
    return data.reshape(-1, 3)


def _images(contour: Dataset) -> list[str]:
    return [
        str(image.get("ReferencedSOPInstanceUID", "") or "")
        for image in contour.get("ContourImageSequence") or []
    ]


def _series(structures: Dataset) -> tuple[str, ...]:
    """Series that the structure set refers to."""
    return tuple(
        dict.fromkeys(
            str(series.get("SeriesInstanceUID", "") or "")
            for frame in structures.get("ReferencedFrameOfReferenceSequence") or []
            for study in frame.get("RTReferencedStudySequence") or []
            for series in study.get("RTReferencedSeriesSequence") or []
        )
    )
