"""Which way a picture lies: letters against the coordinates of its own pixels."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from operators.evidence.orientation import letters, opposite, view_of, view_of_plane
from operators.job import Plane, Volume
from tests.series import axis_directions, centred_grid, oblique

SHAPE = (3, 5, 7)
SPACING_ZYX_MM = (2.5, 0.8, 1.1)
TOWARDS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "H": (2, 1), "F": (2, -1)}
EXPECTED = {"axial": ("L", "P"), "coronal": ("L", "F"), "sagittal": ("P", "F")}


def coordinates(affine: np.ndarray) -> np.ndarray:
    """LPS mm of every voxel of the middle slice, shape (rows, columns, 3)."""
    j, i = np.mgrid[: SHAPE[1], : SHAPE[2]]
    index = np.stack([i, j, np.full_like(i, 1), np.ones_like(i)], axis=-1)
    return index @ affine[:3].T


def shown(affine: np.ndarray) -> tuple[str, str, str, np.ndarray]:
    """Name and letters of the view, and the coordinates as the picture shows them."""
    view = view_of_plane(affine[:3, 0], affine[:3, 1])
    places = coordinates(affine)
    turned = np.stack([view.turn(places[..., axis]) for axis in range(3)], axis=-1)
    assert view.column_mm == pytest.approx(np.linalg.norm(turned[0, 1] - turned[0, 0]))
    assert view.row_mm == pytest.approx(np.linalg.norm(turned[1, 0] - turned[0, 0]))
    return view.name, view.right, view.bottom, turned


@pytest.mark.parametrize("number", range(48))
def test_every_way_of_lying_is_shown_as_a_reader_expects_it(number: int) -> None:
    affine = centred_grid(SHAPE, SPACING_ZYX_MM, list(axis_directions())[number])

    name, right, bottom, turned = shown(affine)

    assert (right, bottom) == EXPECTED[name]
    for letter, first, last in (
        (right, turned[0, 0], turned[0, -1]),
        (bottom, turned[0, 0], turned[-1, 0]),
    ):
        axis, sign = TOWARDS[letter]
        assert sign * (last - first)[axis] > 0
        assert np.delete(last - first, axis) == pytest.approx([0, 0])


@pytest.mark.parametrize("turn_deg", [(20, 0), (0, 20), (-40, 30), (130, 50), (200, -70)])
@pytest.mark.parametrize("mirror", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_letters_of_an_oblique_plane_are_where_its_pixels_go(
    turn_deg: tuple[float, float], mirror: tuple[int, int]
) -> None:
    directions = oblique(*turn_deg) * [*mirror, 1]

    _, right, bottom, turned = shown(centred_grid(SHAPE, SPACING_ZYX_MM, directions))

    for said, step in ((right, turned[0, 1] - turned[0, 0]), (bottom, turned[1, 0] - turned[0, 0])):
        unit = step / np.linalg.norm(step)
        by_strength = np.argsort(-np.abs(unit))
        expected = [axis for axis in by_strength if abs(unit[axis]) > np.sin(np.deg2rad(15))]
        assert [TOWARDS[letter][0] for letter in said] == expected
        for letter in said:
            axis, sign = TOWARDS[letter]
            assert sign * unit[axis] > 0


def test_a_tilted_gantry_s_sheared_slices_are_named_by_their_own_plane() -> None:
    affine = centred_grid(SHAPE, SPACING_ZYX_MM)
    affine[:3, 2] = (0.0, 2.0, 1.2)  # slices follow each other more to the back than upwards
    volume = Volume(np.zeros(SHAPE, np.int16), affine, "HU", "1", (), "1", "b")

    view = view_of(volume)

    assert (view.name, view.edges) == ("axial", ("R", "L", "A", "P"))


def planar(header: Dataset) -> Volume:
    """A radiograph of one slice, of unknown scale."""
    plane = Plane("xray", None, (), "")
    array = np.zeros((1, 4, 6), np.uint8)
    return Volume(array, np.full((4, 4), np.nan), "arbitrary", "", (header,), "1", "b", plane=plane)


@pytest.mark.parametrize(
    ("said", "species", "edges"),
    [
        (["L", "F"], None, ("R", "L", "H", "F")),
        (["R", "F"], None, ("L", "R", "H", "F")),
        (["AR", "HL"], None, ("PL", "AR", "FR", "HL")),
        (None, None, ("", "", "", "")),
        (["L"], None, ("", "", "", "")),
        ("LF", None, ("", "", "", "")),  # one value of two letters, not two values
        (["LE", "V"], "QUADRUPED", ("", "", "", "")),
        (["LE", "CD"], None, ("", "", "", "")),
    ],
)
def test_a_2d_image_is_marked_as_its_header_says_or_not_at_all(
    said: list[str] | str | None, species: str | None, edges: tuple[str, ...]
) -> None:
    header = Dataset()
    if said is not None:
        header.PatientOrientation = said
    if species is not None:
        header.AnatomicalOrientationType = species

    view = view_of(planar(header))

    assert view.edges == edges
    assert (view.transposed, view.flip_rows, view.flip_columns) == (False, False, False)
    assert view.row_mm is None


def test_letters_follow_the_standard_s_example_and_turn_round() -> None:
    assert letters(np.array([0.0, 0.0, -3.0])) == "F"
    assert letters(np.array([-1.0, 0.9, 0.1])) == "RP"
    assert opposite("RPH") == "LAF"
