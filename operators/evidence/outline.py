"""Outlines of structures, along the edges of their pixels, and where they lie in the patient.

A polygon along pixel edges encloses exactly the pixels of the mask, however few
they are; one through pixel centres or half levels is smaller by half a pixel all
around. Coordinates follow PS3.3 C.18.6.1.2: (column, row), (0, 0) at the outer
corner of the first pixel, so (0.5, 0.5) at its centre.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from scipy import ndimage
from skimage.measure import find_contours

from operators.evidence.frames import Masks
from operators.job import Volume


@dataclass(frozen=True)
class Outline:
    """A closed polygon in one slice.

    Attributes
    ----------
    k : int
        Index of the slice.
    points : numpy.ndarray, shape (n, 2), float64
        (column, row) in pixels from the outer corner of the first pixel; the last
        point is the first again.
    """

    k: int
    points: np.ndarray

    @property
    def area_px(self) -> float:
        """Enclosed area, in pixels (shoelace formula)."""
        return abs(_signed_area(self.points))


def largest_outline(masks: Masks, number: int, per_slice: np.ndarray) -> Outline:
    """Outline of the largest piece of one label in the slice that holds most of it.

    Parameters
    ----------
    masks : callable
        Label and k → (rows, columns) bool, as `Segmentation.mask`.
    number : int
        The label; it must occur.
    per_slice : numpy.ndarray, shape (z,)
        Voxels of the label in every slice.

    Returns
    -------
    Outline
        Holes are not cut out: the polygon is the outer border.
    """
    k = int(np.argmax(per_slice))
    mask = masks(number, k)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # Pixels that touch only by a corner are two pieces (4-neighbours).
    pieces, _ = ndimage.label(box)
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    outer, *_ = _borders(pieces == largest)
    return Outline(k, _corners(outer) + np.array([columns[0], rows[0]]))


def keyhole_outlines(mask: np.ndarray, k: int) -> Iterator[Outline]:
    """An outline for each piece of a mask, its holes left out by keyholes.

    A keyhole is a channel of no width from the outer border to that of a hole: one
    polygon encloses the piece without its holes, whether it is filled by the even-odd
    or the non-zero rule, and several are added up or combined by XOR to the same end.

    Parameters
    ----------
    mask : numpy.ndarray, shape (rows, columns), bool
        Pixels that touch only by a corner belong to two pieces.
    k : int
        Its slice.

    References
    ----------
    DICOM PS3.3 C.8.8.6.3, Representing Inner and Outer Contours.
    """
    pieces, _ = ndimage.label(mask)
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        outer, *holes = _borders(pieces[box] == number)
        # From the left: what lies left of a hole is joined already.
        for hole in sorted(holes, key=lambda path: tuple(path.min(axis=0))):
            outer = _joined(outer, hole)
        yield Outline(k, _corners(outer) + np.array([box[1].start, box[0].start]))


def _borders(piece: np.ndarray) -> list[np.ndarray]:
    """Outer border of one 4-connected piece, then those of its holes, turned the other way.

    Returns
    -------
    list of numpy.ndarray, shape (n, 2), float64
        Every lattice point (column, row) on the way, the first not repeated.
    """
    paths = []
    # Level 0.5 of a padded mask crosses each pixel edge of the border at its middle.
    for line in find_contours(np.pad(piece, 1).astype(float), 0.5, fully_connected="low"):
        middles = line[:, ::-1] - 0.5
        # Edges that follow each other meet at the corner nearest to both middles.
        paths.append(np.rint((middles[:-1] + middles[1:]) / 2))
    return sorted(paths, key=lambda path: -abs(_signed_area(path)))


def _joined(outer: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One path round both: straight to the left from the hole, round it, and back."""
    start = int(np.lexsort((hole[:, 1], hole[:, 0]))[0])
    x, y = hole[start]
    left = np.flatnonzero((outer[:, 1] == y) & (outer[:, 0] <= x))
    at = int(left[np.argmax(outer[left, 0])])
    there_and_back = np.concatenate([np.roll(hole, -start, axis=0), [(x, y)], [outer[at]]])
    return np.concatenate([outer[: at + 1], there_and_back, outer[at + 1 :]])


def _corners(path: np.ndarray) -> np.ndarray:
    """A closed path without the points at which it goes straight on; the first one repeated."""
    path = path[(path != np.roll(path, 1, axis=0)).any(axis=1)]
    heading = np.sign(np.roll(path, -1, axis=0) - path)
    corners = path[(heading != np.roll(heading, 1, axis=0)).any(axis=1)]
    return np.concatenate([corners, corners[:1]])


def _signed_area(points: np.ndarray) -> float:
    """Area in pixels, its sign the sense of rotation; the first point may be repeated."""
    x, y = (points - points[0]).T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def on_source_image(volume: Volume, outline: Outline) -> np.ndarray:
    """Move an outline from the volume's grid to its source image, by way of the patient.

    The two are one grid, a tilted gantry's too, but for the rounding of positions.

    Returns
    -------
    numpy.ndarray, shape (n, 2), float64
        (column, row), (0, 0) at the outer corner of the first pixel (PS3.3 C.18.6.1.2).
    """
    header = volume.headers[outline.k]
    offset_mm = _in_patient(volume, outline.k, outline.points) - _origin(header)
    points = np.linalg.lstsq(_steps(header), offset_mm.T)[0].T
    # A thousandth of a pixel is far below what the positions in the header resolve.
    return np.round(points + 0.5, 3)


def on_source_plane(volume: Volume, outline: Outline) -> np.ndarray:
    """The same outline in the patient, in the plane of its source image.

    Returns
    -------
    numpy.ndarray, shape (n, 3), float64
        LPS, mm. Positions along the normal are the image's own, which the even steps of
        the volume's grid meet only within the rounding of the headers.
    """
    header = volume.headers[outline.k]
    return _origin(header) + (on_source_image(volume, outline) - 0.5) @ _steps(header).T


def off_source_plane_mm(volume: Volume, k: int) -> float:
    """How far a slice of the volume lies off the plane of its source image, at most, mm."""
    rows, columns = volume.array.shape[1:]
    edges = np.array([(0, 0), (columns, 0), (0, rows), (columns, rows)], float)
    header = volume.headers[k]
    normal = np.cross(*_steps(header).T)
    offset_mm = _in_patient(volume, k, edges) - _origin(header)
    return float(np.abs(offset_mm @ (normal / np.linalg.norm(normal))).max())


def _in_patient(volume: Volume, k: int, points: np.ndarray) -> np.ndarray:
    ones = np.ones(len(points))
    return np.column_stack([points - 0.5, k * ones, ones]) @ volume.lps_from_index[:3].T


def _origin(header: Dataset) -> np.ndarray:
    """Centre of the first pixel of an image, LPS mm."""
    return np.array(header.ImagePositionPatient, float)


def _steps(header: Dataset) -> np.ndarray:
    """Steps to the next column and to the next row, mm, as columns, shape (3, 2)."""
    along_row, along_column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    # First value: distance between rows (PS3.3 10.7.1.3).
    row_spacing_mm, column_spacing_mm = (float(value) for value in header.PixelSpacing)
    return np.column_stack([along_row * column_spacing_mm, along_column * row_spacing_mm])
