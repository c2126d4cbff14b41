"""Swapped sides are remarked, whatever way the array lies; right ones are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset

from operators.findings.measure import measure
from operators.job import QualityFlag, Segment, Segmentation, Volume
from tests.operators.scene import MODEL, segment
from tests.series import Ball, Box, Vector, axis_directions, centred_grid, oblique, render

SHAPE, SPACING_ZYX_MM = (30, 36, 40), (5.0, 5.0, 5.0)
# LPS: x grows to the patient's left; the body's middle is not that of the grid.
MIDDLE_X = 15.0
BODY = Box((MIDDLE_X, 0.0, 0.0), (90.0, 80.0, 100.0), 10)
LEFT, RIGHT = (MIDDLE_X + 25.0, 0.0, 0.0), (MIDDLE_X - 25.0, 10.0, 0.0)


def flags(
    directions: np.ndarray,
    placed: list[tuple[Segment, Vector]],
    *,
    flip_x: bool = False,
    body: Box = BODY,
    unit: str = "HU",
) -> list[QualityFlag]:
    """Remarks on balls in a body; flipped: the pixels were turned over and the header was not."""
    affine = centred_grid(SHAPE, SPACING_ZYX_MM, directions)
    balls = [Ball(place, 9.0, 10 * s.number + 10) for s, place in placed]
    array = render([body, *balls], SHAPE, affine, background_hu=-1000 if unit == "HU" else 0)
    if flip_x:
        across = 2 - int(np.argmax(np.abs(affine[0, :3])))
        array = np.flip(array, across)
    labels = np.where(array > 10, array // 10 - 1, 0).astype(np.uint8)
    volume = Volume(
        array=array,
        lps_from_index=affine,
        unit=unit,
        frame_of_reference_uid="1.2.3",
        headers=tuple(Dataset() for _ in array),
        series_instance_uid="1.2.3.4",
        bundle="test_bundle",
    )
    report = measure(Segmentation(volume, labels, tuple(s for s, _ in placed), MODEL))
    return list(report.segmentation.volume.quality)


PAROTIDS = [(segment(1, "parotid", "left"), LEFT), (segment(2, "parotid", "right"), RIGHT)]


@pytest.mark.parametrize("unit", ["HU", "arbitrary"])
def test_right_sides_are_not_remarked_however_the_array_lies(unit: str) -> None:
    for directions in [*axis_directions(), oblique(20, 30)]:
        assert flags(directions, PAROTIDS, unit=unit) == []
        assert flags(directions, PAROTIDS[:1], unit=unit) == []


def test_flipped_pixels_under_an_unflipped_header_are_remarked() -> None:
    # About a body in the middle: only the sides change.
    body = replace(BODY, centre_lps_mm=(0.0, 0.0, 0.0))
    placed = [(s, (x - MIDDLE_X, y, z)) for s, (x, y, z) in PAROTIDS]
    for directions in axis_directions():
        (flag,) = flags(directions, placed, flip_x=True, body=body)
        assert flag.name == "side-doubtful"
        assert "Parotid left" in flag.text
        assert "Parotid right" in flag.text
        (alone,) = flags(directions, placed[:1], flip_x=True, body=body)
        assert "Parotid left lies 25 mm right of the body's middle" in alone.text


def test_a_pair_is_told_apart_where_the_body_is_cut_off() -> None:
    wide = replace(BODY, size_lps_mm=(400.0, 80.0, 100.0))
    swapped = [(PAROTIDS[0][0], RIGHT), (PAROTIDS[1][0], LEFT)]

    assert flags(np.eye(3), PAROTIDS, body=wide) == []
    (flag,) = flags(np.eye(3), swapped, body=wide)

    assert flag.name == "side-doubtful"
    assert "Parotid left lies 50 mm farther right than the one of the right" in flag.text


def test_what_cannot_be_checked_is_said() -> None:
    wide = replace(BODY, size_lps_mm=(400.0, 80.0, 100.0))

    (flag,) = flags(np.eye(3), PAROTIDS[:1], body=wide)

    assert flag.name == "side-unchecked"
    assert "Parotid left" in flag.text


def test_structures_without_a_side_are_passed_over() -> None:
    assert flags(np.eye(3), [(segment(1, "larynx"), RIGHT)]) == []
