"""The SR against the validators, and against what OHIF needs in order not to crash."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import replace
from math import pi
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from operators.evidence.common import identify, source_references
from operators.evidence.outline import Outline, on_source_image
from operators.evidence.sr import build_sr
from operators.evidence.write import write_evidence
from operators.findings.measure import measure
from operators.findings.tally import tally
from operators.job import QualityFlag, Report, Unit
from tests.operators.scene import RECORDED_AT, make_segmentation, segment, two_glands
from tests.series import Ball, centred_grid
from tests.validators import dciodvfy_errors, dsrdump, pixelmed_sr_errors

FINDING, TRACKING_ID, TRACKING_UID = "121071", "112039", "112040"
VOLUME, AREA, ATTENUATION = "118565006", "42798000", "112031"


def children(item: Dataset, code: str) -> list[Dataset]:
    """Content items below `item` with a concept name's code value."""
    return [
        child
        for child in item.ContentSequence
        if child.ConceptNameCodeSequence[0].CodeValue == code
    ]


def groups(document: Dataset) -> list[Dataset]:
    """Measurement groups."""
    (measurements,) = children(document, "126010")
    return children(measurements, "125007")


def number(group: Dataset, code: str) -> tuple[float, str]:
    """Value and UCUM unit of the one NUM with a concept name's code value."""
    (item,) = children(group, code)
    measured = item.MeasuredValueSequence[0]
    return float(measured.NumericValue), measured.MeasurementUnitsCodeSequence[0].CodeValue


def texts(document: Dataset) -> list[str]:
    """Texts of the Qualitative Evaluations."""
    (container,) = children(document, "C0034375")
    return [item.TextValue for item in container.ContentSequence]


def written(report: Report, folder: Path) -> Dataset:
    """The SR as pydicom reads it."""
    return pydicom.dcmread(write_evidence(report, folder, RECORDED_AT)[-1].path)


def empty(report: Report) -> Report:
    """The same with nothing found."""
    segmentation = report.segmentation
    return measure(replace(segmentation, labels=np.zeros_like(segmentation.labels)))


def test_validators_find_no_error(tmp_path: Path) -> None:
    path = write_evidence(two_glands(tmp_path / "in"), tmp_path / "out", RECORDED_AT)[1].path

    assert not dciodvfy_errors(path)
    assert pixelmed_sr_errors(path) == []
    assert "Looked for and not found: Larynx; Larynx, SCT 4596009." in dsrdump(path)


def test_nothing_found_gives_a_valid_sr_that_says_so_and_no_seg(tmp_path: Path) -> None:
    report = empty(two_glands(tmp_path / "in"))

    (evidence,) = write_evidence(report, tmp_path / "out", RECORDED_AT)

    document = pydicom.dcmread(evidence.path)
    assert evidence.kind == "SR"
    # OHIF takes a report without Imaging Measurements as one without measurements.
    assert not children(document, "126010")
    assert [text.split(";")[0] for text in texts(document)] == [
        "Looked for and not found: Parotid left",
        "Looked for and not found: Larynx",
        "Looked for and not found: Mandible",
    ]
    assert "Parotid gland (Left), SCT 45289007" in texts(document)[0]
    assert not dciodvfy_errors(evidence.path)
    assert pixelmed_sr_errors(evidence.path) == []


def test_everything_merged_under_one_tracking_uid_has_coordinates(tmp_path: Path) -> None:
    """OHIF 3.13 crashes at a tracking UID without SCOORD (Viewers, merge of groups)."""
    merged: dict[str, list[Dataset]] = defaultdict(list)
    for group in groups(written(two_glands(tmp_path / "in"), tmp_path / "out")):
        (uid,) = children(group, TRACKING_UID)
        merged[uid.UID] += group.ContentSequence

    assert len(merged) == 2
    for uid, items in merged.items():
        assert [item.ValueType for item in items].count("SCOORD") == 1
        # It takes the first UIDREF for the tracking UID.
        assert next(item.UID for item in items if item.ValueType == "UIDREF") == uid


def test_tracking_id_and_uid_are_those_of_the_segment(tmp_path: Path) -> None:
    seg, sr = write_evidence(two_glands(tmp_path / "in"), tmp_path / "out", RECORDED_AT)
    segments = {item.SegmentNumber: item for item in pydicom.dcmread(seg.path).SegmentSequence}
    volumetric = groups(pydicom.dcmread(sr.path))[1::2]

    for group in volumetric:
        (reference,) = children(group, "121191")
        referenced = reference.ReferencedSOPSequence[0]
        described = segments[referenced.ReferencedSegmentNumber]
        assert referenced.ReferencedSOPInstanceUID == seg.sop_instance_uid
        assert described.TrackingUID == children(group, TRACKING_UID)[0].UID
        assert described.TrackingID == children(group, TRACKING_ID)[0].TextValue


