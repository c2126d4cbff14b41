"""A rejection of our results, against the validators and against what IOCM asks for."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from operators.evidence.common import DEVICE_UID
from operators.evidence.rejection import MixedRejection, build_rejection
from operators.evidence.write import write_evidence
from tests.operators.scene import RECORDED_AT, two_glands
from tests.validators import dciodvfy_errors, dsrdump, pixelmed_sr_errors

LATER = "20260203040506"
BECAUSE = "superseded by a result of 412 instances"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """The SEG and the SR of one study."""
    folder = tmp_path_factory.mktemp("results")
    written = write_evidence(two_glands(folder / "in"), folder / "out", RECORDED_AT)
    return [pydicom.dcmread(item.path) for item in written]


def encoded(document: Dataset) -> bytes:
    stream = io.BytesIO()
    document.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def test_validators_find_no_error(results: list[Dataset], tmp_path: Path) -> None:
    path = tmp_path / "rejection.dcm"
    path.write_bytes(encoded(build_rejection(results, BECAUSE, LATER)))

    assert not dciodvfy_errors(path)
    # PixelMed looks for the title that demands a modifier beside the modifier, not above it.
    faults = [line for line in pixelmed_sr_errors(path) if "condition not satisfied" not in line]
    assert faults == []
    assert "Rejected for Quality Reasons" in dsrdump(path)


def test_it_names_every_result_and_why(results: list[Dataset]) -> None:
    document = pydicom.dcmread(io.BytesIO(encoded(build_rejection(results, BECAUSE, LATER))))

    assert document.SOPClassUID == KeyObjectSelectionDocumentStorage
    (title,) = document.ConceptNameCodeSequence
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("113001", "DCM")
    (modifier, *items) = document.ContentSequence
    assert modifier.RelationshipType == "HAS CONCEPT MOD"
    assert [item.TextValue for item in items if item.ValueType == "TEXT"] == [BECAUSE]
    shown = {
        (item.ValueType, item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in items
        if item.ValueType != "TEXT"
    }
    seg, sr = results
    assert shown == {("IMAGE", seg.SOPInstanceUID), ("COMPOSITE", sr.SOPInstanceUID)}
    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    evidence = {
        (series.SeriesInstanceUID, item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert evidence == {
        (result.SeriesInstanceUID, result.SOPClassUID, result.SOPInstanceUID) for result in results
    }


def test_it_stands_in_the_patients_study_and_in_a_series_of_its_own(
    results: list[Dataset],
) -> None:
    document = build_rejection(results, BECAUSE, LATER)

    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "StudyDate", "AccessionNumber"):
        assert document[keyword].value == results[0][keyword].value, keyword
    assert document.SeriesInstanceUID not in {result.SeriesInstanceUID for result in results}
    assert document.Modality == "KO"
    assert document.ContentDate + document.ContentTime == LATER
    # By this our own intake knows that it must not analyse what comes back.
    assert document.DeviceUID == DEVICE_UID


def test_the_same_rejection_has_the_same_bytes_and_another_one_another_uid(
    results: list[Dataset],
) -> None:
    document = build_rejection(results, BECAUSE, LATER)

    assert encoded(build_rejection(results[::-1], BECAUSE, LATER)) == encoded(document)
    others = [
        build_rejection(results[:1], BECAUSE, LATER),
        build_rejection(results, "another reason", LATER),
        build_rejection(results, BECAUSE, RECORDED_AT),
    ]
    uids = {str(other.SOPInstanceUID) for other in others}
    assert len(uids) == 3 and str(document.SOPInstanceUID) not in uids


def test_results_of_two_studies_are_refused(results: list[Dataset]) -> None:
    other = copy.deepcopy(results[1])
    other.StudyInstanceUID = "1.2.3"

    with pytest.raises(MixedRejection, match="not 2 "):
        build_rejection([results[0], other], BECAUSE, LATER)


def test_key_images_and_pdf_can_be_rejected_with_the_rest(tmp_path: Path) -> None:
    written = write_evidence(
        two_glands(tmp_path / "in"), tmp_path / "out", RECORDED_AT, ("key_images", "pdf")
    )
    results = [pydicom.dcmread(item.path, stop_before_pixels=True) for item in written]

    document = build_rejection(results, "superseded", RECORDED_AT)

    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    named = {
        item.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert named == {item.sop_instance_uid for item in written}
