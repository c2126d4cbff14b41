"""Who, when and by what: the modules that every output shares."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from operators.evidence.common import DEVICE_UID, SOFTWARE_VERSION, identify
from operators.evidence.write import write_evidence
from operators.findings.measure import measure
from operators.job import Report, Segmentation
from tests.operators.scene import MODEL, RECORDED_AT, segment, two_glands
from tests.operators.varied import real_segmentation
from tests.validators import dciodvfy_errors


def written(report: Report, folder: Path) -> list[Dataset]:
    """SEG and SR as pydicom reads them."""
    return [pydicom.dcmread(e.path) for e in write_evidence(report, folder, RECORDED_AT)]


def test_a_second_run_writes_the_same_bytes(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")

    first, second = (
        {e.path.name: e.path.read_bytes() for e in write_evidence(report, folder, RECORDED_AT)}
        for folder in (tmp_path / "a", tmp_path / "b")
    )

    assert len(first) == 2
    assert first == second


def change_weights(segmentation: Segmentation) -> Segmentation:
    return replace(segmentation, model=replace(MODEL, weights_sha256="f" * 64))


def change_runtime(segmentation: Segmentation) -> Segmentation:
    return replace(segmentation, model=replace(MODEL, runtime="onnxruntime-cpu-float32"))


def change_part(segmentation: Segmentation) -> Segmentation:
    return replace(segmentation, volume=replace(segmentation.volume, part="acquisition 2"))


def change_sources(segmentation: Segmentation) -> Segmentation:
    headers = segmentation.volume.headers
    return replace(segmentation, volume=replace(segmentation.volume, headers=headers[:-1]))


def change_segments(segmentation: Segmentation) -> Segmentation:
    return replace(segmentation, segments=(*segmentation.segments, segment(9, "larynx", "left")))


@pytest.mark.parametrize(
    "change", [change_weights, change_runtime, change_part, change_sources, change_segments]
)
def test_another_origin_gives_other_uids(
    tmp_path: Path, change: Callable[[Segmentation], Segmentation]
) -> None:
    segmentation = two_glands(tmp_path).segmentation

    identities = [
        identify(which, kind, when)
        for which, when in (
            (segmentation, RECORDED_AT),
            (change(segmentation), RECORDED_AT),
            (segmentation, "20250101000000"),
        )
        for kind in ("SEG", "SR")
    ]

    uids = [uid for i in identities for uid in (i.sop_instance_uid, i.series_instance_uid)]
    assert len(set(uids)) == 12


def test_dates_are_those_of_the_record_in_both_objects(tmp_path: Path) -> None:
    for dataset in written(two_glands(tmp_path / "in"), tmp_path / "out"):
        for what in ("Series", "Content", "InstanceCreation"):
            assert dataset[f"{what}Date"].value == RECORDED_AT[:8]
            assert dataset[f"{what}Time"].value == RECORDED_AT[8:]


def test_outputs_name_device_software_model_and_acquisition(tmp_path: Path) -> None:
    for dataset in written(two_glands(tmp_path / "in"), tmp_path / "out"):
        assert (dataset.Manufacturer, dataset.ManufacturerModelName) == ("radloop", "radloop")
        assert dataset.SoftwareVersions == SOFTWARE_VERSION
        assert dataset.DeviceUID == dataset.InstanceCreatorUID == DEVICE_UID
        assert dataset.DeviceSerialNumber
        assert dataset.ContentQualification == "RESEARCH"
        acquisition, model = dataset.ContributingEquipmentSequence
        assert acquisition.Manufacturer == "Phantom"
        assert (model.ManufacturerModelName, model.SoftwareVersions) == ("test_bundle", "1.2.3")
        assert MODEL.weights_sha256 in model.ContributionDescription


def test_series_are_named_so_that_a_reader_knows_them(tmp_path: Path) -> None:
    seg, sr = written(two_glands(tmp_path / "in"), tmp_path / "out")

    assert seg.SeriesDescription == "AI segmentation test_bundle 1.2.3"
    assert sr.SeriesDescription == "AI measurements test_bundle 1.2.3"


def test_software_version_is_that_of_the_distribution() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())

    assert pyproject["project"]["version"] == SOFTWARE_VERSION


@pytest.mark.parametrize(
    ("character_set", "name", "issuer"),
    [
        ("ISO_IR 100", "Müller^Jörg", "Köln"),
        ("ISO_IR 144", "Люкceмбypг", "Москва"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "東京"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小东", "北京"),
        ("GB18030", "Wang^XiaoDong=王^小东", "北京"),
    ],
)
def test_text_in_any_character_set_arrives_as_utf_8(
    tmp_path: Path, character_set: str | list[str], name: str, issuer: str
) -> None:
    def rename(dataset: Dataset, _k: int) -> None:
        dataset.SpecificCharacterSet = character_set
        dataset.PatientName = name
        dataset.ReferringPhysicianName = name
        other = Dataset()
        other.PatientID = "17"
        other.IssuerOfPatientID = issuer
        dataset.OtherPatientIDsSequence = [other]

    for evidence in write_evidence(
        two_glands(tmp_path / "in", edit=rename), tmp_path / "out", RECORDED_AT
    ):
        dataset = pydicom.dcmread(evidence.path)
        assert dataset.SpecificCharacterSet == "ISO_IR 192"
        assert dataset.PatientName == name
        assert dataset.ReferringPhysicianName == name
        assert dataset.OtherPatientIDsSequence[0].IssuerOfPatientID == issuer
        # pydicom guesses where bytes are not UTF-8: the file itself must hold it.
        for text in (name, issuer):
            assert text.encode() in evidence.path.read_bytes()


def test_patient_and_study_are_the_sources_own(tmp_path: Path) -> None:
    kept = {
        "PatientName": "Doe^Jane",
        "PatientID": "123",
        "IssuerOfPatientID": "HOSPITAL",
        "PatientBirthDate": "19500607",
        "PatientSex": "F",
        "PatientAge": "073Y",
        "PatientWeight": "61",
        "StudyDescription": "Planning CT",
        "AccessionNumber": "A-9",
        "StudyID": "S1",
        "StudyDate": "20240102",
    }

    def fill(dataset: Dataset, _k: int) -> None:
        for keyword, value in kept.items():
            setattr(dataset, keyword, value)

    report = two_glands(tmp_path / "in", edit=fill)

    for dataset in written(report, tmp_path / "out"):
        assert {keyword: str(dataset[keyword].value) for keyword in kept} == kept
        assert dataset.StudyInstanceUID == report.segmentation.volume.headers[0].StudyInstanceUID


def test_values_that_the_standard_forbids_are_kept_and_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = {
        "StudyID": "IBSI_1_STS_002_CT",  # 17 characters in an SH
        "PatientSex": "unknown",
        "PatientBirthDate": "1950.13.45",
        "SeriesNumber": "9999999",
        "PatientName": "A" * 80,
    }

    def spoil(dataset: Dataset, _k: int) -> None:
        with pydicom.config.disable_value_validation():
            for keyword, value in odd.items():
                setattr(dataset, keyword, value)

    source = tmp_path / "in"
    report = two_glands(source, edit=spoil)
    caplog.clear()

    evidence = write_evidence(report, tmp_path / "out", RECORDED_AT)

    assert caplog.text == ""  # pydicom would print the values
    inherited = dciodvfy_errors(next(source.glob("*.dcm")))
    for written_one in evidence:
        dataset = pydicom.dcmread(written_one.path)
        for keyword in ("StudyID", "PatientSex", "PatientBirthDate", "PatientName"):
            assert str(dataset[keyword].value) == odd[keyword]
        assert dataset.SeriesNumber % 1000 == 999
        assert set(dciodvfy_errors(written_one.path)) <= set(inherited)


def test_what_the_source_lacks_is_left_empty(tmp_path: Path) -> None:
    missing = ("PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "Manufacturer")

    def strip(dataset: Dataset, _k: int) -> None:
        for keyword in (*missing, "SeriesNumber", "ReferringPhysicianName", "StudyTime"):
            del dataset[keyword]

    for dataset in written(two_glands(tmp_path / "in", edit=strip), tmp_path / "out"):
        assert not any(dataset[keyword].value for keyword in missing[:-1])
        assert dataset.SeriesNumber in (7000, 8000)
        assert len(dataset.ContributingEquipmentSequence) == 1


@pytest.mark.data
@pytest.mark.parametrize("kind", ["CT", "MR_T1", "PET"])
def test_real_series_with_an_overlong_study_id_gives_no_error_of_ours(
    data_dir: Path, tmp_path: Path, kind: str
) -> None:
    paths = sorted((data_dir / "sts-ct-mr-pet-dicom" / "STS_002" / kind).glob("*.dcm"))
    report = measure(real_segmentation(paths))

    evidence = write_evidence(report, tmp_path, RECORDED_AT)

    inherited = dciodvfy_errors(paths[0])
    assert len(evidence) == 2
    for written_one in evidence:
        dataset = pydicom.dcmread(written_one.path)
        assert dataset.StudyID == pydicom.dcmread(paths[0]).StudyID
        assert set(dciodvfy_errors(written_one.path)) <= set(inherited)
