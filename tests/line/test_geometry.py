"""The mask that is written lies where the ball lies, whatever the scanner's axes.

The oracle is the analytic ball. Positions and sizes are read from the SEG's own
elements with nothing of ours and nothing of highdicom.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from app.graph import analyse
from tests.series import Ball, axis_directions, centred_grid, oblique, render, write_ct_series

SOFT = Ball((9.0, -13.0, 6.0), 17.0, 120)
BONE = Ball((-21.0, 12.0, -11.0), 13.0, 700)
SHAPE_ZYX = (44, 100, 76)
SPACING_ZYX_MM = (2.0, 0.8, 1.1)  # an exchange of the in-plane values moves both balls by mm


def axes_name(axes: np.ndarray) -> str:
    """``+L-P+S``: where i, j and k point."""
    return "".join("+-"[int(axis.sum() < 0)] + "LPS"[abs(axis).argmax()] for axis in axes.T)


OBLIQUE_DEG = [(20, 10), (-35, 25), (170, -40), (90, 90)]
STRAIGHT = {axes_name(axes): axes for axes in axis_directions()}
TURNED = {f"oblique{a}/{b}": oblique(a, b) for a, b in OBLIQUE_DEG}
GRIDS = STRAIGHT | TURNED
CASES = [
    *((grid, "rising") for grid in GRIDS),
    *((grid, order) for grid in ["+L+P+S", *TURNED] for order in ("reversed", "shuffled")),
]


def segments_by_hand(path: Path) -> dict[str, tuple[np.ndarray, float]]:
    """Centroid (LPS mm) and volume (mL) of each segment, from the elements of a SEG file."""
    seg = dcmread(path)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    size = seg.Rows * seg.Columns
    shared = seg.SharedFunctionalGroupsSequence[0]
    labels = {item.SegmentNumber: item.SegmentLabel for item in seg.SegmentSequence}
    points: dict[str, list[np.ndarray]] = {label: [] for label in labels.values()}
    along: dict[str, set[float]] = {label: set() for label in labels.values()}
    for number, frame in enumerate(seg.PerFrameFunctionalGroupsSequence):
        mask = bits[number * size : (number + 1) * size].reshape(seg.Rows, seg.Columns)
        orientation = np.array(
            (frame if "PlaneOrientationSequence" in frame else shared)
            .PlaneOrientationSequence[0].ImageOrientationPatient, float
        )  # fmt: skip
        measures = (frame if "PixelMeasuresSequence" in frame else shared).PixelMeasuresSequence[0]
        between_rows, between_columns = map(float, measures.PixelSpacing)
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        row, column = np.nonzero(mask)
        label = labels[frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        # PS3.3 C.7.6.2.1-1: first cosines run along a row, that is over the columns.
        points[label].append(
            position
            + column[:, None] * between_columns * orientation[:3]
            + row[:, None] * between_rows * orientation[3:]
        )
        normal = np.cross(orientation[:3], orientation[3:])
        along[label].add(round(float(position @ normal), 3))
    measured = {}
    for label, parts in points.items():
        steps = [b - a for a, b in pairwise(sorted(along[label]))]
        voxel_ml = between_rows * between_columns * float(np.median(steps)) / 1000
        every = np.concatenate(parts)
        measured[label] = (every.mean(axis=0), len(every) * voxel_ml)
    return measured


@pytest.mark.parametrize(("grid", "order"), CASES)
def test_each_mask_lies_where_its_ball_lies(tmp_path, threshold_models, grid, order):
    affine = centred_grid(SHAPE_ZYX, SPACING_ZYX_MM, GRIDS[grid])
    array = render([SOFT, BONE], SHAPE_ZYX, affine)
    write_ct_series(
        tmp_path / "in",
        array,
        affine,
        reverse=order == "reversed",
        shuffle_seed=5 if order == "shuffled" else None,
    )

    job = analyse(tmp_path / "in", tmp_path / "out", "20240102030405", models=threshold_models)

    assert not job.refused
    seg = next(item.path for item in job.evidence if item.kind == "SEG")
    measured = segments_by_hand(seg)
    assert set(measured) == {"Soft ball", "Bone ball"}
    for label, ball in (("Soft ball", SOFT), ("Bone ball", BONE)):
        centroid, volume_ml = measured[label]
        offset_voxels = (np.linalg.inv(affine)[:3, :3]) @ (centroid - ball.centre_lps_mm)
        assert np.abs(offset_voxels).max() < 0.5
        assert volume_ml == pytest.approx(ball.volume_ml, rel=0.01)


def test_swapped_pixel_spacing_would_be_noticed(tmp_path, threshold_models):
    """The oracle itself: the same pixels with the two values exchanged fail it by far."""
    affine = centred_grid(SHAPE_ZYX, SPACING_ZYX_MM)
    array = render([SOFT, BONE], SHAPE_ZYX, affine)

    def exchange(dataset, _k):
        dataset.PixelSpacing = list(reversed(dataset.PixelSpacing))

    write_ct_series(tmp_path / "in", array, affine, edit=exchange)
    job = analyse(tmp_path / "in", tmp_path / "out", "20240102030405", models=threshold_models)
    seg = next(item.path for item in job.evidence if item.kind == "SEG")
    centroid, _ = segments_by_hand(seg)["Soft ball"]

    offset_voxels = (np.linalg.inv(affine)[:3, :3]) @ (centroid - SOFT.centre_lps_mm)

    assert np.abs(offset_voxels).max() > 2.0
