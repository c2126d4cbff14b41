"""Phantoms whose truth is a formula, and genuine CT series made from them.

Shapes are given in LPS mm, so that the expected centroid and volume never pass
through the grid that is being tested:

>>> ball = Ball(centre_lps_mm=(12.0, -30.0, 55.0), radius_mm=20.0, hu=100)
>>> affine = centred_grid((40, 50, 60), spacing_zyx_mm=(2.0, 0.8, 1.1))
>>> paths = write_ct_series(tmp_path, render([ball], (40, 50, 60), affine), affine)

Any defect is one function away: `edit(dataset, k)` is called for every slice
just before it is written.
"""

from __future__ import annotations

import copy
import itertools
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import pi
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

Vector = tuple[float, float, float]

AIR_HU = -1000


@dataclass(frozen=True)
class Ball:
    """A ball in the patient: centre LPS mm, radius mm, value HU."""

    centre_lps_mm: Vector
    radius_mm: float
    hu: int

    @property
    def volume_ml(self) -> float:
        """Analytic volume, mL."""
        return 4 / 3 * pi * self.radius_mm**3 / 1000

    def contains(self, points_lps_mm: np.ndarray) -> np.ndarray:
        """Mask of the points, shape (..., 3) LPS mm, that lie inside."""
        offsets = points_lps_mm - np.asarray(self.centre_lps_mm)
        return np.einsum("...c,...c->...", offsets, offsets) <= self.radius_mm**2


@dataclass(frozen=True)
class Box:
    """A box along the patient axes: centre and full size in LPS mm, value HU."""

    centre_lps_mm: Vector
    size_lps_mm: Vector
    hu: int

    @property
    def volume_ml(self) -> float:
        """Analytic volume, mL."""
        return float(np.prod(self.size_lps_mm)) / 1000

    def contains(self, points_lps_mm: np.ndarray) -> np.ndarray:
        """Mask of the points, shape (..., 3) LPS mm, that lie inside."""
        offsets = np.abs(points_lps_mm - np.asarray(self.centre_lps_mm))
        return np.all(offsets <= np.asarray(self.size_lps_mm) / 2, axis=-1)


def render(
    shapes: Sequence[Ball | Box],
    shape_zyx: tuple[int, int, int],
    lps_from_index: np.ndarray,
    background_hu: int = AIR_HU,
) -> np.ndarray:
    """HU at every voxel centre; a later shape covers an earlier one.

    Returns
    -------
    numpy.ndarray, shape (z, y, x), int16
    """
    volume = np.full(shape_zyx, background_hu, np.int16)
    j, i = np.mgrid[: shape_zyx[1], : shape_zyx[2]]
    for k in range(shape_zyx[0]):
        index = np.stack([i, j, np.full_like(i, k), np.ones_like(i)], axis=-1)
        points = index @ lps_from_index[:3].T
        for shape in shapes:
            volume[k][shape.contains(points)] = shape.hu
    return volume


def centred_grid(
    shape_zyx: tuple[int, int, int],
    spacing_zyx_mm: Vector,
    directions: np.ndarray | None = None,
    centre_lps_mm: Vector = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """Affine (i, j, k, 1) → LPS mm of a grid whose middle lies at `centre_lps_mm`.

    Parameters
    ----------
    shape_zyx : tuple of int
        Slices, rows, columns.
    spacing_zyx_mm : tuple of float
        Between slices, between rows, between columns.
    directions : numpy.ndarray, shape (3, 3), optional
        Columns are the unit directions of i, j and k in LPS; axial by default.
    centre_lps_mm : tuple of float
        Where the middle of the grid lies.
    """
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3) if directions is None else directions
    affine[:3, :3] *= np.asarray(spacing_zyx_mm[::-1])
    middle = (np.asarray(shape_zyx[::-1]) - 1) / 2
    affine[:3, 3] = np.asarray(centre_lps_mm) - affine[:3, :3] @ middle
    return affine


def axis_directions() -> Iterator[np.ndarray]:
    """All 48 ways to lay i, j, k along ±L, ±P, ±S; half of them are left-handed."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            yield np.eye(3)[:, order] * signs


def oblique(turn_z_deg: float, turn_x_deg: float) -> np.ndarray:
    """Rotation about z after one about x, shape (3, 3): directions of i, j, k in LPS."""
    a, b = np.deg2rad([turn_z_deg, turn_x_deg])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_z @ about_x


def stable_uid(*parts: object) -> str:
    """The same UID for the same parts, always."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(map(str, parts))).int}"


