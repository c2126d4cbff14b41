"""The SR of a result without a mask: classes as qualitative evaluations, boxes as regions.

A box becomes a planar measurement group (TID 1410): its outline on the source slice
through its middle. The whole box, in the patient, is in `result.json`. A score is no
probability and no severity: it is written as text that says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from highdicom import sr
from pydicom.sr.codedict import codes

from operators.evidence.content import COMMENT, SEVERITY
from operators.evidence.encode import encode_item
from operators.evidence.outline import Outline, on_source_image
from operators.evidence.planar_sr import AREA, SQUARE_MILLIMETRE, significant
from operators.evidence.seg import coded
from operators.evidence.sr import (
    QUALITATIVE_EVALUATIONS,
    SOURCE,
    algorithm,
    container,
    document,
    head,
    slices_and,
)
from operators.evidence.uids import derive_uid
from operators.findings.class_severity import class_severity
from operators.findings.rules import worst
from operators.job import Code, Volume
from operators.reading import Box, ClassScores, Reading

_REGION = Code("111099", "DCM", "Selected region")
_CATEGORY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_CONTAINS = sr.RelationshipTypeValues.CONTAINS


def build_reading_sr(reading: Reading, recorded_at: str) -> sr.Comprehensive3DSR:
    """Build the SR of a classifier's or detector's reading.

    Parameters
    ----------
    reading : Reading
        A detector that found nothing gets a report that says so.
    recorded_at : str
        The study version's record, ``YYYYMMDDHHMMSS``.

    References
    ----------
    DICOM PS3.16 TID 1500, 1410.
    """
    evidence = slices_and(reading.volume)
    return document(reading, _content(reading, recorded_at), evidence, recorded_at)


def _content(reading: Reading, recorded_at: str) -> Iterator[bytes]:
    yield from head(reading.volume)
    groups = [
        encode_item(item)
        for number, box in enumerate(reading.boxes, start=1)
        for item in _group(reading, box, number, recorded_at)
    ]
    if groups:
        yield container(codes.DCM.ImagingMeasurements, groups)
    yield container(QUALITATIVE_EVALUATIONS, map(encode_item, _evaluations(reading)))


def _group(
    reading: Reading, box: Box, number: int, recorded_at: str
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    volume, kind = reading.volume, reading.classes[box.class_index]
    outline = box_outline(box, volume)
    header = volume.headers[outline.k]
    tracking = sr.TrackingIdentifier(
        uid=derive_uid(
            "box", volume.series_instance_uid, reading.model.config_sha256, str(box), recorded_at
        ),
        identifier=f"{kind.name}_{number}",
    )
    _, row_mm, column_mm = volume.spacing_zyx_mm
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        referenced_region=sr.ImageRegion(
            graphic_type=sr.GraphicTypeValues.POLYLINE,
            graphic_data=on_source_image(volume, outline),
            source_image=sr.SourceImageForRegion(
                referenced_sop_class_uid=str(header.SOPClassUID),
                referenced_sop_instance_uid=str(header.SOPInstanceUID),
            ),
        ),
        finding_category=coded(_CATEGORY),
        finding_type=coded(kind.code or _REGION),
        algorithm_id=algorithm(reading.model),
        measurements=[
            sr.Measurement(
                AREA, significant(outline.area_px * row_mm * column_mm), SQUARE_MILLIMETRE
            )
        ],
    )
    content = group[0].ContentSequence
    content.append(sr.TextContentItem(coded(COMMENT), _box_text(reading, box, number), _CONTAINS))
    content.append(sr.TextContentItem(coded(SEVERITY), "NOT_ASSESSED", _CONTAINS))
    return group


def box_outline(box: Box, volume: Volume) -> Outline:
    """The rectangle round a box on the slice through its middle, in pixels of the volume.

    Where the detector's grid lies along the volume's rows, columns and normal, as after any
    flip or change of spacing, this is the box's section; else the rectangle that encloses it.
    """
    index_from_lps = np.linalg.inv(volume.lps_from_index)
    centre, edges = np.array(box.centre_lps_mm), np.array(box.edges_lps_mm)
    corners = np.array([centre + np.array(side) / 2 @ edges for side in product((-1, 1), repeat=3)])
    at_k = int(np.rint((index_from_lps[:3] @ np.append(centre, 1.0))[2]))
    k = int(np.clip(at_k, 0, len(volume.headers) - 1))
    # Along the normal: slices of a tilted gantry don't follow each other along it.
    first_pixel = volume.lps_from_index[:3] @ (0, 0, k, 1)
    in_plane = np.linalg.pinv(volume.lps_from_index[:3, :2])
    columns, rows = in_plane @ (corners - first_pixel).T + 0.5
    left, right, top, bottom = columns.min(), columns.max(), rows.min(), rows.max()
    points = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return Outline(k, np.array(points))


def _evaluations(reading: Reading) -> Iterator[sr.ContentItem]:
    for scores in reading.scores:
        said = reading.said_class(scores)
        if said is not None and (code := reading.classes[said].code) is not None:
            yield sr.CodeContentItem(codes.DCM.Finding, coded(code), _CONTAINS)
        yield _class_remark(reading, scores)
    if reading.detector and not reading.boxes:
        looked_for = ", ".join(kind.label for kind in reading.classes)
        text = f"Looked for and not found: {looked_for}."
        yield sr.TextContentItem(coded(COMMENT), text, _CONTAINS)
    severity = worst(class_severity(reading, scores) for scores in reading.scores)
    yield sr.TextContentItem(coded(SEVERITY), severity, _CONTAINS)
    for flag in reading.volume.quality:
        text = f"Quality of the input, {flag.name}: {flag.text}"
        yield sr.TextContentItem(coded(COMMENT), text, _CONTAINS)


def _class_remark(reading: Reading, scores: ClassScores) -> sr.TextContentItem:
    """What is said of an image, with a reference to it where it is one of several."""
    remark = sr.TextContentItem(coded(COMMENT), _class_text(reading, scores), _CONTAINS)
    if scores.k is not None:
        header = reading.volume.headers[scores.k]
        image = sr.ImageContentItem(
            name=SOURCE,
            referenced_sop_class_uid=str(header.SOPClassUID),
            referenced_sop_instance_uid=str(header.SOPInstanceUID),
            relationship_type=sr.RelationshipTypeValues.INFERRED_FROM,
        )
        remark.ContentSequence = sr.ContentSequence([image])
    return remark


def _where(reading: Reading, scores: ClassScores) -> str:
    image = reading.source_image(scores)
    if image is None:
        return "Whole volume"
    numbered = "" if image.instance_number is None else f" {image.instance_number}"
    return f"Image{numbered} (SOP Instance UID {image.sop_instance_uid})"


def _class_text(reading: Reading, scores: ClassScores) -> str:
    where = _where(reading, scores)
    said = reading.said_class(scores)
    index = reading.point_class if said is None else said
    if index is None:
        listed = ", ".join(
            f"{kind.label} {score:.3f}"
            for kind, score in zip(reading.classes, scores.scores, strict=True)
        )
        return (
            f"{where}: no class is said, since the card has no operating point; "
            f"network scores, no probabilities: {listed}."
        )
    said_of_it = (
        reading.classes[index].label
        if said is not None
        else (f"not {reading.classes[index].label}")
    )
    return f"{where}: {said_of_it}; {_score(reading, index, scores.scores[index])}"


def _box_text(reading: Reading, box: Box, number: int) -> str:
    sides = " x ".join(f"{np.linalg.norm(edge):.1f}" for edge in box.edges_lps_mm)
    label = reading.classes[box.class_index].label
    return f"Box {number}: {label}, {sides} mm; {_score(reading, box.class_index, box.score)}"


def _score(reading: Reading, class_index: int, score: float) -> str:
    """A score in words; the operating point speaks of its own class only."""
    point = reading.operating_point
    if point is None or class_index != reading.point_class:
        whose = "its card has" if point is None else "its class has"
        return f"network score {score:.3f}, no probability: {whose} no operating point."
    return (
        f"score {score:.3f}; at {point.threshold:g} sensitivity {point.sensitivity:.2f}, "
        f"specificity {point.specificity:.2f} ({point.data}, n = {point.n})."
    )
