"""Real images through the whole line: a result, "no bundle matches", or a named refusal."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from app.graph import analyse, load_models
from operators.job import StudyJob
from tests.line.test_geometry import segments_by_hand
from tests.series import write_ct_series

pytestmark = pytest.mark.data
RECORDED = "20240102030405"
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="session")
def shipped_models():
    """The bundles that the wheel holds."""
    return load_models()


def accounted_for(job: StudyJob) -> bool:
    """Every series has a result or a reason, and whatever was left out has one too."""
    series = {s.series_instance_uid for study in job.studies for s in study.series}
    with_result = {item.source_series_uid for item in job.evidence}
    with_reason = {entry.what for entry in (*job.unmatched, *job.refused)}
    reasons = [entry.reason for entry in (*job.unmatched, *job.refused)]
    return series <= with_result | with_reason and all(len(reason) > 15 for reason in reasons)


def as_lps(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A NIfTI volume as (z, y, x) array running to Left, Posterior, Superior, and its affine."""
    image = nib.load(path)
    data, affine = np.asanyarray(image.dataobj), LPS_FROM_RAS @ image.affine
    for axis in range(3):
        if affine[axis, axis] < 0:
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
            data = np.flip(data, axis)
    return np.ascontiguousarray(data.transpose(2, 1, 0)), affine


def test_an_openkbp_patient_gets_his_organs_where_they_were_contoured(
    data_dir, shipped_models, tmp_path
):
    """A test patient of the frozen list, as a DICOM CT series, against his own contours."""
    root = data_dir / "openkbp-hn-ct"
    case = json.loads((root / "splits.json").read_text())["test"][0]
    ids = {name: int(k) for k, name in json.loads((root / "labels.json").read_text()).items()}
    hu, affine = as_lps(root / "ct" / f"{case}.nii.gz")
    truth, _ = as_lps(root / "label" / f"{case}.nii.gz")
    write_ct_series(tmp_path / "in", hu.astype(np.int16), affine, shuffle_seed=3)

    job = analyse(tmp_path / "in", tmp_path / "out", RECORDED, models=shipped_models)

    assert not job.refused
    assert {item.kind for item in job.evidence} == {"SEG", "SR"}
    seg = next(item.path for item in job.evidence if item.kind == "SEG")
    measured = segments_by_hand(seg)
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    labels = {s.name: s.label for s in shipped_models.cards["head_neck_oar_ct"].segments}
    for organ in ("brainstem", "spinal_cord", "parotid_right", "parotid_left", "mandible"):
        centroid, volume_ml = measured[labels[organ]]
        mask = truth == ids[organ]
        k, j, i = np.argwhere(mask).mean(axis=0)
        expected = (affine @ (i, j, k, 1))[:3]
        assert np.linalg.norm(centroid - expected) < 12.0, organ
        assert volume_ml == pytest.approx(mask.sum() * voxel_ml, rel=0.5), organ
    left, right = (measured[labels[f"parotid_{side}"]][0][0] for side in ("left", "right"))
    assert left - right > 60.0  # LPS: x grows to the patient's left


def test_every_odd_series_ends_with_a_result_or_a_reason(data_dir, shipped_models, tmp_path):
    cases = sorted((data_dir / "odd-series" / "cases").iterdir())
    folders = [case for case in cases if case.is_dir()]
    assert len(folders) == 52
    for folder in folders:
        job = analyse(folder, tmp_path / folder.name, RECORDED, models=shipped_models)
        assert accounted_for(job), folder.name
        assert job.studies or job.refused, folder.name


@pytest.mark.parametrize("name", ["ct-as-published", "ct-repaired"])
def test_an_abdomen_is_not_given_to_a_head_and_neck_bundle(
    data_dir, shipped_models, tmp_path, name
):
    job = analyse(
        data_dir / "totalseg-ct-dicom" / name, tmp_path / "out", RECORDED, models=shipped_models
    )

    assert accounted_for(job)
    assert not job.evidence
    if name == "ct-repaired":
        assert len(job.unmatched) == 1


@pytest.mark.parametrize("patient", ["STS_002", "STS_004", "STS_041"])
def test_a_study_of_ct_mr_pet_and_contours_says_why_nothing_matches(
    data_dir, shipped_models, tmp_path, patient
):
    folder = data_dir / "sts-ct-mr-pet-dicom" / patient
    job = analyse(folder, tmp_path / "out", RECORDED, models=shipped_models)

    assert accounted_for(job)
    assert not job.evidence
    assert {"CT", "MR", "PT"} <= {s.modality for study in job.studies for s in study.series}


def test_a_forced_bundle_runs_on_any_body_part_but_not_on_any_modality(
    data_dir, shipped_models, tmp_path
):
    folder = data_dir / "sts-ct-mr-pet-dicom" / "STS_002"
    job = analyse(
        folder, tmp_path / "out", RECORDED, models=shipped_models, bundle="head_neck_oar_ct"
    )

    assert {match.series.modality for match in job.matches} == {"CT"}
    assert accounted_for(job)
    report = next(item.path for item in job.evidence if item.kind == "SR")
    assert dcmread(report).VerificationFlag == "UNVERIFIED"
