"""A comparison in the SR, the PDF and result.json; earlier results of whatever maker read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from app.settings import Reader
from app.verdicts.verify import seg_of, verify
from operators.compared import Priors
from operators.evidence.prior import read_priors
from operators.evidence.result import write_result
from operators.evidence.trace import trace_file
from operators.evidence.write import write_job
from operators.findings.longitudinal import compare_job
from operators.job import Evidence, QualityFlag, Report, StudyJob
from tests.operators.priors import ball, lesion, study
from tests.operators.scene import RECORDED_AT, segment
from tests.operators.test_evidence_sr import children, groups, texts
from tests.rejection import rejection_note
from tests.validators import dciodvfy_errors, pixelmed_sr_errors, result_errors

THEN, NOW = "20240102", "20240201"
LARYNX, MANDIBLE = segment(1, "larynx"), segment(2, "mandible")


def then(folder: Path, radius_mm: float = 10.0, date: str = THEN) -> Report:
    return study(folder, [ball(radius_mm)], [LARYNX, MANDIBLE], date=date)


def now(folder: Path, radius_mm: float = 12.0) -> Report:
    away = (-16.0, -20.0, 20.0)
    shapes = [ball(radius_mm), ball(3.0, 2, away)]
    return study(folder, shapes, [LARYNX, MANDIBLE], date=NOW)


def written(report: Report, folder: Path, priors: Path | None = None) -> dict[str, Evidence]:
    """SEG, SR and PDF, by kind, and result.json."""
    job = StudyJob(folder, folder, RECORDED_AT, reports=(report,))
    if priors is not None:
        job = compare_job(job, lambda _present: read_priors(priors))
    done = write_job(job, ("pdf",))
    assert done.refused == ()
    write_result(done)
    return {item.kind: item for item in done.evidence}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `radloop run` leaves it."""
    folder = tmp_path_factory.mktemp("earlier")
    written(then(folder / "in"), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def present(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return now(tmp_path_factory.mktemp("present"))


def test_the_sr_says_the_change_in_the_structure_s_group_and_names_the_prior(
    earlier: Path, present: Report, tmp_path: Path
) -> None:
    (prior,) = read_priors(earlier).results
    made = written(present, tmp_path, earlier)

    document = pydicom.dcmread(made["SR"].path)
    _, first, _, second = groups(document)
    grid, said = [item.TextValue for item in children(first, "121106")]
    assert grid.startswith("Left open by the grid")
    assert "the result of 2024-01-02, 30 days earlier" in said
    assert "confirmed by nobody" in said and prior.identity.seg_sop_instance_uid in said
    assert "grown" in said and "volume doubling time" in said
    assert len(children(second, "121106")) == 1
    (left,) = [text for text in texts(document) if text.startswith("Not compared")]
    assert left.startswith("Not compared: Mandible of this result")

    (other,) = document.PertinentOtherEvidenceSequence
    assert other.StudyInstanceUID == prior.identity.study_instance_uid
    named = [
        item.ReferencedSOPInstanceUID
        for series in other.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert len(named) == 2
    assert named == [prior.identity.seg_sop_instance_uid, prior.identity.reports[0][2]]
    # Neither is taken for the segmentation, or the source, of this report.
    assert seg_of(made["SR"].path.read_bytes()) == made["SEG"].sop_instance_uid
    assert not set(named) & set(trace_file(made["SR"].path)[0].source_sop_uids)
    assert not dciodvfy_errors(made["SR"].path)
    assert pixelmed_sr_errors(made["SR"].path) == []
    assert not dciodvfy_errors(made["PDF"].path)


def test_the_same_prior_gives_the_same_bytes_and_another_one_other_uids(
    earlier: Path, present: Report, tmp_path: Path
) -> None:
    written(then(tmp_path / "in", 9.0), tmp_path / "other-prior")
    once = written(present, tmp_path / "once", earlier)
    again = written(present, tmp_path / "again", earlier)
    other = written(present, tmp_path / "other", tmp_path / "other-prior")
    alone = written(present, tmp_path / "alone")
    nothing = written(present, tmp_path / "nothing", tmp_path)

    for kind in ("SEG", "SR", "PDF"):
        assert once[kind].path.read_bytes() == again[kind].path.read_bytes()
        uids = {made[kind].sop_instance_uid for made in (once, other, alone, nothing)}
        assert len(uids) == (1 if kind == "SEG" else 4)
    assert len({made["SEG"].path.read_bytes() for made in (once, other, alone, nothing)}) == 1


def test_result_json_has_it_by_its_schema(earlier: Path, present: Report, tmp_path: Path) -> None:
    written(present, tmp_path / "with", earlier)
    written(present, tmp_path / "without")
    (tmp_path / "empty").mkdir()
    written(present, tmp_path / "none", tmp_path / "empty")

    by_name = {}
    for name in ("with", "without", "none"):
        result = json.loads((tmp_path / name / "result.json").read_text())
        assert result_errors(result) == []
        by_name[name] = result["results"][0]
    said = by_name["with"]["comparison"]
    assert (said["prior"]["study_date"], said["interval_days"]) == (THEN, 30)
    assert [pair["label"] for pair in said["pairs"]] == ["Larynx"]
    assert by_name["without"]["comparison"] is None
    assert by_name["none"]["comparison"]["prior"] is None
    (flag,) = by_name["none"]["quality"]
    assert (flag["name"], "no SEG" in flag["text"]) == ("prior-not-compared", True)


def test_the_page_has_a_line_for_it(earlier: Path, present: Report, tmp_path: Path) -> None:
    pdfium = pytest.importorskip("pypdfium2")
    made = written(present, tmp_path, earlier)["PDF"]

    encapsulated = pydicom.dcmread(made.path).EncapsulatedDocument
    text = pdfium.PdfDocument(encapsulated)[0].get_textpage().get_text_range()

    assert "Compared with the result of 2024-01-02, 30 days earlier" in text
    (line,) = [line for line in text.splitlines() if line.startswith("Larynx: volume")]
    assert "grown: more than" in line


def judged(earlier: Path, folder: Path, *verdicts: str) -> Path:
    """The folder with verified documents, each about the ones before it."""
    folder.mkdir()
    for path in earlier.glob("*.dcm"):
        (folder / path.name).write_bytes(path.read_bytes())
    original = next(earlier.glob("*.sr.dcm")).read_bytes()
    uids: list[str] = []
    for number, verdict in enumerate(verdicts):
        uid = f"2.25.{number + 1}"
        content = verify(
            original,
            sop_instance_uid=uid,
            verdict=verdict,  # type: ignore[arg-type]
            reader=Reader(name="Byron^Ada", organization="Radiology"),
            because=None if verdict == "confirmed" else "wrong side",
            at=datetime(2024, 1, 3, number, tzinfo=UTC),
            earlier=uids,
        )
        (folder / f"{number}.dcm").write_bytes(content)
        uids.append(uid)
    return folder


@pytest.mark.parametrize(
    ("verdicts", "confirmed", "rejected"),
    [
        ((), False, False),
        (("confirmed",), True, False),
        (("confirmed", "rejected"), False, True),
        (("rejected", "confirmed"), True, False),
        (("rejected",), False, True),
    ],
)
def test_the_last_verdict_on_a_result_is_read_from_its_documents(
    earlier: Path, tmp_path: Path, verdicts: tuple[str, ...], confirmed: bool, rejected: bool
) -> None:
    (prior,) = read_priors(judged(earlier, tmp_path / "judged", *verdicts)).results

    assert (prior.identity.confirmed, prior.rejected) == (confirmed, rejected)
    assert len(prior.identity.reports) == 1 + len(verdicts)


@pytest.mark.parametrize(
    ("remark", "with_report", "cut_off"),
    [("", True, False), ("larynx", True, True), ("mandible", True, False), ("", False, None)],
)
def test_the_earlier_report_tells_what_the_image_cut_off(
    tmp_path: Path, remark: str, with_report: bool, cut_off: bool | None
) -> None:
    """Padding within the matrix ends an image too, and a mask does not tell of it."""
    report = then(tmp_path / "in")
    if remark:
        label = {one.name: one.label for one in (LARYNX, MANDIBLE)}[remark]
        text = f"Touches the edge of the field of view, may go on outside and be larger: {label}."
        volume = report.segmentation.volume
        volume = replace(volume, quality=(QualityFlag("incomplete-coverage", text),))
        report = replace(report, segmentation=replace(report.segmentation, volume=volume))
    written(report, tmp_path / "out")
    if not with_report:
        for path in (tmp_path / "out").rglob("*.sr.dcm"):
            path.unlink()

    (prior,) = read_priors(tmp_path / "out").results

    assert prior.structures[0].load().cut_off is cut_off


@pytest.mark.parametrize(
    ("title", "of", "used"),
    [
        ("113001", "SEG", False),
        ("113037", "SEG", False),
        ("113000", "SEG", True),
        ("113001", "SR", True),
    ],
)
def test_what_a_rejection_note_takes_back_is_not_used(
    tmp_path: Path, title: str, of: str, used: bool
) -> None:
    made = written(then(tmp_path / "in"), tmp_path / "out")
    named = pydicom.dcmread(made[of].path)
    rejection_note([named], title).save_as(tmp_path / "out" / "note.dcm", enforce_file_format=True)

    found = read_priors(tmp_path / "out")

    assert len(found.results) == used
    if used:
        assert len(found.results[0].identity.reports) == (of == "SEG")
    else:
        (reason,) = found.left_out
        assert "RL-2175" in reason and named.SOPInstanceUID in reason


def test_a_seg_of_another_maker_is_compared_with_a_remark(tmp_path: Path) -> None:
    """Made by highdicom alone, from the source images; read without any SR."""
    report = then(tmp_path / "in")
    sources = [pydicom.dcmread(path) for path in sorted((tmp_path / "in").glob("*.dcm"))]
    described = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Doe's larynx",
        segmented_property_category=hd.sr.CodedConcept("91723000", "SCT", "Anatomical Structure"),
        segmented_property_type=hd.sr.CodedConcept("4596009", "SCT", "Larynx"),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    foreign = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=(report.segmentation.labels == 1).astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[described],
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Somebody",
        manufacturer_model_name="Pen",
        software_versions="1",
        device_serial_number="1",
    )
    (tmp_path / "seg").mkdir()
    foreign.save_as(tmp_path / "seg" / "1.dcm")

    job = StudyJob(tmp_path, tmp_path, RECORDED_AT, reports=(now(tmp_path / "now"),))
    found = read_priors(tmp_path / "seg")
    (compared,) = compare_job(job, lambda _present: found).reports

    assert compared.comparison is not None and compared.comparison.prior is not None
    (pair,) = compared.comparison.pairs
    measured = {m.name: m.value for m in report.findings[0].measurements}
    assert {change.name: change.prior for change in pair.changes} == pytest.approx(
        {name: measured[name] for name in ("volume", "long_axis", "short_axis")}
    )
    assert not compared.comparison.prior.ours
    assert "can't be told" in pair.remarks[0]
    assert {change.exceeds_uncertainty for change in pair.changes} == {None}
    assert [flag.name for flag in compared.comparison.flags] == ["prior-other-model"]
    assert "Doe" not in repr(compared.comparison)


def _fractional(dataset: Dataset) -> None:
    dataset.SegmentationType = "FRACTIONAL"


def _scattered(dataset: Dataset) -> None:
    position = dataset.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence[0]
    position.ImagePositionPatient[2] += 0.3


def _endless(dataset: Dataset) -> None:
    dataset.NumberOfFrames = 1 << 24


def _codeless(dataset: Dataset) -> None:
    del dataset.SegmentSequence[0].SegmentedPropertyTypeCodeSequence


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_fractional, "RL-2176"),
        (_scattered, "RL-2176"),
        (_endless, "RL-2177"),
        (_codeless, "RL-2176"),
    ],
)
def test_a_seg_that_gives_no_masks_is_refused_by_name(
    earlier: Path, tmp_path: Path, spoil: Callable[[Dataset], None], code: str
) -> None:
    dataset = pydicom.dcmread(next(earlier.glob("*.seg.dcm")))
    spoil(dataset)
    dataset.save_as(tmp_path / "spoilt.dcm")

    found = read_priors(tmp_path)

    assert found.results == ()
    (reason,) = found.left_out
    assert reason.startswith(f"{code}: SEG {dataset.SOPInstanceUID}")


