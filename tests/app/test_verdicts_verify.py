"""The verified SR, judged by other people's programs."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from app.settings import Reader
from app.verdicts.verify import seg_of, verified_uid, verify
from operators.evidence.write import write_evidence
from operators.findings.measure import measure
from tests.operators.scene import RECORDED_AT, two_glands
from tests.validators import dciodvfy_errors, dsrdump, pixelmed_sr_errors

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=-5)))
READER = Reader(name="Müller^Ada^^Dr.", organization="Klinikum Süd, Radiologie")
BECAUSE = "left and right are swapped"


@dataclass(frozen=True)
class Judged:
    """An SR of ours, and what became of it."""

    original: Path
    seg_uid: str
    verified: Path

    @property
    def before(self) -> Dataset:
        return pydicom.dcmread(self.original)

    @property
    def after(self) -> Dataset:
        return pydicom.dcmread(self.verified)


def judge(folder: Path, verdict: Any, *, earlier: tuple[str, ...] = ()) -> Judged:
    seg, sr = write_evidence(two_glands(folder / "in"), folder / "out", RECORDED_AT)
    because = BECAUSE if verdict == "rejected" else None
    content = verify(
        sr.path.read_bytes(),
        sop_instance_uid=uid(sr.sop_instance_uid, verdict=verdict, earlier=earlier),
        verdict=verdict,
        reader=READER,
        because=because,
        at=AT,
        earlier=earlier,
    )
    (folder / "verified.dcm").write_bytes(content)
    return Judged(sr.path, seg.sop_instance_uid, folder / "verified.dcm")


def uid(original: str = "1.2.3", **changes: Any) -> str:
    arguments = {"reader": "ada", "verdict": "confirmed", "because": None, "at": AT, "earlier": ()}
    return verified_uid(original, **{**arguments, **changes})


def referenced(document: Dataset) -> list[tuple[str, str]]:
    """Predecessors: (series, instance)."""
    (study,) = document.PredecessorDocumentsSequence
    assert study.StudyInstanceUID == document.StudyInstanceUID
    return [
        (series.SeriesInstanceUID, reference.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    ]


@pytest.mark.parametrize("verdict", ["confirmed", "rejected"])
def test_validators_find_nothing_that_the_original_has_not(verdict: str, tmp_path: Path) -> None:
    judged = judge(tmp_path, verdict)

    assert not dciodvfy_errors(judged.verified) - dciodvfy_errors(judged.original)
    assert pixelmed_sr_errors(judged.verified) == []


@pytest.mark.parametrize("verdict", ["confirmed", "rejected"])
def test_a_named_person_verified_a_final_document(verdict: str, tmp_path: Path) -> None:
    judged = judge(tmp_path, verdict)
    document = judged.after

    flags = (document.CompletionFlag, document.VerificationFlag, document.PreliminaryFlag)
    assert flags == ("COMPLETE", "VERIFIED", "FINAL")
    (observer,) = document.VerifyingObserverSequence
    assert observer.VerifyingObserverName == "Müller^Ada^^Dr."
    assert observer.VerifyingOrganization == "Klinikum Süd, Radiologie"
    assert observer.VerificationDateTime == "20260102030405-0500"
    assert list(observer.VerifyingObserverIdentificationCodeSequence) == []
    assert "Müller^Ada^^Dr." in dsrdump(judged.verified)


@pytest.mark.parametrize("verdict", ["confirmed", "rejected"])
def test_it_is_a_new_object_of_the_same_patient_that_names_its_predecessors(
    verdict: str, tmp_path: Path
) -> None:
    judged = judge(tmp_path, verdict, earlier=("9.8.7",))
    before, after = judged.before, judged.after

    assert after.SOPInstanceUID == after.file_meta.MediaStorageSOPInstanceUID
    assert len({before.SOPInstanceUID, after.SOPInstanceUID}) == 2
    assert len({before.SeriesInstanceUID, after.SeriesInstanceUID}) == 2
    (first, second) = referenced(after)
    assert first == (before.SeriesInstanceUID, before.SOPInstanceUID)
    assert second[1] == "9.8.7"
    for same in (
        "SOPClassUID",
        "StudyInstanceUID",
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "ContentDate",
        "ContentTime",
        "ContributingEquipmentSequence",
        "CurrentRequestedProcedureEvidenceSequence",
        "ContentQualification",
    ):
        assert after[same] == before[same]
    assert (after.InstanceCreationDate, after.InstanceCreationTime) == ("20260102", "030405")
    assert (after.SeriesDate, after.SeriesTime) == ("20260102", "030405")
    assert seg_of(judged.verified.read_bytes()) == judged.seg_uid


def test_a_confirmed_document_has_the_same_content_word_for_word(tmp_path: Path) -> None:
    judged = judge(tmp_path, "confirmed")

    assert judged.after.ContentSequence == judged.before.ContentSequence
    assert judged.after.SeriesDescription.startswith("Confirmed by reader: AI measurements")


def test_a_rejected_document_says_nothing_but_the_rejection(tmp_path: Path) -> None:
    judged = judge(tmp_path, "rejected")
    text = dsrdump(judged.verified)

    assert (
        "REJECTED by Dr. Ada Müller, Klinikum Süd, Radiologie, on 2026-01-02 03:04 -0500, "
        f"because: {BECAUSE}. The result {judged.before.SOPInstanceUID} is not to be used."
    ) in text
    for gone in ("Imaging Measurements", "Measurement Group", "Volume", "SCOORD", "Larynx"):
        assert gone in dsrdump(judged.original)
        assert gone not in text
    assert judged.after.SeriesDescription.startswith("REJECTED by reader: AI measurements")
    assert len(judged.after.SeriesDescription) <= 64
    images = judged.before.ContentSequence[-3]  # library, measurements, evaluations
    assert images in list(judged.after.ContentSequence)


def test_a_result_in_which_nothing_was_found_can_be_confirmed(tmp_path: Path) -> None:
    segmentation = two_glands(tmp_path / "in").segmentation
    report = measure(replace(segmentation, labels=segmentation.labels * 0))
    (sr,) = write_evidence(report, tmp_path / "out", RECORDED_AT)
    original = sr.path.read_bytes()

    for verdict in ("confirmed", "rejected"):
        path = tmp_path / verdict
        path.write_bytes(
            verify(
                original,
                sop_instance_uid=uid(verdict=verdict),
                verdict=verdict,  # type: ignore[arg-type]
                reader=READER,
                because=BECAUSE,
                at=AT,
            )
        )
        assert not dciodvfy_errors(path) - dciodvfy_errors(sr.path)
    assert pixelmed_sr_errors(tmp_path / "rejected") == []
    assert seg_of(original) is None
    assert "Looked for and not found" not in dsrdump(tmp_path / "rejected")


def test_odd_values_of_the_source_are_kept_as_they_are(tmp_path: Path) -> None:
    def edit(dataset: Dataset, _k: int) -> None:
        dataset.PatientBirthDate = "19xx0101"
        dataset.StudyID = "longer than the sixteen of an SH"

    report = two_glands(tmp_path / "in", edit=edit)
    sr = write_evidence(report, tmp_path / "out", RECORDED_AT)[1]

    content = verify(
        sr.path.read_bytes(),
        sop_instance_uid=uid(),
        verdict="confirmed",
        reader=READER,
        because=None,
        at=AT,
    )

    document = pydicom.dcmread(io.BytesIO(content))
    with pydicom.config.disable_value_validation():
        assert document.PatientBirthDate == "19xx0101"
        assert document.StudyID == "longer than the sixteen of an SH"


def test_equal_verdicts_give_equal_bytes_and_any_difference_another_uid(tmp_path: Path) -> None:
    first, second = judge(tmp_path / "a", "rejected"), judge(tmp_path / "b", "rejected")

    assert first.original.read_bytes() == second.original.read_bytes()
    assert first.verified.read_bytes() == second.verified.read_bytes()
    different = [
        uid(),
        uid("1.2.4"),
        uid(reader="bob"),
        uid(verdict="rejected"),
        uid(because="x"),
        uid(at=AT + timedelta(seconds=1)),
        uid(earlier=("9",)),
    ]
    assert len(set(different)) == len(different)
