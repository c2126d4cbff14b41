"""Geometry oracle: an analytic phantom, written as CT, must come back in its place.

The check that catches everything at once: the phantom is rendered anew on the
grid that our affine claims, and must equal the voxels that were read.
"""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.uid import MRImageStorage

from operators.job import Volume
from operators.study.read import read_drop
from operators.volume.build import build_volumes
from operators.volume.geometry import slice_step
from operators.volume.refusals import (
    GantryTilt,
    InvalidGeometry,
    MisplacedSlice,
    MissingGeometry,
    MixedOrientations,
    MixedPixelSpacings,
    TooFewSlices,
    UnevenSpacing,
)
from tests.series import (
    Ball,
    Box,
    axis_directions,
    centred_grid,
    oblique,
    render,
    write_ct_series,
)

SHAPE = (14, 40, 30)
SPACING_ZYX_MM = (2.5, 0.8, 1.1)
CENTRE = (20.0, -30.0, 400.0)
BALL = Ball((22.0, -33.0, 401.5), 9.0, 300)
BOX = Box((14.0, -24.0, 395.0), (6.0, 5.0, 7.0), 900)
PHANTOM = [BALL, BOX]


def read_back(folder) -> Volume:
    (study,) = read_drop(folder).studies
    (volume,) = build_volumes(study.series[0])
    return volume


def centroid_lps_mm(volume: Volume, hu: int) -> np.ndarray:
    index = np.argwhere(volume.array == hu).mean(axis=0)[::-1]
    return volume.lps_from_index[:3] @ [*index, 1.0]


def assert_in_place(volume: Volume, directions: np.ndarray) -> None:
    again = render(PHANTOM, volume.array.shape, volume.lps_from_index)
    # Positions are written with 16 characters: a voxel on the very surface may change side.
    assert (volume.array != again).sum() <= 4
    half_voxel_mm = np.array(volume.spacing_zyx_mm).max() / 2
    for shape in PHANTOM:
        offset = centroid_lps_mm(volume, shape.hu) - shape.centre_lps_mm
        assert np.linalg.norm(offset) < half_voxel_mm
    ball_ml = (volume.array == BALL.hu).sum() * volume.voxel_ml
    assert ball_ml == pytest.approx(BALL.volume_ml, rel=0.02)
    assert volume.spacing_zyx_mm == pytest.approx(SPACING_ZYX_MM, abs=1e-6)
    cosines = volume.lps_from_index[:3, :3] / np.array(SPACING_ZYX_MM[::-1])
    assert np.abs(cosines[:, :2] - directions[:, :2]).max() < 1e-6
    # Slices come out along the normal, so that every affine is right-handed.
    assert np.linalg.det(volume.lps_from_index[:3, :3]) > 0


@pytest.mark.parametrize("number", range(48))
@pytest.mark.parametrize("turned", [False, True], ids=["straight", "oblique"])
def test_phantom_comes_back_in_its_place_on_every_grid(tmp_path, number, turned):
    directions = list(axis_directions())[number]
    if turned:
        directions = oblique(17.0, 11.0) @ directions
    affine = centred_grid(SHAPE, SPACING_ZYX_MM, directions, CENTRE)
    write_ct_series(
        tmp_path,
        render(PHANTOM, SHAPE, affine),
        affine,
        shuffle_seed=number if number % 3 == 0 else None,
        reverse=number % 3 == 1,
    )

    assert_in_place(read_back(tmp_path), directions)


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"shuffle_seed": 5}])
def test_order_of_files_and_instance_numbers_changes_nothing(tmp_path, options):
    affine = centred_grid(SHAPE, SPACING_ZYX_MM, oblique(17.0, 11.0), CENTRE)
    array = render(PHANTOM, SHAPE, affine)
    paths = write_ct_series(tmp_path, array, affine, **options)

    volume = read_back(tmp_path)

    assert np.array_equal(volume.array, array)
    assert np.abs(volume.lps_from_index - affine).max() < 1e-6
    by_file = {path.name: k for k, path in enumerate(paths)}
    order = [by_file[image.path.name] for image in instances_in_order(tmp_path, volume)]
    assert order == list(range(SHAPE[0]))


def instances_in_order(folder, volume):
    (study,) = read_drop(folder).studies
    by_uid = {image.sop_instance_uid: image for image in study.series[0].instances}
    return [by_uid[uid] for uid in volume.source_sop_uids]


def test_thickness_location_number_and_position_of_the_patient_are_never_read(tmp_path):
    def lie(dataset, k):
        dataset.SliceThickness = "7"
        dataset.SpacingBetweenSlices = "9"
        dataset.SliceLocation = str(-3 * k)
        dataset.InstanceNumber = "1"
        dataset.PatientPosition = "FFP"
        dataset.GantryDetectorTilt = "12"

    affine = centred_grid(SHAPE, SPACING_ZYX_MM, None, CENTRE)
    write_ct_series(tmp_path, render(PHANTOM, SHAPE, affine), affine, edit=lie)

    assert_in_place(read_back(tmp_path), np.eye(3))


def sheared(tilt_deg: float) -> np.ndarray:
    """Grid of a tilted gantry: slices are turned about x, the table still moves along z."""
    affine = centred_grid(SHAPE, SPACING_ZYX_MM, oblique(0.0, tilt_deg))
    affine[:3, 2] = (0.0, 0.0, SPACING_ZYX_MM[0])
    return affine