def test_many_pairs_leave_room_on_the_page(tmp_path: Path) -> None:
    """What doesn't fit is counted."""
    lesions = [lesion(number) for number in range(1, 8)]
    shapes = [ball(3.0, n, (-14.0 + 5 * n, -30.0, 20.0)) for n in range(1, 8)]
    report = study(tmp_path / "now", shapes, lesions, date=NOW)
    written(study(tmp_path / "then", shapes, lesions, date=THEN), tmp_path / "prior")
    pdfium = pytest.importorskip("pypdfium2")

    made = written(report, tmp_path / "out", tmp_path / "prior")["PDF"]

    encapsulated = pydicom.dcmread(made.path).EncapsulatedDocument
    text = pdfium.PdfDocument(encapsulated)[0].get_textpage().get_text_range()
    assert "14 more: see the structured report" in text


def test_nothing_of_a_comparison_is_written_where_none_was_asked_for(
    present: Report, tmp_path: Path
) -> None:
    document = pydicom.dcmread(written(present, tmp_path)["SR"].path)

    assert "PertinentOtherEvidenceSequence" not in document
    assert not children(document, "C0034375")


def test_priors_of_nobody_are_no_priors(present: Report, tmp_path: Path) -> None:
    job = StudyJob(tmp_path, tmp_path, RECORDED_AT, reports=(replace(present),))

    (compared,) = compare_job(job, lambda _present: Priors()).reports

    assert compared.comparison is not None
    assert "there is none of this patient" in compared.comparison.flags[0].text
