"""A tilted gantry: the values a network is shown, and the way back, against closed forms.

The truth is a function of the patient's coordinates, so that a shift to the wrong side, or
by the wrong axis, can't agree with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import pi
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813  (its own documentation's name)

from operators.evidence.reading_sr import box_outline
from operators.findings.measure import measure
from operators.job import Volume
from operators.models.bundle import LoadedBundle
from operators.models.card import load_card
from operators.reading import Reading
from operators.volume.channels import stack_channels
from operators.volume.tilt import tilt_flags, upright
from tests import shapes
from tests.operators.scene import make_segmentation, segment
from tests.series import Ball, centred_grid, oblique, render

SHAPE_ZYX = (20, 44, 52)
SPACING_ZYX_MM = (2.5, 0.9, 0.7)
BALL = Ball((2.0, -1.5, 3.0), 11.0, 200)


@dataclass(frozen=True)
class Ellipsoid:
    """Along the patient's axes, off the middle of the grid: no mirrored shear agrees with it."""

    centre_lps_mm: tuple[float, float, float] = (5.0, -5.0, 6.0)
    half_axes_mm: tuple[float, float, float] = (8.0, 6.0, 9.0)

    @property
    def volume_ml(self) -> float:
        return 4 / 3 * pi * float(np.prod(self.half_axes_mm)) / 1000

    def contains(self, points_lps_mm: np.ndarray) -> np.ndarray:
        scaled = (points_lps_mm - self.centre_lps_mm) / self.half_axes_mm
        return np.einsum("...c,...c->...", scaled, scaled) <= 1


ELLIPSOID = Ellipsoid()
LARYNX = replace(BALL, hu=10)  # segment 1 of the scene
ABOUT_X = np.diag([1.0, 1.0, 1.0])
FLIPPED = np.diag([-1.0, 1.0, -1.0])


def tilted(degrees: float, directions: np.ndarray = ABOUT_X, sideways: float = 0.0) -> np.ndarray:
    """Slices turned about x (and y), while the table moves along z; centred on (0, 0, 0)."""
    turned = directions @ oblique(0.0, degrees)
    cos, sin = np.cos(np.radians(sideways)), np.sin(np.radians(sideways))
    turned = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]) @ turned
    affine = centred_grid(SHAPE_ZYX, SPACING_ZYX_MM, turned)
    affine[:3, 2] = (0.0, 0.0, SPACING_ZYX_MM[0] * np.sign(turned[2, 2]))
    middle = (np.array(SHAPE_ZYX[::-1]) - 1) / 2
    affine[:3, 3] = -affine[:3, :3] @ middle
    return affine


TILTS = [
    tilted(15.0),
    tilted(-20.0),
    tilted(30.0, FLIPPED),
    tilted(-8.0, FLIPPED, 6.0),
    tilted(10.0, sideways=-12.0),
]


def volume(array: np.ndarray, affine: np.ndarray) -> Volume:
    return Volume(array, affine, "HU", "1.2.3", (), "1.2.3.4", "any")


