"""The demo patient: a genuine CT series of nobody, whose true organs are known."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from app.demo.ct_series import NotACtGrid, SeriesIdentity, write_ct_series
from app.demo.patient import ATLAS_DIR, AtlasMissing, DemoPatient, make_demo_patient
from operators.evidence.uids import derive_uid

# 5th to 95th percentile of the volume in the training data, mL, and its median HU
# (README of openkbp-hn-ct).
PLAUSIBLE = {
    "brainstem": ((11.9, 37.1), 5),
    "spinal_cord": ((13.8, 42.9), 9),
    "parotid_right": ((12.9, 44.6), -24),
    "parotid_left": ((12.7, 46.2), -30),
    "mandible": ((38.7, 89.0), 690),
    "larynx": ((4.5, 54.5), -217),
    "esophagus": ((5.3, 22.3), -11),
}
HU_TOLERANCE = {"mandible": 200, "larynx": 200}
IDENTITY = SeriesIdentity(
    patient_name="TEST^GRID",
    patient_id="T-1",
    study_instance_uid=derive_uid("test", "study"),
    series_instance_uid=derive_uid("test", "series"),
    frame_of_reference_uid=derive_uid("test", "frame"),
    study_description="",
    series_description="grid",
    image_comments="",
    study_date="20260101",
    study_time="000000",
    body_part="HEADNECK",
    manufacturer="test",
    model="test",
)


@dataclass(frozen=True)
class Made:
    """A demo patient as a stranger's reader sees it: GDCM through SimpleITK."""

    patient: DemoPatient
    files: list[Path]
    image: sitk.Image
    hu: np.ndarray


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.dcm"))


