"""Measurements of real organs, lesions and tracers against SimpleITK."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from operators.findings.measure import measure
from operators.job import Segmentation, Volume
from tests.operators.itk_measures import by_itk
from tests.operators.scene import MODEL, segment
from tests.operators.test_findings_shape import one
from tests.operators.test_volume_real_series import PATIENTS, RAS_FROM_LPS, only_volume

pytestmark = pytest.mark.data


def labels_on(volume: Volume, path: Path) -> np.ndarray:
    """A label map on the grid of a volume, by way of the patient; shape (z, y, x)."""
    labels = nibabel.load(path)
    label_from_index = np.linalg.inv(labels.affine) @ RAS_FROM_LPS @ volume.lps_from_index
    k, j, i = np.indices(volume.array.shape).reshape(3, -1)
    there = np.rint(label_from_index[:3] @ [i, j, k, np.ones_like(i)]).astype(int)
    return np.asarray(labels.dataobj)[tuple(there)].reshape(volume.array.shape).astype(np.uint8)


def check_all(volume: Volume, labels: np.ndarray, surface_within: float) -> int:
    """Every label against SimpleITK; returns how many there were."""
    numbers = [int(n) for n in np.unique(labels) if n]
    segments = tuple(segment(n, "larynx") for n in numbers)
    findings = measure(Segmentation(volume, labels, segments, MODEL)).findings
    steps = np.linalg.norm(volume.lps_from_index[:3, :3], axis=0)
    for number, finding in zip(numbers, findings, strict=True):
        truth = by_itk(labels == number, volume.array, volume.lps_from_index)
        scale = max(1.0, abs(truth.minimum), abs(truth.maximum))
        assert one(finding, "volume").value == pytest.approx(truth.volume_ml, rel=1e-6)
        assert one(finding, "components").value == truth.components
        assert one(finding, "mean").value == pytest.approx(truth.mean, abs=1e-5 * scale)
        assert one(finding, "standard_deviation").value == pytest.approx(
            truth.standard_deviation, abs=1e-4 * scale
        )
        assert one(finding, "minimum").value == pytest.approx(truth.minimum, abs=1e-5 * scale)
        assert one(finding, "maximum").value == pytest.approx(truth.maximum, abs=1e-5 * scale)
        # ITK's lines run from centre to centre, ours reach half a voxel farther at each end.
        longer_3d = one(finding, "long_axis_3d").value - truth.longest_3d_mm
        longer = one(finding, "long_axis").value - truth.longest_in_slice_mm
        assert -1e-6 <= longer_3d <= steps.max() + 1e-6
        assert -1e-6 <= longer <= steps[:2].max() + 1e-6
        # ITK's weights of directions are those of an isotropic grid, ours those of this one.
        surface = one(finding, "surface_area").value
        assert surface == pytest.approx(truth.surface_mm2, rel=surface_within)
        # Exact where the grid is the patient's, and never more than the box of the grid.
        sizes = np.abs(volume.lps_from_index[:3, :3]) @ truth.box_ijk
        ways = ("left_right", "front_back", "head_feet")
        short_by = sizes - [one(finding, f"extent_{way}").value for way in ways]
        assert (short_by >= -1e-6).all()
        if (np.abs(volume.lps_from_index[:3, :3]) > 1e-6).sum() == 3:
            assert short_by == pytest.approx(0, abs=1e-6)
    return len(numbers)


def test_organs_of_an_abdominal_ct(data_dir: Path) -> None:
    folder = data_dir / "totalseg-ct-dicom"
    volume = only_volume(folder / "ct-repaired")

    assert check_all(volume, labels_on(volume, folder / "example_seg_dicom.nii.gz"), 0.15) > 10


@pytest.mark.parametrize("patient", PATIENTS)
@pytest.mark.parametrize("modality", ["CT", "MR_T1", "PET"])
def test_sarcomas_in_three_modalities(data_dir: Path, patient: str, modality: str) -> None:
    folder = data_dir / "sts-ct-mr-pet-dicom" / patient
    volume = only_volume(folder / modality)

    assert check_all(volume, labels_on(volume, folder / f"mask_{modality}.nii.gz"), 0.15) == 1
