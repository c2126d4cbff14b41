"""Real series against two other readers: SimpleITK, and the NIfTI files that came with them."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from operators.job import Series, Volume
from operators.study.read import read_drop
from operators.volume.build import build_volumes

pytestmark = pytest.mark.data

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
PATIENTS = ("STS_002", "STS_004", "STS_041")


def only_series(folder: Path) -> Series:
    drop = read_drop(folder)
    assert drop.refused == ()
    (study,) = drop.studies
    (series,) = study.series
    return series


def only_volume(folder: Path) -> Volume:
    (volume,) = build_volumes(only_series(folder))
    return volume


def read_with_simpleitk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values (z, y, x) and affine (i, j, k, 1) → LPS mm, by ITK and GDCM."""
    sitk = pytest.importorskip("SimpleITK")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image), affine


def test_uids_that_are_empty_refuse_every_file_by_name(data_dir):
    """Published so: they must not become one study "" of the whole world."""
    drop = read_drop(data_dir / "totalseg-ct-dicom" / "ct-as-published")

    assert drop.studies == ()
    assert len(drop.refused) == 20
    assert {entry.reason[:7] for entry in drop.refused} == {"RL-0108"}
    assert all("is empty" in entry.reason for entry in drop.refused)


def test_repaired_ct_lies_where_its_label_map_says(data_dir):
    folder = data_dir / "totalseg-ct-dicom"
    volume = only_volume(folder / "ct-repaired")
    labels = nibabel.load(folder / "example_seg_dicom.nii.gz")

    # Through the affines only: the two may differ in the order and sign of their axes.
    label_from_index = np.linalg.inv(labels.affine) @ RAS_FROM_LPS @ volume.lps_from_index
    k, j, i = np.indices(volume.array.shape).reshape(3, -1)
    there = np.rint(label_from_index[:3] @ [i, j, k, np.ones_like(i)]).astype(int)
    assert (there >= 0).all() and (labels.shape > there.T).all()
    label = np.asarray(labels.dataobj)[tuple(there)].reshape(volume.array.shape)

    assert volume.array.shape == (20, 512, 512)
    # Every 2.0 mm, while SliceThickness is 3 mm.
    assert volume.spacing_zyx_mm == pytest.approx((2.0, 0.9765625, 0.9765625), abs=1e-4)
    assert volume.array.dtype == np.int16
    # Known of this case: mean HU under liver (5) and spleen (1).
    assert volume.array[label == 5].mean() == pytest.approx(89, abs=1)
    assert volume.array[label == 1].mean() == pytest.approx(80, abs=1)


def test_ct_in_jpeg_2000_equals_simpleitk(data_dir):
    folder = data_dir / "totalseg-ct-dicom" / "ct-repaired"
    volume = only_volume(folder)
    values, affine = read_with_simpleitk(folder)

    assert np.array_equal(volume.array, values)
    assert np.abs(volume.lps_from_index - affine).max() < 1e-4


@pytest.mark.parametrize("patient", PATIENTS)
@pytest.mark.parametrize(
    ("modality", "unit", "dtype"),
    [("CT", "HU", np.int16), ("MR_T1", "arbitrary", np.int16), ("PET", "SUVbw", np.float32)],
)
def test_sarcoma_series_equal_simpleitk_and_carry_their_mask(
    data_dir, patient, modality, unit, dtype
):
    folder = data_dir / "sts-ct-mr-pet-dicom" / patient
    volume = only_volume(folder / modality)
    values, affine = read_with_simpleitk(folder / modality)
    mask = nibabel.load(folder / f"mask_{modality}.nii.gz")

    assert volume.unit == unit
    assert volume.array.dtype == dtype
    assert np.abs(volume.array - values).max() <= 1e-5 * np.abs(values).max()
    assert np.abs(volume.lps_from_index - affine).max() < 2e-3
    # The mask was drawn on this grid (its axes may run the other way).
    assert sorted(mask.shape) == sorted(volume.array.shape)
    ours = _corners_lps(volume.lps_from_index, volume.array.shape[::-1])
    theirs = _corners_lps(RAS_FROM_LPS @ mask.affine, mask.shape)
    assert np.abs(ours - theirs).max() < 0.02


def _corners_lps(lps_from_index: np.ndarray, shape_ijk: tuple[int, ...]) -> np.ndarray:
    """Smallest and largest LPS mm of the eight corner voxels."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in shape_ijk], indexing="ij")).reshape(3, -1)
    corners = lps_from_index[:3] @ np.vstack([ends, np.ones(8)])
    return np.array([corners.min(axis=1), corners.max(axis=1)])


def test_suv_is_not_converted_again_though_the_dose_is_there(data_dir):
    volume = only_volume(data_dir / "sts-ct-mr-pet-dicom" / "STS_002" / "PET")

    assert "RadiopharmaceuticalInformationSequence" in volume.headers[0]
    assert 20 < volume.array.max() < 25
    assert len({float(header.RescaleSlope) for header in volume.headers}) > 1


@pytest.mark.parametrize("patient", PATIENTS)
def test_a_whole_sarcoma_study_is_one_study_with_its_contours(data_dir, patient):
    drop = read_drop(data_dir / "sts-ct-mr-pet-dicom" / patient)

    # The masks are NIfTI: named as no DICOM.
    assert {entry.reason[:7] for entry in drop.refused} == {"RL-0103"}
    (study,) = drop.studies
    assert sorted({series.modality for series in study.series}) == ["CT", "MR", "PT", "RTSTRUCT"]
    volumes = [
        volume
        for series in study.series
        if series.modality != "RTSTRUCT"
        for volume in build_volumes(series)
    ]
    assert len({volume.frame_of_reference_uid for volume in volumes}) == 1