def test_highdicom_reads_a_volumetric_and_a_planar_group_per_structure(tmp_path: Path) -> None:
    sr = write_evidence(two_glands(tmp_path / "in"), tmp_path / "out", RECORDED_AT)[1]
    content = hd.sr.srread(sr.path).content

    kinds = [
        group.finding_type.value
        for found in (
            content.get_volumetric_roi_measurement_groups(),
            content.get_planar_roi_measurement_groups(),
        )
        for group in found
    ]
    assert kinds == ["45289007", "91609006"] * 2


@pytest.mark.parametrize("found", [True, False])
def test_evidence_is_what_highdicom_collects_for_the_whole_content(
    tmp_path: Path, found: bool
) -> None:
    """Given all of it at once, highdicom checks each item and that each reference has evidence."""
    report = two_glands(tmp_path / "in")
    report = report if found else empty(report)
    document = written(report, tmp_path / "out")
    root = Dataset()
    for keyword in ("ValueType", "ConceptNameCodeSequence", "ContinuityOfContent"):
        root[keyword] = document[keyword]
    root["ContentTemplateSequence"] = document["ContentTemplateSequence"]
    root["ContentSequence"] = document["ContentSequence"]
    evidence = source_references(report.segmentation.volume)
    if found:
        seg = identify(report.segmentation, "SEG", RECORDED_AT)
        result = copy.deepcopy(evidence[0])
        result.SOPClassUID, result.SOPInstanceUID = SegmentationStorage, seg.sop_instance_uid
        result.SeriesInstanceUID = seg.series_instance_uid
        evidence.append(result)

    whole = hd.sr.Comprehensive3DSR(
        evidence=evidence,
        content=root,
        series_instance_uid=document.SeriesInstanceUID,
        series_number=1,
        sop_instance_uid=document.SOPInstanceUID,
        instance_number=1,
        is_complete=True,
    )

    collected = whole.CurrentRequestedProcedureEvidenceSequence
    assert document.CurrentRequestedProcedureEvidenceSequence == collected
    assert document.ContentSequence == whole.ContentSequence


