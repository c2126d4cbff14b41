"""Overlay pictures: right place, right side, right colour, from the SEG's own file."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.sr.codedict import codes

from app.demo.ct_series import SeriesIdentity, write_ct_series
from app.demo.overlay import PICTURE_PX, NotOnTheseImages, write_overlays
from operators.evidence.drawing import HEADER_PX
from operators.evidence.uids import derive_uid

RED, GREEN = (220, 60, 40), (40, 200, 90)
ORGAN_HU = 80
WATER_GREY, ORGAN_GREY = ((hu + 160) / 400 * 255 for hu in (0, ORGAN_HU))
HALF_MM = np.array([100.0, 80.0, 60.0])
"""Half extent of the body, a box of water around LPS 0."""
ORGANS = {
    "Left organ": (RED, np.array([50.0, -20.0, 12.0])),
    "Right organ": (GREEN, np.array([-40.0, -10.0, -24.0])),
}
RADIUS_MM = 20.0
ACQUISITIONS = {
    "axial": np.eye(3),
    "axial, feet last": np.diag([-1.0, 1.0, -1.0]),
    "coronal": np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]]),
    "sagittal": np.array([[0, 0, -1.0], [1.0, 0, 0], [0, -1.0, 0]]),
}
"""Columns: direction (LPS) of i, j and k."""


def phantom(direction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU, label ids and affine of a water box with two denser balls, 0.8 × 1.1 × 2.0 mm voxels."""
    spacing = np.array([0.8, 1.1, 2.0])
    extent = np.abs(direction.T) @ (2 * HALF_MM + 40.0)
    size = np.rint(extent / spacing).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((size - 1) / 2)
    k, j, i = np.meshgrid(*(np.arange(n) for n in size[::-1]), indexing="ij")
    lps = np.stack([i, j, k], axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    hu = np.where((np.abs(lps) <= HALF_MM).all(axis=-1), 0, -1000).astype(np.int16)
    labels = np.zeros(hu.shape, np.uint8)
    for number, (_, centre) in enumerate(ORGANS.values(), start=1):
        ball = np.linalg.norm(lps - centre, axis=-1) <= RADIUS_MM
        labels[ball], hu[ball] = number, ORGAN_HU
    return hu, labels, affine


def written(folder: Path, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray, Path]:
    """Phantom's HU, affine and the file of its SEG."""
    hu, labels, affine = phantom(direction)
    identity = SeriesIdentity(
        patient_name="TEST^OVERLAY",
        patient_id="T-2",
        study_instance_uid=derive_uid("overlay", "study"),
        series_instance_uid=derive_uid("overlay", "series"),
        frame_of_reference_uid=derive_uid("overlay", "frame"),
        study_description="",
        series_description="",
        image_comments="",
        study_date="20260101",
        study_time="000000",
        body_part="HEADNECK",
        manufacturer="test",
        model="test",
    )
    paths = write_ct_series(folder / "ct", hu, affine, identity)
    about = [
        hd.seg.SegmentDescription(
            number,
            label,
            codes.SCT.Organ,
            codes.SCT.Brain,
            hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=hd.AlgorithmIdentificationSequence(
                name="ball finder", version="1", family=codes.DCM.ArtificialIntelligence
            ),
            display_color=hd.color.CIELabColor.from_rgb(*colour),
        )
        for number, (label, (colour, _)) in enumerate(ORGANS.items(), start=1)
    ]
    # Slices in another order than the file's: frames carry their own positions.
    order = np.random.RandomState(2).permutation(len(paths))
    seg = hd.seg.Segmentation(
        [pydicom.dcmread(paths[n]) for n in order],
        labels[order],
        hd.seg.SegmentationTypeValues.BINARY,
        about,
        series_instance_uid=derive_uid("overlay", "seg-series"),
        series_number=100,
        sop_instance_uid=derive_uid("overlay", "seg"),
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
    )
    seg.save_as(folder / "seg.dcm")
    return hu, affine, folder / "seg.dcm"


def pixel_of(lps: np.ndarray) -> tuple[int, int]:
    """Where LPS x, y lies in a picture: the body's longer side + 16 mm fills it, body centred."""
    side_mm = 2 * HALF_MM[0] + 16.0
    x, y = np.rint(PICTURE_PX / 2 + np.asarray(lps[:2]) / side_mm * PICTURE_PX).astype(int)
    return int(x), HEADER_PX + int(y)


def blend(colour: tuple[int, int, int]) -> list[float]:
    return [(ORGAN_GREY + part) / 2 for part in colour]


@pytest.mark.parametrize("acquired", ACQUISITIONS)
def test_fill_outline_and_grey_are_where_geometry_says(tmp_path: Path, acquired: str):
    hu, affine, seg = written(tmp_path, ACQUISITIONS[acquired])

    left, right, _ = write_overlays(hu, affine, seg, tmp_path / "out")

    for path, (colour, centre) in zip((left, right), ORGANS.values(), strict=True):
        picture = Image.open(path)
        assert picture.size == (PICTURE_PX, PICTURE_PX + HEADER_PX)
        inside = picture.getpixel(pixel_of(centre + np.array([12.0, 0.0, 0.0])))
        assert inside == pytest.approx(blend(colour), abs=4)
        mirrored = picture.getpixel(pixel_of(centre * [-1.0, 1.0, 1.0]))
        assert mirrored == pytest.approx([WATER_GREY] * 3, abs=2)
        outside_body = picture.getpixel(pixel_of(np.array([-104.0, 0.0])))
        assert outside_body == (0, 0, 0)


def test_patients_left_is_on_the_right_of_the_picture(tmp_path: Path):
    hu, affine, seg = written(tmp_path, np.eye(3))

    left, right, _ = write_overlays(hu, affine, seg, tmp_path / "out")

    for path, colour, on_the_right in ((left, RED, True), (right, GREEN, False)):
        rgb = np.asarray(Image.open(path))[HEADER_PX:].astype(int)
        coloured = np.abs(rgb - blend(colour)).max(axis=2) <= 4
        assert (np.argwhere(coloured).mean(axis=0)[1] > PICTURE_PX / 2) == on_the_right


def test_outline_is_the_full_colour_and_two_pixels_wide(tmp_path: Path):
    hu, affine, seg = written(tmp_path, np.eye(3))

    left, *_ = write_overlays(hu, affine, seg, tmp_path / "out")

    x, y = pixel_of(ORGANS["Left organ"][1])
    row = np.asarray(Image.open(left))[y, x:].astype(int)
    full = np.flatnonzero(np.abs(row - RED).max(axis=1) <= 4)
    assert len(full) == 2
    pixels_per_mm = PICTURE_PX / (2 * HALF_MM[0] + 16.0)
    assert full[-1] == pytest.approx(RADIUS_MM * pixels_per_mm, abs=0.6 * pixels_per_mm + 1)


def test_one_picture_per_segment_and_the_sheet_last(tmp_path: Path):
    hu, affine, seg = written(tmp_path, np.eye(3))

    paths = write_overlays(hu, affine, seg, tmp_path / "out")

    names = ["01_left_organ.png", "02_right_organ.png", "contact_sheet.png"]
    assert [path.name for path in paths] == names
    sheet = np.asarray(Image.open(paths[-1])).astype(int)
    for colour in (RED, GREEN):
        assert (np.abs(sheet - blend(colour)).max(axis=2) <= 4).sum() > 1000


def test_head_is_up_in_the_coronal_view(tmp_path: Path):
    hu, affine, seg = written(tmp_path, np.eye(3))

    *_, sheet = write_overlays(hu, affine, seg, tmp_path / "out")

    rgb = np.asarray(Image.open(sheet)).astype(int)
    coronal = rgb[:, 2 * (rgb.shape[1] // 3) :]
    rows = [
        np.argwhere(np.abs(coronal - blend(colour)).max(axis=2) <= 4).mean(axis=0)[0]
        for colour in (RED, GREEN)
    ]
    assert rows[0] < rows[1], "the left organ lies 36 mm nearer to the head"


@pytest.mark.parametrize("shift_mm", [(0.4, 0.0, 0.0), (0.0, 0.0, 1.0), (600.0, 0.0, 0.0)])
def test_a_seg_of_another_grid_is_refused(tmp_path: Path, shift_mm: tuple[float, ...]):
    hu, affine, seg = written(tmp_path, np.eye(3))
    elsewhere = affine.copy()
    elsewhere[:3, 3] += shift_mm

    with pytest.raises(NotOnTheseImages, match="does not lie on the grid"):
        write_overlays(hu, elsewhere, seg, tmp_path / "out")


def test_row_and_column_spacing_can_not_be_swapped_unnoticed(tmp_path: Path):
    hu, affine, seg = written(tmp_path, np.eye(3))
    swapped = affine @ np.diag([1.1 / 0.8, 0.8 / 1.1, 1.0, 1.0])

    with pytest.raises(NotOnTheseImages):
        write_overlays(hu, swapped, seg, tmp_path / "out")
