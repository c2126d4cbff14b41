"""From positions and directions of slices to one affine, or a refusal.

ImagePositionPatient, ImageOrientationPatient and PixelSpacing alone decide
(PS3.3 C.7.6.2). SliceThickness, SliceLocation, SpacingBetweenSlices,
InstanceNumber and PatientPosition describe the acquisition, not the grid, and
are never read here. All lengths are mm, all vectors LPS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

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

SPACING_TOLERANCE_MM = 0.1  # scanners round positions to 0.1 mm
SPACING_TOLERANCE_SHARE = 0.25  # of the spacing: for slices thinner than 0.4 mm
DRIFT_TOLERANCE_MM = 0.25  # in-plane, over the whole stack: a quarter of a usual pixel
PIXEL_TOLERANCE_MM = 1e-3
COSINE_TOLERANCE = 1e-3  # cosines are written with 4 digits at least
SAME_PLACE_MM = 0.01
MOST_TILT_DEG = 35.0  # gantries tilt by 30 degrees at most
FARTHEST_MM = 1e5  # 100 m: beyond it, a number is a mistake

_VALUES = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}


@dataclass(frozen=True)
class Planes:
    """Places of n images of one series, in the order given.

    Attributes
    ----------
    origins : numpy.ndarray, shape (n, 3), float64
        Centre of the first pixel of every image.
    along_row, along_column : numpy.ndarray, shape (n, 3), float64
        Unit directions of rising column index and of rising row index.
    row_spacing_mm, column_spacing_mm : numpy.ndarray, shape (n,), float64
        PixelSpacing: first value between rows, second between columns.
    """

    origins: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    row_spacing_mm: np.ndarray
    column_spacing_mm: np.ndarray

    @property
    def normal(self) -> np.ndarray:
        """Mean unit normal, row cosines x column cosines, shape (3,)."""
        normal = np.cross(self.along_row.mean(axis=0), self.along_column.mean(axis=0))
        return normal / np.linalg.norm(normal)

    def of(self, chosen: list[int]) -> Planes:
        """The images with these numbers."""
        return Planes(
            self.origins[chosen],
            self.along_row[chosen],
            self.along_column[chosen],
            self.row_spacing_mm[chosen],
            self.column_spacing_mm[chosen],
        )


def read_planes(headers: list[Dataset], series_uid: str) -> Planes:
    """Geometry attributes of every image.

    Raises
    ------
    MissingGeometry
        An image lacks one, or it has the wrong number of values.
    InvalidGeometry
        Directions are not perpendicular unit vectors, or a length is beyond reason.
    """
    columns = {
        keyword: _values(headers, keyword, count, series_uid) for keyword, count in _VALUES.items()
    }
    directions = columns["ImageOrientationPatient"].reshape(-1, 2, 3)
    # Unit length on both, 0 between them: what is left of the Gram matrix is the error.
    gram = np.einsum("nac,nbc->nab", directions, directions)
    perpendicular = (np.abs(gram - np.eye(2)) <= COSINE_TOLERANCE).all(axis=(1, 2))
    origins, spacing = columns["ImagePositionPatient"], columns["PixelSpacing"]
    near = (np.abs(origins) <= FARTHEST_MM).all(axis=1)
    positive = ((spacing > 0) & (spacing <= FARTHEST_MM)).all(axis=1)
    for sound, fault in (
        (perpendicular, "ImageOrientationPatient holds no two perpendicular unit vectors"),
        (near, f"ImagePositionPatient is farther than {FARTHEST_MM:.0f} mm away"),
        (positive, f"PixelSpacing is not between 0 and {FARTHEST_MM:.0f} mm"),
    ):
        if not sound.all():
            sop_uid = str(headers[int(np.argmin(sound))].SOPInstanceUID)
            raise InvalidGeometry(series_uid, sop_uid, fault)
    return Planes(
        origins,
        directions[:, 0],
        directions[:, 1],
        spacing[:, 0],
        spacing[:, 1],
    )


def _values(headers: list[Dataset], keyword: str, count: int, series_uid: str) -> np.ndarray:
    found = [header.get(keyword) for header in headers]
    missing = sum(value is None or np.size(value) != count for value in found)
    if missing:
        raise MissingGeometry(series_uid, keyword, missing, len(headers))
    return np.array(found, np.float64)


def check_one_grid(planes: Planes, series_uid: str) -> None:
    """All images point the same way and have pixels of one size.

    Raises
    ------
    MixedOrientations, MixedPixelSpacings
    """
    cosines = np.hstack([planes.along_row, planes.along_column])
    groups: list[int] = []
    left = np.arange(len(cosines))
    while len(left):
        same = np.abs(cosines[left] - cosines[left[0]]).max(axis=1) <= COSINE_TOLERANCE
        groups.append(int(same.sum()))
        left = left[~same]
    if len(groups) > 1:
        raise MixedOrientations(series_uid, tuple(groups))
    for spacing in (planes.row_spacing_mm, planes.column_spacing_mm):
        if np.ptp(spacing) > PIXEL_TOLERANCE_MM:
            raise MixedPixelSpacings(
                series_uid, float(spacing.min()), float(spacing.max()), PIXEL_TOLERANCE_MM
            )


def sort_along_normal(planes: Planes) -> list[int]:
    """Numbers of the images in the order of their position along the normal."""
    return [int(n) for n in np.argsort(planes.origins @ planes.normal, kind="stable")]


def shared_places(planes: Planes) -> list[list[int]]:
    """Images grouped by place, along the normal; more than one in a group is a repetition.

    Two images share a place where their first pixels are less than `SAME_PLACE_MM` apart.
    """
    places: list[list[int]] = []
    for n in sort_along_normal(planes):
        last = planes.origins[places[-1][0]] if places else None
        if last is not None and np.linalg.norm(planes.origins[n] - last) < SAME_PLACE_MM:
            places[-1].append(n)
        else:
            places.append([n])
    return places


def slice_step(
    origins: np.ndarray,
    normal: np.ndarray,
    *,
    series_uid: str,
    what: str,
    most_tilt_deg: float = MOST_TILT_DEG,
) -> np.ndarray:
    """Vector from one slice to the next, the same throughout the stack.

    Parameters
    ----------
    origins : numpy.ndarray, shape (n, 3), float64
        ImagePositionPatient of every slice, LPS, mm, sorted along the normal.
    normal : numpy.ndarray, shape (3,), float64
        Unit normal, LPS.
    series_uid, what : str
        Only for the message: the series, and which part of it.
    most_tilt_deg : float
        How far the slices may lean; 0 where no gantry can have been tilted.

    Returns
    -------
    numpy.ndarray, shape (3,), float64
        Mean step, mm, so that first and last slice lie exactly right. It leans from the
        normal where the gantry was tilted (`operators.volume.tilt`).

    Raises
    ------
    TooFewSlices
        n < 2.
    UnevenSpacing
        A step along the normal deviates from the median; names the two slices.
    GantryTilt
        The slices lean by more than `most_tilt_deg`.
    MisplacedSlice
        A slice lies beside the line of the others.

    References
    ----------
    DICOM PS3.3 C.7.6.2.1.1, Image Position and Image Orientation.
    """
    if len(origins) < 2:
        raise TooFewSlices(series_uid, what, len(origins))
    _check_spacing(origins @ normal, series_uid)
    count = len(origins) - 1
    step = (origins[-1] - origins[0]) / count
    shear = step - (step @ normal) * normal
    offsets = origins - origins[0]
    in_plane = offsets - np.outer(offsets @ normal, normal)
    off_line = np.linalg.norm(in_plane - np.outer(np.arange(count + 1), shear), axis=1)
    worst = int(np.argmax(off_line))
    if off_line[worst] > DRIFT_TOLERANCE_MM:
        raise MisplacedSlice(series_uid, worst + 1, float(off_line[worst]), DRIFT_TOLERANCE_MM)
    shear_mm = float(np.linalg.norm(shear))
    tilt_deg = float(np.degrees(np.arctan2(shear_mm, step @ normal)))
    if tilt_deg > most_tilt_deg and shear_mm * count > DRIFT_TOLERANCE_MM:
        raise GantryTilt(series_uid, tilt_deg, shear_mm, most_tilt_deg)
    return step


def _check_spacing(along: np.ndarray, series_uid: str) -> None:
    steps = np.diff(along)
    usual = float(np.median(steps))
    limit = min(SPACING_TOLERANCE_MM, SPACING_TOLERANCE_SHARE * usual)
    worst = int(np.argmax(np.abs(steps - usual)))
    # 1e-6: positions rounded to 0.1 mm deviate by just that.
    if abs(steps[worst] - usual) > limit + 1e-6:
        raise UnevenSpacing(
            series_uid, worst + 1, float(along[worst]), float(steps[worst]), usual, limit
        )


def affine_from_planes(
    planes: Planes,
    *,
    series_uid: str,
    what: str = "it",
    most_tilt_deg: float = MOST_TILT_DEG,
) -> np.ndarray:
    """Affine (i, j, k, 1) → LPS mm of sorted, checked slices; i is the column, j the row.

    Parameters
    ----------
    planes : Planes
        Sorted along the normal, of one grid.
    series_uid, what : str
        Only for the message of a refusal.
    most_tilt_deg : float
        See `slice_step`.

    Returns
    -------
    numpy.ndarray, shape (4, 4), float64

    Raises
    ------
    VolumeRefusal
        See `slice_step`.

    References
    ----------
    DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1.
    """
    affine = np.eye(4)
    affine[:3, 0] = planes.along_row.mean(axis=0) * planes.column_spacing_mm.mean()
    affine[:3, 1] = planes.along_column.mean(axis=0) * planes.row_spacing_mm.mean()
    affine[:3, 2] = slice_step(
        planes.origins,
        planes.normal,
        series_uid=series_uid,
        what=what,
        most_tilt_deg=most_tilt_deg,
    )
    affine[:3, 3] = planes.origins[0]
    return affine
