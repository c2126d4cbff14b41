"""A confirmed SEG comes back onto its source, whatever the scanner's axes.

The oracle is the analytic ball: every voxel of the NIfTI files is put into the patient by
their own affine and compared with the geometry, not with our label map.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813  (its own documentation's name)

from app.graph import analyse
from operators.job import Segmentation, Volume
from operators.models.card import Card, load_card
from operators.models.warm import WarmModels
from operators.study.read import read_drop
from operators.volume.build import build_volumes
from tests.series import Ball, centred_grid, oblique, render, write_ct_series
from tests.training.making import TEST_BUNDLES
from training.dataset import write_nifti
from training.labels import read_labels
from training.refusals import SegUnfit, SourceChanged

SOFT = Ball((9.0, -13.0, 6.0), 17.0, 120)
BONE = Ball((-21.0, 12.0, -11.0), 13.0, 700)
SHAPE_ZYX, SPACING_ZYX_MM = (44, 100, 76), (2.0, 0.8, 1.1)
FLIPPED = np.diag([-1.0, 1.0, -1.0])
GRIDS = {
    "axial": np.eye(3),
    "flipped": FLIPPED,
    "left-handed": np.diag([1.0, 1.0, -1.0]),
    "oblique": oblique(35, -25),
    "oblique and flipped": oblique(35, -25) @ FLIPPED,
}


@pytest.fixture(scope="module")
def models() -> WarmModels:
    return WarmModels({"hu_threshold": load_card(TEST_BUNDLES / "hu_threshold")})


def analysed(
    folder: Path, models: WarmModels, directions: np.ndarray, shapes=(SOFT, BONE), **how: object
) -> tuple[Volume, bytes]:
    """A phantom through the graph: the volume built anew from its files, and the SEG's bytes."""
    affine = centred_grid(SHAPE_ZYX, SPACING_ZYX_MM, directions)
    array = render(list(shapes), SHAPE_ZYX, affine)
    write_ct_series(folder / "in", array, affine, body_part="PHANTOM", **how)
    job = analyse(folder / "in", folder / "out", "20260101120000", models=models)
    (seg,) = (item.path for item in job.evidence if item.kind == "SEG")
    (study,) = read_drop(folder / "in").studies
    (volume,) = build_volumes(study.series[0], "hu_threshold")
    return volume, seg.read_bytes()


def places_mm(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """LPS mm of every voxel of a NIfTI file as SimpleITK places it, and the voxels' values."""
    image = sitk.ReadImage(str(file))
    values = sitk.GetArrayFromImage(image)
    step = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    k, j, i = np.indices(values.shape)
    index = np.stack([i, j, k], axis=-1).astype(float)
    return index @ step.T + image.GetOrigin(), values


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("order", ["rising", "shuffled"])
def test_labels_lie_where_the_balls_lie(
    grid: str, order: str, tmp_path: Path, models: WarmModels, card: Card
) -> None:
    how = {"shuffle_seed": 3} if order == "shuffled" else {}
    volume, seg = analysed(tmp_path, models, GRIDS[grid], **how)

    labels = read_labels(seg, volume, card.segments)

    assert labels.labelled == ("soft", "bone")
    write_nifti(volume.array, volume.lps_from_index, tmp_path / "image.nii.gz")
    write_nifti(labels.array, volume.lps_from_index, tmp_path / "label.nii.gz")
    if grid == "left-handed":
        # ITK knows no left-handed grid: nibabel's RAS affine it is.
        image = nibabel.load(tmp_path / "label.nii.gz")
        values = np.asarray(image.dataobj)
        index = np.stack(np.indices(values.shape), axis=-1)
        points = (index @ image.affine[:3, :3].T + image.affine[:3, 3]) * (-1, -1, 1)
        hu = np.asarray(nibabel.load(tmp_path / "image.nii.gz").dataobj)
    else:
        points, values = places_mm(tmp_path / "label.nii.gz")
        _, hu = places_mm(tmp_path / "image.nii.gz")
    edge = 1e-3  # NIfTI's affine is float32: a voxel on a ball's very surface may differ
    for number, ball in ((1, SOFT), (2, BONE)):
        inside = replace(ball, radius_mm=ball.radius_mm - edge).contains(points)
        outside = ~replace(ball, radius_mm=ball.radius_mm + edge).contains(points)
        assert np.all(values[inside] == number) and np.all(hu[inside] == ball.hu)
        assert not np.any(values[outside] == number)


def test_a_structure_that_was_not_found_is_unlabelled(
    tmp_path: Path, models: WarmModels, card: Card
) -> None:
    """Bone alone is segment number 1 of its SEG and label 2 of the card."""
    volume, seg = analysed(tmp_path, models, np.eye(3), shapes=[BONE])

    labels = read_labels(seg, volume, card.segments)

    assert labels.labelled == ("bone",)
    assert set(np.unique(labels.array)) == {0, 2}


def test_other_slices_than_the_seg_was_made_from_are_refused(
    tmp_path: Path, models: WarmModels, card: Card
) -> None:
    volume, seg = analysed(tmp_path, models, np.eye(3))
    shorter = replace(volume, array=volume.array[:-1], headers=volume.headers[:-1])

    with pytest.raises(SourceChanged, match="gives 43 slices, its SEG was made from 44, 43 of"):
        read_labels(seg, shorter, card.segments)


def changed(seg: bytes, change) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(seg))
    change(dataset)
    out = io.BytesIO()
    dataset.save_as(out)
    return out.getvalue()


