"""Model, code, sources and tracking UIDs are found from each kind of output, and no patient."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import highdicom as hd
import pydicom
import pytest

from app.settings import Reader
from app.verdicts.verify import verify
from operators.evidence.common import SOFTWARE_VERSION
from operators.evidence.rejection import build_rejection
from operators.evidence.result import write_result
from operators.evidence.status import build_status
from operators.evidence.trace import NothingToTrace, NotOurs, Trace, TracedModel, trace_file
from operators.evidence.write import write_job
from operators.job import ExtraEvidence, Report, StudyJob
from tests.operators.scene import MODEL, RECORDED_AT, two_glands

EXTRA: tuple[ExtraEvidence, ...] = ("key_images", "pdf", "rtstruct")
CONFIG = "fedcba9876543210" * 4
# A label and a box that a person typed, made to mislead.
PROMPT = (("prompt_box", "1,2,3,4"), ("prompt_label", f"x, weights_sha256 {'0' * 64}"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Two glands, by a model with a config and a prompt; the patient has a name."""
    report = two_glands(tmp_path_factory.mktemp("in"))
    model = replace(MODEL, config_sha256=CONFIG, prompt=PROMPT)
    return replace(report, segmentation=replace(report.segmentation, model=model))


@pytest.fixture(scope="module")
def written(report: Report, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind, and result.json beside them."""
    folder = tmp_path_factory.mktemp("out")
    job = StudyJob(folder, folder, RECORDED_AT, reports=(report,))
    done = write_job(job, EXTRA, {MODEL.name})
    assert not done.refused
    write_result(done)
    return {item.kind: item.path for item in done.evidence} | {"JSON": folder / "result.json"}


def uids_in_seg(written: dict[str, Path]) -> list[str]:
    """Tracking UIDs of the segments, as highdicom reads them."""
    seg = hd.seg.segread(written["SEG"])
    return [str(seg.get_segment_description(n).tracking_uid) for n in seg.segment_numbers]


@pytest.mark.parametrize("kind", ["SEG", "SR", "RTSTRUCT", "KEY_IMAGE", "PDF"])
def test_each_output_tells_its_model_code_and_sources(
    kind: str, report: Report, written: dict[str, Path]
) -> None:
    volume = report.segmentation.volume

    (found,) = trace_file(written[kind])

    header = pydicom.dcmread(written[kind], stop_before_pixels=True)
    assert (found.kind, found.file_there) == (kind, True)
    assert found.sop_instance_uid == header.SOPInstanceUID
    assert found.series_instance_uid == header.SeriesInstanceUID
    assert found.study_instance_uid == volume.headers[0].StudyInstanceUID
    assert found.model == TracedModel(
        MODEL.name, MODEL.version, MODEL.weights_sha256, CONFIG, MODEL.runtime
    )
    assert (found.radloop_version, found.recorded_at) == (SOFTWARE_VERSION, RECORDED_AT)
    assert found.source_series_uid == volume.series_instance_uid
    if kind == "KEY_IMAGE":  # those that are drawn
        assert found.source_sop_uids and set(found.source_sop_uids) < set(volume.source_sop_uids)
    else:
        assert found.source_sop_uids == volume.source_sop_uids


def test_volumetric_groups_segments_and_rois_share_tracking_uids(
    written: dict[str, Path],
) -> None:
    content = hd.sr.srread(written["SR"]).content
    groups = content.get_volumetric_roi_measurement_groups()  # TID 1411

    uids = uids_in_seg(written)

    assert len(set(uids)) == 2
    assert [group.tracking_uid for group in groups] == uids
    for kind in ("SEG", "SR", "RTSTRUCT"):
        (found,) = trace_file(written[kind])
        assert list(found.tracking_uids) == uids


def test_result_json_is_traced_by_the_files_beside_it(written: dict[str, Path]) -> None:
    traces = trace_file(written["JSON"])

    assert {found.kind for found in traces} == {*written} - {"JSON"}
    for kind in ("SEG", "SR", "RTSTRUCT", "PDF"):
        assert trace_file(written[kind])[0] in traces
    assert all(found.file_there for found in traces)


def test_result_json_alone_says_what_it_knows(
    report: Report, written: dict[str, Path], tmp_path: Path
) -> None:
    alone = tmp_path / "result.json"
    alone.write_bytes(written["JSON"].read_bytes())

    found = trace_file(alone)[0]

    assert (found.kind, found.file_there) == ("SEG", False)
    assert found.sop_instance_uid == trace_file(written["SEG"])[0].sop_instance_uid
    assert found.model == TracedModel(
        MODEL.name, MODEL.version, MODEL.weights_sha256, "", MODEL.runtime
    )
    assert found.recorded_at == RECORDED_AT
    assert found.source_series_uid == report.segmentation.volume.series_instance_uid
    assert (found.source_sop_uids, found.tracking_uids, found.radloop_version) == ((), (), "")


def test_another_file_under_the_same_name_is_not_taken_for_the_result(
    written: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "result.json").write_bytes(written["JSON"].read_bytes())
    (tmp_path / written["SEG"].name).write_bytes(written["SR"].read_bytes())

    assert not trace_file(tmp_path / "result.json")[0].file_there


def test_a_verified_copy_has_the_sources_and_the_record_of_its_original(
    written: dict[str, Path], tmp_path: Path
) -> None:
    copy = verify(
        written["SR"].read_bytes(),
        sop_instance_uid="2.25.7",
        verdict="confirmed",
        reader=Reader(name="Byron^Ada", organization="Radiology"),
        because=None,
        at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )
    (tmp_path / "verified.dcm").write_bytes(copy)

    (found,) = trace_file(tmp_path / "verified.dcm")
    (original,) = trace_file(written["SR"])

    assert (found.kind, found.sop_instance_uid) == ("VERIFIED_SR", "2.25.7")
    same = {"kind": "SR", "sop_instance_uid": original.sop_instance_uid}
    assert replace(found, **same, series_instance_uid=original.series_instance_uid) == original
    assert "Byron" not in str(found)


def test_a_status_and_a_rejection_have_no_model(
    report: Report, written: dict[str, Path], tmp_path: Path
) -> None:
    header = report.segmentation.volume.headers[0]
    seg = pydicom.dcmread(written["SEG"])
    made = {
        "STATUS": build_status(header, "pending", "", RECORDED_AT, 1),
        "KOS": build_rejection([seg], "superseded", RECORDED_AT),
    }
    for kind, dataset in made.items():
        dataset.save_as(tmp_path / kind, enforce_file_format=True)
        (found,) = trace_file(tmp_path / kind)
        assert (found.kind, found.model, found.recorded_at) == (kind, None, RECORDED_AT)
        assert found.radloop_version == SOFTWARE_VERSION


def test_no_word_of_the_patient_or_of_a_person_is_told(written: dict[str, Path]) -> None:
    traces = [found for path in written.values() for found in trace_file(path)]

    told = json.dumps([asdict(found) for found in traces])

    seg = pydicom.dcmread(written["SEG"], stop_before_pixels=True)
    for secret in (seg.PatientName, seg.PatientID, seg.StudyDescription, "prompt", "1,2,3,4"):
        assert str(secret) and str(secret) not in told


def edited(source: Path, target: Path, **elements: object) -> Path:
    dataset = pydicom.dcmread(source)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(target)
    return target


def test_what_others_wrote_is_refused_with_a_reason(
    report: Report, written: dict[str, Path], tmp_path: Path
) -> None:
    source = next(path for path in sorted(Path(report_folder(report)).glob("*.dcm")))
    theirs = edited(written["SEG"], tmp_path / "theirs.dcm", DeviceUID="1.2.3")
    renamed = edited(written["SEG"], tmp_path / "renamed.dcm", Manufacturer="Other")
    for path in (source, theirs, renamed):
        with pytest.raises(NotOurs, match=r"was not written by radloop"):
            trace_file(path)


def report_folder(report: Report) -> str:
    """Where the phantom's images are."""
    return str(Path(report.segmentation.volume.headers[0].filename).parent)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.dcm", b""),
        ("text.dcm", b"no DICOM at all" * 100),
        ("result.json", b"{"),
        ("result.json", b'{"recorded_at": "1", "results": [7]}'),
        ("result.json", b'{"recorded_at": "1", "results": [], "readings": []}'),
        ("other.json", b"[]"),
    ],
)
def test_what_can_not_be_read_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(NothingToTrace, match="can't be traced"):
        trace_file(tmp_path / name)


def test_what_a_forged_file_holds_in_place_of_uids_and_digests_is_not_shown(
    written: dict[str, Path], tmp_path: Path
) -> None:
    dataset = pydicom.dcmread(written["RTSTRUCT"])
    equipment = dataset.ContributingEquipmentSequence[-1]
    equipment.ContributionDescription = "weights_sha256 Doe^John, runtime \x1b[31mred"
    with pydicom.config.disable_value_validation():
        dataset.StructureSetROISequence[0].TrackingUID = "Doe^John"
    dataset.save_as(tmp_path / "forged.dcm")

    found: Trace
    (found,) = trace_file(tmp_path / "forged.dcm")

    assert found.model is not None
    assert (found.model.weights_sha256, found.model.config_sha256) == ("", "")
    assert found.model.runtime == "[31mred"
    assert list(found.tracking_uids) == uids_in_seg(written)[1:]
