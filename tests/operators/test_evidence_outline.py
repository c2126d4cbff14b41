"""Outlines against counting, point-in-polygon and coordinates found by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage.measure import points_in_poly

from operators.evidence.outline import keyhole_outlines, largest_outline

SCALE = 9  # pixels of Pillow's for one of ours


def outline_of(mask: np.ndarray) -> np.ndarray:
    """Points around one slice's mask."""
    return largest_outline(lambda label, k: mask, 1, np.array([mask.sum()])).points


def filled_by_pillow(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A polygon as Pillow fills it, `SCALE` times as large."""
    image = Image.new("1", shape[::-1])
    ImageDraw.Draw(image).polygon([tuple(point) for point in points * SCALE], fill=1)
    return np.array(image)


def test_rectangle_is_outlined_along_the_outer_edges_of_its_pixels() -> None:
    mask = np.zeros((6, 9), bool)
    mask[2:4, 5:8] = True  # rows 2 and 3, columns 5 to 7

    corners = {(5.0, 2.0), (8.0, 2.0), (8.0, 4.0), (5.0, 4.0)}
    points = outline_of(mask)

    assert {tuple(point) for point in points} == corners
    assert len(points) == 5
    assert (points[0] == points[-1]).all()


@pytest.mark.parametrize("row", [0, 3])
@pytest.mark.parametrize("column", [0, 4])
def test_one_pixel_has_area_one_in_every_corner_of_the_image(row: int, column: int) -> None:
    mask = np.zeros((4, 5), bool)
    mask[row, column] = True

    outline = largest_outline(lambda label, k: mask, 1, np.array([1]))

    assert outline.area_px == 1.0
    assert outline.points.mean(axis=0) == pytest.approx((column + 0.5, row + 0.5), abs=0.2)


@given(
    hnp.arrays(
        np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans()
    ).filter(np.any)
)
@settings(max_examples=200, deadline=None)
def test_polygon_encloses_the_largest_piece_with_its_holes_and_nothing_else(
    mask: np.ndarray,
) -> None:
    pieces, _ = ndimage.label(mask)
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    # A hole that touches the outside by a corner is outside.
    filled = ndimage.binary_fill_holes(largest, structure=np.ones((3, 3)))

    outline = largest_outline(lambda label, k: mask, 1, np.array([mask.sum()]))

    rows, columns = np.indices(mask.shape)
    centres = np.column_stack([columns.ravel(), rows.ravel()]) + 0.5
    assert outline.area_px == filled.sum()
    assert (points_in_poly(centres, outline.points) == filled.ravel()).all()


def test_the_slice_with_most_of_the_structure_is_taken() -> None:
    labels = np.zeros((4, 8, 8), np.uint8)
    labels[1, 2:4, 2:4] = 3
    labels[2, 1:6, 1:6] = 3
    labels[3] = 5

    outline = largest_outline(
        lambda label, k: labels[k] == label, 3, (labels == 3).sum(axis=(1, 2))
    )

    assert (outline.k, outline.area_px) == (2, 25.0)


MASKS = hnp.arrays(
    np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans()
)


@given(MASKS)
@settings(max_examples=300, deadline=None)
def test_keyhole_outlines_enclose_a_mask_with_holes_and_pieces_by_any_rule(
    mask: np.ndarray,
) -> None:
    rows, columns = np.indices(mask.shape)
    centres = np.column_stack([columns.ravel(), rows.ravel()]) + 0.5
    shape = (mask.shape[0] * SCALE, mask.shape[1] * SCALE)

    outlines = list(keyhole_outlines(mask, 7))

    _, pieces = ndimage.label(mask)
    assert len(outlines) == pieces
    assert all(outline.k == 7 for outline in outlines)
    even_odd = np.zeros(mask.shape, bool)
    union = np.zeros(shape, bool)
    for outline in outlines:
        inside = points_in_poly(centres, outline.points).reshape(mask.shape)
        even_odd ^= inside
        union |= filled_by_pillow(outline.points, shape)
    assert (even_odd == mask).all()
    # Away from the borders, which Pillow draws as well.
    assert (union[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE] == mask).all()
    assert sum(outline.area_px for outline in outlines) == mask.sum()


def test_a_ring_is_one_polygon_whose_keyhole_leads_straight_to_its_left() -> None:
    mask = np.ones((3, 4), bool)
    mask[1, 1:3] = False

    (outline,) = keyhole_outlines(mask, 0)

    corners = {(0, 0), (4, 0), (4, 3), (0, 3)}
    hole = {(1, 1), (3, 1), (3, 2), (1, 2)}
    assert {tuple(point) for point in outline.points} == corners | hole | {(0, 1)}
    assert outline.area_px == mask.sum() == 10
    assert (outline.points[0] == outline.points[-1]).all()