def places(shape_zyx: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """LPS mm of every voxel, shape (z, y, x, 3)."""
    k, j, i = np.indices(shape_zyx)
    return np.stack([i, j, k], axis=-1) @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("affine", TILTS)
def test_a_field_that_is_linear_in_the_patient_is_the_same_on_the_upright_grid(
    affine: np.ndarray,
) -> None:
    slope = np.array([3.0, -5.0, 2.0])
    field = (places(SHAPE_ZYX, affine) @ slope + 40).astype(np.float32)

    grid = upright(volume(field, affine))
    assert grid is not None
    moved = grid.volume(volume(field, affine))

    gram = moved.lps_from_index[:3, :3].T @ moved.lps_from_index[:3, :3]
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-9
    assert np.linalg.det(moved.lps_from_index[:3, :3]) == pytest.approx(
        np.linalg.det(affine[:3, :3])
    )
    there = places(moved.array.shape, moved.lps_from_index)
    index = (there - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    inside = (index > 0.001).all(axis=-1)
    inside[1:-1] &= (index[1:-1] < np.array(SHAPE_ZYX[::-1]) - 1.001).all(axis=-1)
    inside[[0, -1]] = False
    assert inside.sum() > 0.7 * field.size
    np.testing.assert_allclose(moved.array[inside], (there @ slope + 40)[inside], atol=0.05)
    outside = (index[..., :2] < -1.001).any(axis=-1)
    assert outside.any() and (moved.array[outside] == -1024).all()


def test_the_values_are_those_of_simpleitk_s_resampling() -> None:
    affine = TILTS[1]
    array = np.random.default_rng(5).normal(100, 60, SHAPE_ZYX).astype(np.float32)
    grid = upright(volume(array, affine))
    assert grid is not None
    moved = grid.volume(volume(array, affine))

    # The shear as a transform of an upright image: SimpleITK takes no leaning grid.
    straight = np.diag([*SPACING_ZYX_MM[::-1], 1.0])
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_ZYX_MM[::-1])
    to_leaning = straight @ np.linalg.inv(affine) @ moved.lps_from_index @ np.linalg.inv(straight)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(to_leaning[:3, :3].ravel())
    transform.SetTranslation(to_leaning[:3, 3])
    expected = sitk.GetArrayFromImage(
        sitk.Resample(
            image,
            moved.array.shape[::-1],
            transform,
            sitk.sitkLinear,
            (0.0, 0.0, 0.0),
            SPACING_ZYX_MM[::-1],
            np.eye(3).ravel(),
            -5000.0,
        )
    )

    # Beyond the middle of the outermost pixels SimpleITK repeats them.
    at = places(moved.array.shape, moved.lps_from_index) - affine[:3, 3]
    index = at @ np.linalg.inv(affine[:3, :3]).T
    known = (index[..., :2] > 0).all(axis=-1)
    known &= (index[..., :2] < np.array(SHAPE_ZYX[:0:-1]) - 1).all(axis=-1)
    assert known.mean() > 0.6
    np.testing.assert_allclose(moved.array[known], expected[known], atol=0.02)


def assert_in_place(mask: np.ndarray, affine: np.ndarray, off_px: float = 0.5) -> None:
    """Right farther than `off_px` from the ellipsoid's border, in each slice; right as a whole."""
    there = places(mask.shape, affine)
    off_mm = off_px * np.hypot(*SPACING_ZYX_MM[1:])
    for grown, holds in ((-off_mm, True), (off_mm, False)):
        axes = tuple(axis + grown for axis in ELLIPSOID.half_axes_mm)
        inside = replace(ELLIPSOID, half_axes_mm=axes).contains(there)
        assert (mask[inside] if holds else ~mask[~inside]).all()
    np.testing.assert_allclose(there[mask].mean(axis=0), ELLIPSOID.centre_lps_mm, atol=0.15)
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    assert mask.sum() * voxel_ml == pytest.approx(ELLIPSOID.volume_ml, rel=0.03)


@pytest.mark.parametrize("affine", TILTS)
def test_labels_come_back_to_their_place_and_size(affine: np.ndarray) -> None:
    grid = upright(volume(np.zeros(SHAPE_ZYX, np.int16), affine))
    assert grid is not None
    found = ELLIPSOID.contains(places(grid.shape, grid.lps_from_index)).astype(np.uint8)

    back = grid.labels_on_slices(found, *SHAPE_ZYX[1:])

    assert back.shape == SHAPE_ZYX
    assert_in_place(back == 1, affine)
    np.testing.assert_array_equal(grid.labels_moved(back), found)


@pytest.mark.parametrize("affine", TILTS)
def test_labels_of_the_slices_are_moved_to_their_place(affine: np.ndarray) -> None:
    grid = upright(volume(np.zeros(SHAPE_ZYX, np.int16), affine))
    assert grid is not None
    taken = ELLIPSOID.contains(places(SHAPE_ZYX, affine)).astype(np.uint8)

    moved = grid.labels_moved(taken)

    assert moved.shape == grid.shape
    assert_in_place(moved == 1, grid.lps_from_index)
    np.testing.assert_array_equal(grid.labels_on_slices(moved, *SHAPE_ZYX[1:]), taken)


@pytest.mark.parametrize("affine", TILTS)
def test_a_bundle_finds_a_structure_where_it_is(affine: np.ndarray, tmp_path: Path) -> None:
    # 1, so that its border, between 0 and 1, is where it is between two pixels too.
    label = ELLIPSOID.contains(places(SHAPE_ZYX, affine)).astype(np.int16)
    folder = shapes.identity(tmp_path / "identity", 1, shapes.TURN, "after")

    found = LoadedBundle(load_card(folder)).analyse(volume(label.astype(np.float32), affine))

    assert found.volume.lps_from_index is affine and found.labels.shape == SHAPE_ZYX
    # Half a pixel on the way there, where the border lies between two, and half one back.
    assert_in_place(found.mask(1), affine, off_px=1.0)


@pytest.mark.parametrize("affine", TILTS)
def test_a_detector_is_shown_the_true_shape(affine: np.ndarray, tmp_path: Path) -> None:
    """A box knows no way back: what the network saw must have been right."""
    ball = replace(BALL, centre_lps_mm=ELLIPSOID.centre_lps_mm, radius_mm=9.0, hu=301)
    headers = tuple(pydicom.Dataset() for _ in range(SHAPE_ZYX[0]))
    given = replace(
        volume(render([ball], SHAPE_ZYX, affine, background_hu=299), affine), headers=headers
    )

    found = LoadedBundle(load_card(shapes.detector(tmp_path / "boxes"))).analyse(given)

    assert isinstance(found, Reading)
    (box,) = found.boxes
    step_mm = np.array(given.spacing_zyx_mm)
    np.testing.assert_allclose(box.centre_lps_mm, ball.centre_lps_mm, atol=step_mm.max() / 2)
    edges_mm = np.linalg.norm(box.edges_lps_mm, axis=1)
    np.testing.assert_allclose(np.sort(edges_mm), 18.0, atol=step_mm.max())
    # And its section on the slice through its middle is as wide as the ball.
    outline = box_outline(box, given)
    wide_mm = np.ptp(outline.points, axis=0) * step_mm[:0:-1]
    np.testing.assert_allclose(wide_mm, 18.0, atol=1.5)
    middle = affine[:3] @ (*(outline.points[[0, 2]].mean(axis=0) - 0.5), outline.k, 1)
    np.testing.assert_allclose(middle, ball.centre_lps_mm, atol=step_mm.max())


def test_measurements_hold_on_a_leaning_grid(tmp_path: Path) -> None:
    affine = TILTS[1]
    made = make_segmentation(tmp_path, [LARYNX], SHAPE_ZYX, affine, [segment(1, "larynx")])

    (finding,) = measure(made).findings

    assert made.volume.spacing_zyx_mm == pytest.approx((2.5 * np.cos(np.radians(20)), 0.9, 0.7))
    assert finding.volume_ml == pytest.approx(BALL.volume_ml, rel=0.02)
    values = {m.name: m.value for m in finding.measurements}
    assert values["long_axis"] == pytest.approx(2 * BALL.radius_mm, abs=1.0)
    off = {m.name: m.uncertainty for m in finding.measurements}
    for name in ("long_axis_3d", "extent_left_right", "extent_front_back", "extent_head_feet"):
        assert off[name] < 4.0
        assert values[name] == pytest.approx(2 * BALL.radius_mm, abs=off[name])
    assert values["surface_area"] == pytest.approx(4 * np.pi * BALL.radius_mm**2, rel=0.05)


def test_a_stack_that_does_not_lean_is_left_alone() -> None:
    affine = centred_grid(SHAPE_ZYX, SPACING_ZYX_MM, oblique(20.0, -35.0))
    affine[0, 2] += 0.2 / (SHAPE_ZYX[0] - 1)  # noise of positions

    assert upright(volume(np.zeros(SHAPE_ZYX, np.int16), affine)) is None
    assert tilt_flags(affine, SHAPE_ZYX[0]) == ()


def test_a_second_series_on_a_straight_grid_is_said_to_lean_no_more() -> None:
    straight = centred_grid(SHAPE_ZYX, SPACING_ZYX_MM)
    first, leaning = (
        replace(
            volume(np.zeros(SHAPE_ZYX, np.int16), affine),
            quality=tilt_flags(affine, SHAPE_ZYX[0]),
        )
        for affine in (straight, tilted(5.0))
    )

    stacked = stack_channels([(first,), (leaning,)])
    other_way = stack_channels([(leaning,), (first,)])

    assert [flag.name for flag in stacked.quality] == ["channel"]
    assert [flag.name for flag in other_way.quality] == ["gantry-tilt", "channel"]
    grid = upright(other_way)
    assert grid is not None
    assert [array.shape for array in grid.volume(other_way).channels] == [grid.shape]