def test_the_image_library_holds_what_highdicom_makes_for_every_slice(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")

    (library,) = children(written(report, tmp_path / "out"), "111028")

    (group,) = library.ContentSequence
    entries = [item for item in group.ContentSequence if item.ValueType == "IMAGE"]
    assert entries == [
        hd.sr.ImageContentItem(
            name=hd.sr.CodedConcept("260753009", "SCT", "Source"),
            referenced_sop_class_uid=header.SOPClassUID,
            referenced_sop_instance_uid=header.SOPInstanceUID,
            relationship_type=hd.sr.RelationshipTypeValues.CONTAINS,
        )
        for header in report.segmentation.volume.headers
    ]


def test_content_and_evidence_are_written_without_being_decoded_again(tmp_path: Path) -> None:
    """Decoding and encoding them would cost more than all else."""
    report = two_glands(tmp_path / "in")
    document = build_sr(report, tally(report.segmentation), RECORDED_AT)

    document.save_as(tmp_path / "sr.dcm", enforce_file_format=True)

    for keyword in ("ContentSequence", "CurrentRequestedProcedureEvidenceSequence"):
        encoded = document.get_item(keyword)
        assert isinstance(encoded, RawDataElement)
        assert encoded.value in (tmp_path / "sr.dcm").read_bytes()


def test_values_units_side_and_severity_are_those_of_the_finding(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    parotid = report.findings[0]

    planar, group = groups(written(report, tmp_path / "out"))[:2]

    assert number(group, VOLUME) == (pytest.approx(parotid.volume_ml, rel=1e-5), "mL")
    assert number(group, ATTENUATION) == (pytest.approx(20.0), "[hnsf'U]")
    (site,) = children(group, "363698007")
    assert site.ConceptCodeSequence[0].CodeValue == "45289007"
    assert site.ContentSequence[0].ConceptCodeSequence[0].CodeValue == "7771000"
    assert children(group, "246112005")[0].TextValue == "NOT_ASSESSED"
    parameters = [item.TextValue for item in children(group, "111002")]
    assert f"weights_sha256={report.segmentation.model.weights_sha256}" in parameters
    # In the order of their use, since OHIF shows the first five of both groups.
    named = [
        item.ConceptNameCodeSequence[0].CodeMeaning
        for item in (*planar.ContentSequence, *group.ContentSequence)
        if item.ValueType == "NUM"
    ]
    assert named[:5] == ["Long Axis", "Short Axis", "Area", "Volume", "Attenuation Coefficient"]
    assert named[5] == "Standard Deviation" and number(group, "386136009")[0] == 0.0
    assert number(planar, "103339001")[0] == pytest.approx(parotid.measured("long_axis"), rel=1e-5)
    off = {m.name: m.uncertainty for m in parotid.measurements}
    (said,) = (item.TextValue for item in children(group, "121106") if "grid" in item.TextValue)
    assert f"volume ± {off['volume']:.3g} mL" in said
    assert f"long axis ± {off['long_axis']:.3g} mm" in said


@pytest.mark.parametrize(
    ("unit", "modality", "concept", "expected"),
    [
        ("HU", "CT", ATTENUATION, "[hnsf'U]"),
        ("SUVbw", "PT", "126401", "{SUVbw}g/ml"),
        ("arbitrary", "MR", "110852", "1"),
        ("arbitrary", "PT", "373098007", "1"),
    ],
)
def test_mean_has_the_name_and_the_unit_of_its_values(
    tmp_path: Path, unit: Unit, modality: str, concept: str, expected: str
) -> None:
    def change(dataset: Dataset, _k: int) -> None:
        dataset.Modality = modality

    segmentation = two_glands(tmp_path / "in", edit=change).segmentation
    volume = replace(segmentation.volume, unit=unit)
    report = measure(replace(segmentation, volume=volume))

    value, found = number(groups(written(report, tmp_path / "out"))[1], concept)

    assert (value, found) == (pytest.approx(20.0), expected)


def test_outline_in_the_sr_has_the_area_of_the_balls_great_circle(tmp_path: Path) -> None:
    ball = Ball(centre_lps_mm=(3.0, -2.0, 0.0), radius_mm=10.0, hu=10)
    shape = (5, 40, 32)
    grid = centred_grid(shape, (2.0, 0.8, 1.1))
    segmentation = make_segmentation(tmp_path / "in", [ball], shape, grid, [segment(1, "larynx")])

    document = written(measure(segmentation), tmp_path / "out")

    planar = groups(document)[0]
    (region,) = children(planar, "111030")
    points = np.array(region.GraphicData, float).reshape(-1, 2)
    (image,) = region.ContentSequence
    header = next(
        header
        for header in segmentation.volume.headers
        if header.SOPInstanceUID == image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    )
    # PS3.3 C.18.6.1.2: (0.5, 0.5) is the centre of the first pixel.
    lps_mm = np.array(header.ImagePositionPatient, float)[:2] + (points - 0.5) * (1.1, 0.8)
    x, y = (lps_mm - ball.centre_lps_mm[:2]).T
    area_mm2 = abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2
    assert float(header.ImagePositionPatient[2]) == 0.0
    assert (points[0] == points[-1]).all()
    assert area_mm2 == pytest.approx(pi * 10.0**2, rel=0.02)
    assert number(planar, AREA) == (pytest.approx(area_mm2, rel=1e-4), "mm2")
    assert np.hypot(x, y) == pytest.approx(10.0, abs=1.1)
    assert (x.max() + x.min(), y.max() + y.min()) == pytest.approx((0, 0), abs=1.1)


def test_outline_is_carried_to_the_source_image_by_way_of_the_patient(tmp_path: Path) -> None:
    volume = two_glands(tmp_path / "in").segmentation.volume
    outline = Outline(4, np.array([(2.0, 3.0), (9.0, 3.0), (9.0, 12.0), (2.0, 3.0)]))
    # The same patient on a grid that is cut off by two columns and one row.
    cut = volume.lps_from_index.copy()
    cut[:3, 3] += cut[:3, :3] @ (2, 1, 0)

    moved = on_source_image(replace(volume, lps_from_index=cut), outline)

    assert on_source_image(volume, outline) == pytest.approx(outline.points, abs=2e-3)
    assert moved == pytest.approx(outline.points + np.array([2, 1]), abs=2e-3)


def test_image_library_names_every_source_slice(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")

    (library,) = children(written(report, tmp_path / "out"), "111028")

    (group,) = library.ContentSequence
    images = [item for item in group.ContentSequence if item.ValueType == "IMAGE"]
    named = [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in images]
    assert named == list(report.segmentation.volume.source_sop_uids)
    assert number(group, "111026") == (pytest.approx(1.1), "mm")  # horizontal
    assert number(group, "111066") == (pytest.approx(0.8), "mm")  # vertical


def test_quality_flags_are_told_to_the_reader(tmp_path: Path) -> None:
    segmentation = two_glands(tmp_path / "in").segmentation
    flag = QualityFlag("duplicates-removed", "Two slices came twice.")
    volume = replace(segmentation.volume, quality=(flag,))

    document = written(measure(replace(segmentation, volume=volume)), tmp_path / "out")

    assert texts(document)[-1] == (
        "Quality of the input, duplicates-removed: Two slices came twice."
    )


def test_report_is_complete_and_nobody_has_verified_it(tmp_path: Path) -> None:
    document = written(two_glands(tmp_path / "in"), tmp_path / "out")

    flags = (document.CompletionFlag, document.VerificationFlag, document.PreliminaryFlag)
    assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert document.SOPClassUID == pydicom.uid.Comprehensive3DSRStorage