def other_code(dataset: pydicom.Dataset) -> None:
    dataset.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue = "113345001"


def other_side(dataset: pydicom.Dataset) -> None:
    kind = dataset.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue = "24028007"


@pytest.mark.parametrize("change", [other_code, other_side])
def test_a_structure_that_the_card_does_not_know_is_refused(
    change, tmp_path: Path, models: WarmModels, card: Card
) -> None:
    """A right gland where the card has the left one is another structure."""
    volume, seg = analysed(tmp_path, models, np.eye(3))

    with pytest.raises(SegUnfit, match="segment 1 is no structure of the bundle's card"):
        read_labels(changed(seg, change), volume, card.segments)


def test_segments_are_told_apart_by_code_and_not_by_number(
    tmp_path: Path, models: WarmModels, card: Card
) -> None:
    """The card's two segments change numbers: the labels change with them."""
    volume, seg = analysed(tmp_path, models, np.eye(3))
    before = read_labels(seg, volume, card.segments).array
    soft, bone = card.segments
    swapped = (replace(soft, number=2), replace(bone, number=1))

    after = read_labels(seg, volume, swapped).array

    assert np.array_equal(after, np.array([0, 2, 1])[before])


def test_overlapping_segments_are_refused(tmp_path: Path, models: WarmModels, card: Card) -> None:
    volume, seg = analysed(tmp_path, models, np.eye(3))

    def overlap(dataset: pydicom.Dataset) -> None:
        """Every frame is full, so that both segments claim the slices that they share."""
        dataset.PixelData = b"\xff" * len(dataset.PixelData)

    with pytest.raises(SegUnfit, match="one label a voxel"):
        read_labels(changed(seg, overlap), volume, card.segments)


def test_what_is_no_seg_is_refused(tmp_path: Path, models: WarmModels, card: Card) -> None:
    volume, _ = analysed(tmp_path, models, np.eye(3))
    source = next((tmp_path / "in").iterdir()).read_bytes()

    with pytest.raises(SegUnfit, match="can't be read"):
        read_labels(source, volume, card.segments)


def test_the_same_case_has_the_same_bytes(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    digests = {write_nifti(array, np.eye(4), tmp_path / f"{n}.nii.gz") for n in range(2)}

    assert len(digests) == 1
    assert write_nifti(array + 1, np.eye(4), tmp_path / "2.nii.gz") not in digests


def test_labels_are_those_of_the_confirmed_object(
    tmp_path: Path, models: WarmModels, card: Card
) -> None:
    """Read back, the SEG of a volume gives the very label map that was written."""
    affine = centred_grid(SHAPE_ZYX, SPACING_ZYX_MM, oblique(20, 10))
    array = render([SOFT, BONE], SHAPE_ZYX, affine)
    write_ct_series(tmp_path / "in", array, affine, body_part="PHANTOM")
    job = analyse(tmp_path / "in", tmp_path / "out", "20260101120000", models=models)
    segmentation: Segmentation = job.segmentations[0]
    (seg,) = (item.path for item in job.evidence if item.kind == "SEG")

    labels = read_labels(seg.read_bytes(), segmentation.volume, card.segments)

    assert np.array_equal(labels.array, segmentation.labels)