def _decimals(values: Sequence[float] | np.ndarray) -> list[DSfloat]:
    """DS values in at most 16 characters (PS3.5 section 6.2)."""
    return [DSfloat(float(value), auto_format=True) for value in values]


def ct_header(
    lps_from_index: np.ndarray, *, body_part: str | None, patient_id: str, study: str, series: str
) -> Dataset:
    """What all slices of a CT series share; type 1 and 2 attributes of PS3.3 A.3."""
    columns = lps_from_index[:3, :3]
    spacing_ijk_mm = np.linalg.norm(columns, axis=0)
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.SOPClassUID = CTImageStorage
    header.StudyDate = header.SeriesDate = header.AcquisitionDate = header.ContentDate = "20240102"
    header.StudyTime = header.SeriesTime = header.AcquisitionTime = header.ContentTime = "030405"
    header.AccessionNumber = ""
    header.Modality = "CT"
    header.Manufacturer = "Phantom"
    header.ManufacturerModelName = "Analytic"
    header.ReferringPhysicianName = ""
    header.StudyDescription = "Phantom study"
    header.SeriesDescription = "Phantom series"
    header.PatientName = "Phantom^Analytic"
    header.PatientID = patient_id
    header.PatientBirthDate = ""
    header.PatientSex = "O"
    if body_part is not None:
        header.BodyPartExamined = body_part
    header.KVP = "120"
    header.SliceThickness = _decimals(spacing_ijk_mm[2:])[0]
    header.PatientPosition = "HFS"
    header.StudyInstanceUID = stable_uid(patient_id, study)
    header.SeriesInstanceUID = stable_uid(patient_id, study, series)
    header.StudyID = "1"
    header.SeriesNumber = "1"
    header.AcquisitionNumber = "1"
    header.FrameOfReferenceUID = stable_uid(patient_id, study, "frame of reference")
    header.PositionReferenceIndicator = ""
    header.ImageOrientationPatient = _decimals((columns / spacing_ijk_mm).T[:2].ravel())
    # First value: spacing between rows, so along j (PS3.3 10.7.1.3).
    header.PixelSpacing = _decimals(spacing_ijk_mm[[1, 0]])
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit = 15
    header.PixelRepresentation = 1
    header.RescaleIntercept = "0"
    header.RescaleSlope = "1"
    header.RescaleType = "HU"
    return header


def write_ct_series(
    folder: Path,
    array_zyx_hu: np.ndarray,
    lps_from_index: np.ndarray,
    *,
    body_part: str | None = "HEADNECK",
    patient_id: str = "PHANTOM-1",
    study: str = "study",
    series: str = "series",
    shuffle_seed: int | None = None,
    reverse: bool = False,
    edit: Callable[[Dataset, int], None] | None = None,
) -> list[Path]:
    """Write a CT Image Storage series, one file per slice.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    array_zyx_hu : numpy.ndarray, shape (z, y, x)
        HU; stored as int16 with slope 1 and intercept 0.
    lps_from_index : numpy.ndarray, shape (4, 4)
        (i, j, k, 1) → LPS mm. Columns i and j must be perpendicular; column k may
        point either way along the normal, or be sheared (gantry tilt).
    body_part : str or None
        BodyPartExamined; None leaves it out.
    patient_id, study, series : str
        All UIDs are made from these: equal arguments give equal UIDs.
    shuffle_seed : int or None
        File names and instance numbers in two different random orders.
    reverse : bool
        File names and instance numbers fall while k rises.
    edit : callable, optional
        ``edit(dataset, k)`` may change anything of the dataset of slice k, file
        meta, UIDs and PixelData included.

    Returns
    -------
    list of Path
        The file of every slice, in the order of k.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slices = len(array_zyx_hu)
    names = list(range(slices, 0, -1) if reverse else range(1, slices + 1))
    numbers = list(names)
    if shuffle_seed is not None:
        chance = random.Random(shuffle_seed)
        chance.shuffle(names)
        chance.shuffle(numbers)
    header = ct_header(
        lps_from_index, body_part=body_part, patient_id=patient_id, study=study, series=series
    )
    paths = []
    for k, pixels in enumerate(array_zyx_hu.astype("<i2", copy=False)):
        # Deep: assigning to an element of a shallow copy would change every slice.
        dataset = copy.deepcopy(header)
        dataset.SOPInstanceUID = stable_uid(patient_id, study, series, k)
        dataset.InstanceNumber = str(numbers[k])
        dataset.ImagePositionPatient = _decimals(lps_from_index[:3] @ (0, 0, k, 1))
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if edit is not None:
            edit(dataset, k)
        path = folder / f"{names[k]:05d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
