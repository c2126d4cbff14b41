"""Size and shape against formulas, and against SimpleITK where no formula is."""

from __future__ import annotations

from math import pi

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.dataset import Dataset

from operators.findings.measure import measure
from operators.job import Finding, Segmentation, Volume
from operators.measured import Axis, Measurement
from tests.operators.itk_measures import by_itk
from tests.operators.scene import MODEL, segment
from tests.series import Ball, Box, axis_directions, centred_grid, oblique, render

CENTRE = (12.3, -30.1, 55.2)
GRIDS = [
    ((1.0, 1.0, 1.0), oblique(0, 0)),
    ((3.0, 0.7, 0.9), oblique(0, 0)),
    ((3.0, 0.7, 0.9), oblique(30, 20)),
    ((1.25, 0.8, 1.1), oblique(100, -60)),
    ((5.0, 0.8, 0.8), oblique(17, 35)),
]


def find(mask: np.ndarray, affine: np.ndarray, values: np.ndarray | None = None) -> Finding:
    """The finding of one mask, values of 0 unless given."""
    volume = Volume(
        array=np.zeros(mask.shape, np.int16) if values is None else values,
        lps_from_index=affine,
        unit="HU",
        frame_of_reference_uid="1.2.3",
        headers=tuple(Dataset() for _ in mask),
        series_instance_uid="1.2.3.4",
        bundle="test_bundle",
    )
    labels = mask.astype(np.uint8)
    report = measure(Segmentation(volume, labels, (segment(1, "larynx"),), MODEL))
    return report.findings[0]


def one(finding: Finding, name: str) -> Measurement:
    (found,) = [m for m in finding.measurements if m.name == name]
    return found


def axis(finding: Finding, name: str) -> tuple[Measurement, Axis, np.ndarray]:
    """A measurement with an axis, and its vector in LPS mm."""
    found = one(finding, name)
    assert found.axis is not None
    start, end = np.array(found.axis.ends_lps_mm)
    return found, found.axis, end - start


def mask_of(
    shapes: list[Ball | Box], spacing_zyx_mm: tuple[float, ...], directions: np.ndarray, size_mm=50
) -> tuple[np.ndarray, np.ndarray]:
    shape = tuple(int(size_mm / step) + 3 for step in spacing_zyx_mm)
    affine = centred_grid(shape, spacing_zyx_mm, directions, CENTRE)
    return render(shapes, shape, affine) > 0, affine


@pytest.mark.parametrize(("spacing_zyx_mm", "directions"), GRIDS)
def test_every_size_of_a_ball_is_within_its_uncertainty(spacing_zyx_mm, directions) -> None:
    ball = Ball(CENTRE, 16.0, 30)

    finding = find(*mask_of([ball], spacing_zyx_mm, directions))

    truth = {"volume": ball.volume_ml, "long_axis": 32, "short_axis": 32, "long_axis_3d": 32}
    truth |= dict.fromkeys(("extent_left_right", "extent_front_back", "extent_head_feet"), 32)
    for name, value in truth.items():
        found = one(finding, name)
        assert found.uncertainty is not None
        assert found.value == pytest.approx(value, abs=found.uncertainty), name
        # An interval that holds everything would say nothing.
        assert found.uncertainty < 0.4 * value, name
    assert one(finding, "volume").value == pytest.approx(ball.volume_ml, rel=0.015)
    assert one(finding, "surface_area").value == pytest.approx(4 * pi * 16**2, rel=0.03)
    assert one(finding, "components").value == 1


def test_extents_of_a_box_are_exact_and_along_the_patients_axes() -> None:
    """All 48 ways the array may lie: width is always left to right."""
    box = Box(CENTRE, (12.0, 20.0, 30.0), 30)
    for directions in axis_directions():
        # Odd in all directions, so that no voxel centre lies on a face.
        finding = find(*mask_of([box], (2.4, 0.8, 1.6), directions, size_mm=36))
        found = [one(finding, f"extent_{way}").value for way in ("left_right", "front_back")]
        found.append(one(finding, "extent_head_feet").value)
        steps = np.abs(directions) @ (1.6, 0.8, 2.4)
        assert np.abs(np.array(found) - (12, 20, 30)).max() <= steps.max() + 1e-6
        assert np.abs(np.array(found) / steps - np.rint(np.array(found) / steps)).max() < 1e-6


def test_a_box_of_voxels_has_the_size_of_its_voxels() -> None:
    mask = np.zeros((9, 12, 14), bool)
    mask[2:6, 3:8, 4:11] = True

    finding = find(mask, np.diag([0.5, 2.0, 3.0, 1.0]))

    assert one(finding, "extent_left_right").value == pytest.approx(7 * 0.5)
    assert one(finding, "extent_front_back").value == pytest.approx(5 * 2.0)
    assert one(finding, "extent_head_feet").value == pytest.approx(4 * 3.0)
    # 140 voxels of 3 mm3; those inside of all faces are 2 x 3 x 5.
    assert one(finding, "volume").value == pytest.approx(0.42)
    assert one(finding, "volume").uncertainty == pytest.approx((140 - 30) / 2 * 0.003)