def read_back(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("demo") / "ct"
    patient = make_demo_patient(folder, seed=0)
    image = read_back(folder)
    return Made(patient, files_in(folder), image, sitk.GetArrayFromImage(image))


def digest(folder: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files_in(folder)]


def centre_lps(patient: DemoPatient, organ: str) -> np.ndarray:
    number = next(k for k, name in patient.names.items() if name == organ)
    k, j, i = np.argwhere(patient.labels == number).mean(axis=0)
    return (patient.lps_from_index @ (i, j, k, 1.0))[:3]


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy is not installed")
def test_dciodvfy_finds_no_error_in_the_series(made: Made):
    for path in (made.files[0], made.files[len(made.files) // 2], made.files[-1]):
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)

        lines = (said.stdout + said.stderr).splitlines()
        assert lines[0] == "CTImage"
        assert [line for line in lines if line.startswith(("Error", "Warning"))] == []


def test_another_reader_finds_the_grid_that_the_truth_is_on(made: Made):
    affine = made.patient.lps_from_index

    assert made.hu.shape == made.patient.labels.shape
    assert made.hu.shape[0] >= 100
    assert made.hu.shape[1:] == (512, 512)
    for index in ((0, 0, 0), (511, 3, 99), (17, 400, 50)):
        there = made.image.TransformIndexToPhysicalPoint(index)
        assert there == pytest.approx((affine @ (*index, 1.0))[:3], abs=1e-3)


def test_every_file_says_that_it_is_synthetic(made: Made):
    for path in made.files:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        assert str(header.PatientName) == "DEMO^SYNTHETIC"
        assert header.PatientID == "RADLOOP-DEMO-001"
        assert "synthetic" in header.SeriesDescription.lower()
        assert "synthetic" in header.ImageComments.lower()
        assert header.Manufacturer == "radloop"
        assert header.BodyPartExamined == "HEADNECK"
        assert list(header.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_patient(
    made: Made, tmp_path: Path
):
    make_demo_patient(tmp_path / "again", seed=0)
    other = make_demo_patient(tmp_path / "other", seed=1)

    assert digest(tmp_path / "again") == digest(made.files[0].parent)
    assert not set(digest(tmp_path / "other")) & set(digest(made.files[0].parent))
    assert other.study_instance_uid != made.patient.study_instance_uid
    assert other.series_instance_uid != made.patient.series_instance_uid
    assert other.volume_ml != made.patient.volume_ml


@pytest.mark.parametrize("organ", sorted(PLAUSIBLE))
def test_organs_have_the_size_and_density_of_people(made: Made, organ: str):
    (low, high), usual_hu = PLAUSIBLE[organ]
    number = next(k for k, name in made.patient.names.items() if name == organ)
    mask = made.patient.labels == number
    x, y, z = made.image.GetSpacing()

    assert made.patient.volume_ml[organ] == pytest.approx(mask.sum() * x * y * z / 1000, rel=1e-6)
    assert low <= made.patient.volume_ml[organ] <= high
    assert made.hu[mask].mean() == pytest.approx(usual_hu, abs=HU_TOLERANCE.get(organ, 45))


def test_sides_and_places_are_those_of_people(made: Made):
    at = {organ: centre_lps(made.patient, organ) for organ in PLAUSIBLE}

    assert at["parotid_left"][0] - at["parotid_right"][0] > 80.0
    assert at["brainstem"][2] - at["spinal_cord"][2] > 50.0
    assert at["spinal_cord"][1] - at["mandible"][1] > 40.0
    assert at["esophagus"][2] < at["larynx"][2] < at["mandible"][2]
    assert abs(at["spinal_cord"][0] - (at["parotid_left"][0] + at["parotid_right"][0]) / 2) < 15.0


def straight_cuts(hu: np.ndarray) -> list[str]:
    """What no body has: slices that it leaves at once, or a side as straight as a knife's."""
    found = []
    areas = []
    for k, plane in enumerate(hu):
        parts, _ = ndimage.label(ndimage.binary_opening(plane > -400, iterations=2))
        body = parts == np.bincount(parts[parts > 0]).argmax()
        areas.append(int(body.sum()))
        rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
        if rows[0] == 0 or columns[0] == 0 or rows[-1] == 511 or columns[-1] == 511:
            found.append(f"slice {k} reaches the edge of the picture")
        # The back is flat on its table; front and sides are not.
        front, right, left = body[rows[0]], body[:, columns[0]], body[:, columns[-1]]
        if max(front.sum(), right.sum(), left.sum()) > 80:  # a temple is straight for 60
            found.append(f"slice {k} has a straight side")
    found += [
        f"slice {k} jumps from {a} to {b} pixels"
        for k, (a, b) in enumerate(pairwise(areas))
        if not 0.8 < a / b < 1.25
    ]
    return found


def test_the_body_is_cut_nowhere_but_at_the_ends_of_the_scan(made: Made):
    assert straight_cuts(made.hu) == []


def test_a_cut_body_would_be_noticed(made: Made):
    shoulderless = made.hu.copy()
    shoulderless[:20, :, :150] = -1000
    headless = made.hu.copy()
    headless[60:, :200] = -1000

    assert straight_cuts(shoulderless)
    assert straight_cuts(headless)


def analytic_atlas(folder: Path) -> None:
    """A cylinder, denser from its ends to its middle, with a bony ball, labelled 1, in its left."""
    spacing, shape = np.array([3.0, 3.0, 2.5]), (100, 80, 130)
    lps = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) * spacing
    lps -= np.array([150.0, 120.0, 160.0])
    ball = np.linalg.norm(lps - [50.0, 20.0, 10.0], axis=-1) <= 24.0
    inside = np.hypot(lps[..., 0], lps[..., 1]) < 95.0
    from_end = np.minimum(np.arange(shape[2]), np.arange(shape[2])[::-1])
    hu = np.where(inside, 80 + from_end, -1000)
    hu[ball] = 600
    ras = np.diag([-3.0, -3.0, 2.5, 1.0])
    ras[:3, 3] = 150.0, 120.0, -160.0
    folder.mkdir()
    for name, array in (("ct", hu.astype(np.int16)), ("label", ball.astype(np.uint8))):
        nib.save(nib.Nifti1Image(array, ras), folder / f"{name}.nii.gz")
    (folder / "labels.json").write_text(json.dumps({"1": "ball"}))


def test_truth_takes_the_same_way_as_the_image(tmp_path: Path):
    analytic_atlas(tmp_path / "atlas")

    patient = make_demo_patient(tmp_path / "ct", seed=3, atlas_dir=tmp_path / "atlas")

    hu = sitk.GetArrayFromImage(read_back(tmp_path / "ct"))
    under_skin = ndimage.binary_erosion(hu > -400, np.ones((1, 15, 15)))
    seen, truth = (hu > 350) & under_skin, patient.labels == 1
    assert 2 * (seen & truth).sum() / (seen.sum() + truth.sum()) > 0.96
    apart = np.argwhere(seen).mean(axis=0) - np.argwhere(truth).mean(axis=0)
    assert np.abs(apart * (2.5, 0.977, 0.977)).max() < 0.3
    assert patient.volume_ml["ball"] == pytest.approx(4 / 3 * np.pi * 24.0**3 / 1000, rel=0.2)
    assert centre_lps(patient, "ball") == pytest.approx((50.0, 20.0, 10.0), abs=12.0)


def test_the_scan_ends_before_the_atlas_does(tmp_path: Path):
    analytic_atlas(tmp_path / "atlas")

    make_demo_patient(tmp_path / "ct", seed=4, atlas_dir=tmp_path / "atlas")

    middle = sitk.GetArrayFromImage(read_back(tmp_path / "ct"))[:, 200:312, 200:312]
    steps = np.diff(middle.mean(axis=(1, 2)))
    ends = np.r_[steps[:20], -steps[-20:]]
    assert ends.min() > 0.3, "a slice that is repeated has no step"
    assert ends.max() < 2.0


def test_a_missing_atlas_is_named(tmp_path: Path):
    for file in ("ct.nii.gz", "labels.json"):
        shutil.copy(ATLAS_DIR / file, tmp_path)

    with pytest.raises(AtlasMissing, match=r"label\.nii\.gz"):
        make_demo_patient(tmp_path / "ct", atlas_dir=tmp_path)


def test_series_on_an_oblique_grid_is_read_back_where_it_was(tmp_path: Path):
    turned, _ = np.linalg.qr(np.array([[0.9, -0.3, 0.1], [0.2, 0.9, -0.4], [0.1, 0.3, 0.8]]))
    turned *= np.sign(np.diag(turned))
    affine = np.eye(4)
    affine[:3, :3] = turned * (0.8, 1.1, 2.5)
    affine[:3, 3] = -31.25, 12.5, 1004.125
    hu = np.random.RandomState(5).randint(-1024, 3072, (7, 20, 30)).astype(np.int16)

    write_ct_series(tmp_path, hu, affine, IDENTITY)

    image = read_back(tmp_path)
    assert (sitk.GetArrayFromImage(image) == hu).all()
    for index in ((0, 0, 0), (29, 0, 0), (0, 19, 0), (0, 0, 6)):
        there = image.TransformIndexToPhysicalPoint(index)
        assert there == pytest.approx((affine @ (*index, 1.0))[:3], abs=1e-3)


def test_hu_beyond_twelve_bits_are_clipped_not_wrapped(tmp_path: Path):
    hu = np.array([[[-3000, -1024], [3071, 9000]]], np.int16)

    (path,) = write_ct_series(tmp_path, hu, np.diag([1.0, 1.0, 2.0, 1.0]), IDENTITY)

    ds = pydicom.dcmread(path)
    stored = ds.pixel_array.astype(int) * int(ds.RescaleSlope) + int(ds.RescaleIntercept)
    assert stored.tolist() == [[-1024, -1024], [3071, 3071]]


@pytest.mark.parametrize("steps", [(1.0, 1.0, -2.0), (1.0, -1.0, 2.0)])
def test_a_mirrored_grid_is_refused(tmp_path: Path, steps: tuple[float, float, float]):
    with pytest.raises(NotACtGrid, match="negative means mirrored"):
        write_ct_series(tmp_path, np.zeros((2, 4, 4), np.int16), np.diag([*steps, 1.0]), IDENTITY)