@pytest.mark.parametrize("tilt_deg", [1.0, -8.0, 30.0])
def test_tilt_is_kept_in_the_affine_and_told(tmp_path, tilt_deg):
    affine = sheared(tilt_deg)
    write_ct_series(tmp_path, render(PHANTOM, SHAPE, affine), affine)

    volume = read_back(tmp_path)

    assert np.abs(volume.lps_from_index - affine).max() < 1e-6
    (flag,) = volume.quality
    shear = SPACING_ZYX_MM[0] * np.sin(np.radians(abs(tilt_deg)))
    assert flag.name == "gantry-tilt"
    assert f"{abs(tilt_deg):.1f} degrees" in flag.text and f"{shear:.2f} mm" in flag.text


def test_positions_decide_where_the_header_says_another_tilt(tmp_path):
    def lie(dataset, _):
        dataset.GantryDetectorTilt = "-20"

    affine = sheared(12.0)
    write_ct_series(tmp_path, render(PHANTOM, SHAPE, affine), affine, edit=lie)

    volume = read_back(tmp_path)

    assert np.abs(volume.lps_from_index - affine).max() < 1e-6
    assert "12.0 degrees" in volume.quality[0].text


def test_a_leaning_mr_is_refused_since_only_a_ct_has_a_gantry(tmp_path):
    def mr(dataset, _):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
        dataset.Modality = "MR"

    affine = sheared(12.0)
    write_ct_series(tmp_path, render(PHANTOM, SHAPE, affine), affine, edit=mr)

    with pytest.raises(GantryTilt, match=r"lean by 12\.0 degrees.*only the gantry of a CT tilts"):
        read_back(tmp_path)


@pytest.mark.parametrize("tilt_deg", [36.0, -60.0])
def test_more_than_a_gantry_tilts_is_refused_with_angle_and_shear(tmp_path, tilt_deg):
    affine = sheared(tilt_deg)
    write_ct_series(tmp_path, render(PHANTOM, SHAPE, affine), affine)

    with pytest.raises(GantryTilt) as refused:
        read_back(tmp_path)

    assert refused.value.tilt_deg == pytest.approx(abs(tilt_deg), abs=0.01)
    shear = SPACING_ZYX_MM[0] * np.sin(np.radians(abs(tilt_deg)))
    assert refused.value.shear_mm == pytest.approx(shear, abs=0.001)


def test_drift_below_a_quarter_pixel_is_kept_in_the_affine(tmp_path):
    affine = centred_grid(SHAPE, SPACING_ZYX_MM)
    affine[0, 2] = 0.2 / (SHAPE[0] - 1)
    write_ct_series(tmp_path, render(PHANTOM, SHAPE, affine), affine)

    assert np.abs(read_back(tmp_path).lps_from_index - affine).max() < 1e-6


def axial(z) -> np.ndarray:
    return np.column_stack([np.zeros(len(z)), np.zeros(len(z)), z])


UP = np.array([0.0, 0.0, 1.0])


def test_missing_slice_is_refused_by_its_number():
    z = np.delete(np.arange(30) * 2.5, 14)

    with pytest.raises(UnevenSpacing, match=r"5\.00 mm between slices 14 and 15 \(at 32\.5 mm"):
        slice_step(axial(z), UP, series_uid="1.2.3", what="it")


def test_missing_slice_is_found_in_thin_slices_too():
    z = np.delete(np.arange(30) * 0.1, 14)

    with pytest.raises(UnevenSpacing, match="between slices 14 and 15"):
        slice_step(axial(z), UP, series_uid="1.2.3", what="it")


def test_positions_rounded_to_a_tenth_give_the_true_mean():
    z = np.round(np.arange(81) * 0.625, 1)

    step = slice_step(axial(z), UP, series_uid="1.2.3", what="it")

    assert step == pytest.approx([0, 0, 0.625], abs=0.001)


def test_a_slice_beside_the_others_is_refused_by_its_number():
    origins = axial(np.arange(10) * 2.5)
    origins[6, 1] = 3.0

    with pytest.raises(MisplacedSlice, match=r"slice 7 lies 3\.00 mm beside"):
        slice_step(origins, UP, series_uid="1.2.3", what="it")


def test_one_slice_is_refused():
    with pytest.raises(TooFewSlices, match="has 1 slice"):
        slice_step(axial([5.0]), UP, series_uid="1.2.3", what="it")


@pytest.mark.parametrize(
    ("keyword", "value", "refusal"),
    [
        ("ImagePositionPatient", None, MissingGeometry),
        ("ImageOrientationPatient", None, MissingGeometry),
        ("PixelSpacing", None, MissingGeometry),
        ("FrameOfReferenceUID", None, MissingGeometry),
        ("ImagePositionPatient", ["1", "2"], MissingGeometry),
        ("ImagePositionPatient", ["0", "0", "1e300"], InvalidGeometry),
        ("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"], InvalidGeometry),
        ("ImageOrientationPatient", ["2", "0", "0", "0", "1", "0"], InvalidGeometry),
        ("ImageOrientationPatient", ["1e300", "0", "0", "0", "1", "0"], InvalidGeometry),
        ("ImageOrientationPatient", ["0", "1", "0", "0", "0", "-1"], MixedOrientations),
        ("PixelSpacing", ["0", "0"], InvalidGeometry),
        ("PixelSpacing", ["-0.8", "1.1"], InvalidGeometry),
        ("PixelSpacing", ["0.8", "1.2"], MixedPixelSpacings),
    ],
)
def test_a_single_slice_without_sound_geometry_stops_the_series(tmp_path, keyword, value, refusal):
    def break_one(dataset, k):
        if k == 3:
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)

    affine = centred_grid(SHAPE, SPACING_ZYX_MM)
    write_ct_series(tmp_path, render(PHANTOM, SHAPE, affine), affine, edit=break_one)

    with pytest.raises(refusal):
        read_back(tmp_path)