@pytest.mark.parametrize(("spacing_zyx_mm", "directions"), GRIDS)
def test_axes_of_an_ellipsoid_lie_in_the_slice_through_its_middle(
    spacing_zyx_mm, directions
) -> None:
    """Half axes 20 and 9 mm in the plane of the slices, turned by 35 degrees, 12 mm across."""
    shape = tuple(int(50 / step) + 3 for step in spacing_zyx_mm)
    affine = centred_grid(shape, spacing_zyx_mm, directions, CENTRE)
    k, j, i = np.indices(shape)
    places = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ affine[:3].T - CENTRE
    x, y, z = np.moveaxis(places @ directions, -1, 0)
    turn = np.deg2rad(35)
    u, v = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    mask = (u / 20) ** 2 + (v / 9) ** 2 + (z / 12) ** 2 <= 1

    finding = find(mask, affine)

    long, where, along = axis(finding, "long_axis")
    short, where_short, across = axis(finding, "short_axis")
    assert long.value == pytest.approx(40, abs=long.uncertainty)
    assert short.value == pytest.approx(18, abs=short.uncertainty)
    # Where it lies in the patient: through the middle, in the plane, turned by 35 degrees.
    expected = directions @ (np.cos(turn), np.sin(turn), 0)
    assert abs(along @ expected) / long.value > np.cos(np.deg2rad(8))
    assert np.mean(where.ends_lps_mm, axis=0) == pytest.approx(CENTRE, abs=max(spacing_zyx_mm))
    assert abs(along @ across) < 1e-6 * long.value * short.value
    normal = directions[:, 2]
    index = np.linalg.inv(affine) @ (*where.ends_lps_mm[0], 1)
    assert where.k == where_short.k == pytest.approx(index[2], abs=1e-6)
    assert abs(along @ normal) < 1e-6 > abs(across @ normal)
    for found in (where, where_short):
        length = np.linalg.norm(np.subtract(*found.ends_lps_mm))
        assert length in (pytest.approx(long.value), pytest.approx(short.value))
    longest, whole, _ = axis(finding, "long_axis_3d")
    assert whole.k is None
    assert longest.value == pytest.approx(40, abs=longest.uncertainty)


def test_one_voxel_far_away_makes_no_organ_longer() -> None:
    mask, affine = mask_of([Ball(CENTRE, 10.0, 30)], (2.0, 1.0, 1.0), oblique(0, 0))
    alone = find(mask, affine)
    mask[0, 0, 0] = True

    finding = find(mask, affine)

    for name in ("long_axis", "short_axis", "long_axis_3d"):
        assert one(finding, name).value == one(alone, name).value
    assert (one(alone, "components").value, one(finding, "components").value) == (1, 2)
    assert one(finding, "extent_left_right").value > one(alone, "extent_left_right").value


def test_two_balls_are_two_pieces_and_the_axes_are_those_of_the_larger() -> None:
    balls = [
        Ball((2.3, -30.1, 55.2), 6.0, 30),
        Ball((24.3, -30.1, 55.2), 9.0, 30),
    ]

    finding = find(*mask_of(balls, (2.0, 0.8, 1.0), oblique(20, 10), size_mm=60))

    assert one(finding, "components").value == 2
    long, where, _ = axis(finding, "long_axis")
    assert long.value == pytest.approx(18, abs=long.uncertainty)
    assert np.mean(where.ends_lps_mm, axis=0) == pytest.approx(balls[1].centre_lps_mm, abs=2)
    surface = one(finding, "surface_area").value
    assert surface == pytest.approx(4 * pi * (6**2 + 9**2), rel=0.04)


def test_a_crescents_short_axis_does_not_cross_its_mouth() -> None:
    """A ring of 20 mm outer and 14 mm inner radius, open to one side."""
    j, i = np.indices((101, 101)) - 50
    ring = (np.hypot(i, j) <= 40) & (np.hypot(i, j) >= 28) & ~((i > 0) & (np.abs(j) < 20))

    finding = find(ring[None], np.diag([0.5, 0.5, 2.0, 1.0]))

    _, _, across = axis(finding, "short_axis")
    assert one(finding, "long_axis").value == pytest.approx(40, abs=1)
    # The longest chord is the one that touches the inner circle, no wider opening counts.
    assert np.linalg.norm(across) < 2 * np.sqrt(20**2 - 14**2) + 1


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_any_mask_measures_as_simpleitk_does(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=7))
    mask = data.draw(hnp.arrays(np.bool_, shape))
    if not mask.any():
        mask.flat[0] = True
    step = 0.9
    affine = centred_grid(shape, (step,) * 3, oblique(25, -40), CENTRE)

    finding = find(mask, affine)

    truth = by_itk(mask, np.zeros(shape), affine)
    assert one(finding, "volume").value == pytest.approx(truth.volume_ml)
    assert one(finding, "components").value == truth.components
    # Both weight 13 directions; ITK rounds its weights.
    assert one(finding, "surface_area").value == pytest.approx(truth.surface_mm2, rel=1e-6)


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_the_longest_lines_are_the_longest_of_all_pairs_of_points(data: st.DataObject) -> None:
    """Brute force: every voxel reaches half a step along each axis of the grid."""
    shape = data.draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=5))
    mask = data.draw(hnp.arrays(np.bool_, shape))
    mask.flat[0] = True
    affine = centred_grid(shape, (2.5, 0.8, 1.1), oblique(25, -40), CENTRE)
    finding = find(mask, affine)
    if one(finding, "components").value > 1:
        return

    index = np.argwhere(mask)[:, ::-1]
    reach = np.concatenate([np.eye(3), -np.eye(3)]) / 2
    points = (index[:, None] + reach).reshape(-1, 3) @ affine[:3, :3].T

    def longest(of: np.ndarray) -> float:
        return float(np.linalg.norm(of[:, None] - of[None], axis=-1).max())

    assert one(finding, "long_axis_3d").value == pytest.approx(longest(points))
    assert one(finding, "long_axis").value <= longest(points) + 1e-9
    assert one(finding, "short_axis").value <= one(finding, "long_axis").value + 1e-9
