"""Our content items against highdicom's, byte for byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from highdicom import sr
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage, SegmentationStorage

from operators.evidence import content
from operators.evidence.common import identify
from operators.evidence.encode import encode_item
from operators.evidence.measured_sr import Structure, planar_group, volumetric_group
from operators.evidence.outline import largest_outline, on_source_image
from operators.evidence.planar_sr import significant
from operators.evidence.seg import coded, tracking_uid
from operators.evidence.sr import algorithm
from operators.findings import concepts
from operators.findings.tally import tally
from operators.job import Code
from tests.operators.scene import RECORDED_AT
from tests.operators.test_evidence_sr import two_glands

NAME = Code("246112005", "SCT", "Severity")
LONG = Code("https://example.org/a-code-of-more-than-sixteen", "99TEST", "Long")
OTHER = Code("7771000", "SCT", "Left")
CONTAINS = sr.RelationshipTypeValues.CONTAINS


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1))
def test_a_text(text: str) -> None:
    theirs = sr.TextContentItem(coded(NAME), text, CONTAINS)
    assert content.text_item(NAME, text) == encode_item(theirs)


@given(st.floats(-1e300, 1e300))
def test_a_number(value: float) -> None:
    theirs = sr.NumContentItem(coded(NAME), value, coded(concepts.HOUNSFIELD), None, CONTAINS)
    assert content.number_item(NAME, value, concepts.HOUNSFIELD) == encode_item(theirs)


@pytest.mark.parametrize("value", [OTHER, LONG])
def test_a_code_with_what_stands_below_it(value: Code) -> None:
    modifier = sr.RelationshipTypeValues.HAS_CONCEPT_MOD
    theirs = sr.CodeContentItem(coded(NAME), coded(value), CONTAINS)
    below = sr.CodeContentItem(coded(LONG), coded(OTHER), modifier)
    theirs.ContentSequence = sr.ContentSequence([below])

    ours = content.code_item(
        NAME, value, children=[content.code_item(LONG, OTHER, content.HAS_CONCEPT_MOD)]
    )

    assert ours == encode_item(theirs)


@pytest.mark.parametrize("uid", ["1.2.3", "1.2.34"])
def test_a_uid(uid: str) -> None:
    context = sr.RelationshipTypeValues.HAS_OBS_CONTEXT
    theirs = sr.UIDRefContentItem(coded(NAME), uid, context)
    assert content.uid_item(NAME, uid, content.HAS_OBS_CONTEXT) == encode_item(theirs)


@pytest.mark.parametrize("count", [4, 9000])  # the second is too long for its VR
def test_an_outline(count: int) -> None:
    turn = np.linspace(0, 2 * np.pi, count)
    points = np.column_stack([200 + 90 * np.cos(turn), 200 + 80 * np.sin(turn)])
    points[-1] = points[0]
    theirs = sr.ImageRegion(
        sr.GraphicTypeValues.POLYLINE,
        points,
        sr.SourceImageForRegion(CTImageStorage, "1.2.3.4"),
    )
    theirs.RelationshipType = "CONTAINS"

    ours = content.outline_item(
        Code("111030", "DCM", "Image Region"),
        points,
        Code("260753009", "SCT", "Source"),
        CTImageStorage,
        "1.2.3.4",
    )

    assert ours == encode_item(theirs)


def test_both_groups_of_a_structure_are_those_of_highdicom_s_templates(tmp_path: Path) -> None:
    report = two_glands(tmp_path)
    volume, seg = report.segmentation.volume, identify(report.segmentation, "SEG", RECORDED_AT)
    used = algorithm(report.segmentation.model)
    counts = tally(report.segmentation)
    found = [finding for finding in report.findings if finding.voxels]
    assert {finding.segment.laterality is None for finding in found} == {True, False}
    for number, finding in enumerate(found, start=1):
        segment = finding.segment
        outline = largest_outline(
            report.segmentation.mask, segment.number, counts[:, segment.number]
        )
        encoded = b"".join(map(encode_item, used))
        ours = Structure(volume, finding, number, seg, outline, encoded)
        measured = {m.name: m for m in finding.measurements}

        def number_of(name: str, *, own: bool = False, known: dict = measured) -> sr.Measurement:
            m = known[name]
            code = m.derivation if own else m.code
            derivation = None if own or m.derivation is None else coded(m.derivation)
            value = significant(m.value)
            return sr.Measurement(coded(code), value, coded(m.unit), derivation=derivation)

        shared = {
            "tracking_identifier": sr.TrackingIdentifier(
                uid=tracking_uid(seg, segment), identifier=segment.name
            ),
            "finding_category": coded(segment.category),
            "finding_type": coded(segment.type),
            "finding_sites": [
                sr.FindingSite(
                    coded(segment.type),
                    laterality=coded(segment.laterality) if segment.laterality else None,
                )
            ],
            "algorithm_id": used,
        }
        header = volume.headers[outline.k]
        area = significant(outline.area_px * volume.spacing_zyx_mm[1] * volume.spacing_zyx_mm[2])
        (planar,) = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_region=sr.ImageRegion(
                sr.GraphicTypeValues.POLYLINE,
                on_source_image(volume, outline),
                sr.SourceImageForRegion(header.SOPClassUID, header.SOPInstanceUID),
            ),
            measurements=[
                number_of("long_axis"),
                number_of("short_axis"),
                sr.Measurement(coded(concepts.AREA), area, coded(concepts.SQUARE_MILLIMETRE)),
            ],
            **shared,
        )
        (volumetric,) = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=sr.ReferencedSegment(
                SegmentationStorage,
                seg.sop_instance_uid,
                number,
                source_series=sr.SourceSeriesForSegmentation(volume.series_instance_uid),
            ),
            measurements=[
                number_of("volume"),
                number_of("mean"),
                number_of("standard_deviation", own=True),
                number_of("long_axis_3d"),
                number_of("surface_area"),
            ],
            **shared,
        )
        off = [
            f"{name.replace('_3d', ' in 3D').replace('_', ' ')} ± "
            f"{measured[name].uncertainty:.3g} {unit}"
            for name, unit in (
                ("volume", "mL"),
                ("mean", "HU"),
                ("long_axis_3d", "mm"),
                ("long_axis", "mm"),
                ("short_axis", "mm"),
            )
        ]
        said = f"Left open by the grid of the images alone: {', '.join(off)}."
        for code, text in (
            (NAME, "NOT_ASSESSED"),
            (Code("121106", "DCM", "Comment"), said),
        ):
            volumetric.ContentSequence.append(sr.TextContentItem(coded(code), text, CONTAINS))

        assert planar_group(ours) == encode_item(planar)
        assert volumetric_group(ours) == encode_item(volumetric)
