"""Many patients in one common space: landmarks, affine, then demons to their own mean.

No patient serves as reference: the mean of all patients' landmarks is the first
common space; each patient is moved there by an affine, and the mean of what
arrives is the target of the next round. Two coarse and two fine rounds of demons
follow; after each coarse one the mean displacement is taken out of every field,
so that the shape too is the mean one.

Labelled organs are painted into the images that are registered: the spinal cord,
3 voxels wide and grey in grey, would otherwise be averaged away.

Arrays here are (z, y, x), spaces are LPS mm (SimpleITK's).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import SimpleITK as sitk  # noqa: N813  (the name its own documentation uses)

from scripts.openkbp import ORGANS, datalist

REQUIRED = ORGANS[:5]
PAINT_HU = {1: 250.0, 2: 450.0, 3: -350.0, 4: -350.0, 5: 300.0}
"""Label id to what is added before registration; larynx and esophagus are rarely contoured."""

SPACING_MM = (3.0, 3.0, 2.5)
COARSE_MM = (6.0, 6.0, 5.0)
LOW_MM, HIGH_MM = (-255.0, -140.0, -230.0), (255.0, 160.0, 150.0)
"""Corners of the common space, LPS; 0 is the mean of the landmarks."""


@dataclass(frozen=True)
class Case:
    """One patient who qualifies.

    Attributes
    ----------
    ct : sitk.Image
        HU, float32.
    label : sitk.Image
        Label ids, uint8.
    seen_z_mm : tuple of float
        LPS z between which whole slices exist; beyond, the challenge cut the body.
    contoured : frozenset of int
        Label ids that were contoured in this patient.
    landmarks : numpy.ndarray, shape (n, 3)
        LPS mm, in the order of `landmarks`.
    """

    ct: sitk.Image
    label: sitk.Image
    seen_z_mm: tuple[float, float]
    contoured: frozenset[int]
    landmarks: np.ndarray


def whole_slices(body_cm2: np.ndarray, start: int) -> tuple[int, int]:
    """Range of slices around `start` in which the body was not cut.

    Parameters
    ----------
    body_cm2 : numpy.ndarray, shape (z,)
        Body area per slice, cm².
    start : int
        A slice that is whole.

    Returns
    -------
    tuple of int
        First and last index. It ends where less than 80 cm² are left or a
        quarter vanishes from one slice to the next: anatomy tapers, the
        challenge's mask ends at an edge.
    """
    ends = []
    for step in (-1, 1):
        k = start
        while (
            0 <= k + step < len(body_cm2)
            and body_cm2[k + step] >= 80.0
            and body_cm2[k + step] > 0.75 * body_cm2[k]
        ):
            k += step
        ends.append(k)
    return ends[0], ends[1]


def landmarks(label: np.ndarray, image: sitk.Image) -> np.ndarray:
    """Points that every patient has, from the five required organs.

    Parameters
    ----------
    label : numpy.ndarray, shape (z, y, x)
        Label ids; z to the Superior, y to the Posterior.
    image : sitk.Image
        Same grid, for the place in space.

    Returns
    -------
    numpy.ndarray, shape (8, 3)
        Centres of brainstem, parotids and mandible, chin, cord at its upper end
        and 60 and 100 mm below: the cord's lower end is the contourer's choice.
    """
    dz = image.GetSpacing()[2]
    at = {k: np.argwhere(label == k).astype(float) for k in range(1, 6)}
    mandible, cord = at[5], at[2]
    chin = mandible[mandible[:, 1] <= np.quantile(mandible[:, 1], 0.1)]
    points = [at[k].mean(axis=0) for k in (1, 3, 4, 5)] + [chin.mean(axis=0)]
    for below_mm in (0.0, 60.0, 100.0):
        z = cord[:, 0].max() - 4.0 - below_mm / dz
        points.append(cord[np.abs(cord[:, 0] - z) <= 4.0].mean(axis=0))
    return np.array(
        [image.TransformContinuousIndexToPhysicalPoint(p[::-1].tolist()) for p in points]
    )


def cases(data: Path, split: str) -> Iterator[Case]:
    """Patients of a split whose head, neck and shoulders are whole and contoured.

    Parameters
    ----------
    data : Path
        The openkbp-hn-ct folder.
    split : str
        Frozen split.

    Yields
    ------
    Case
        Five required organs contoured; whole slices from 15 mm above the
        brainstem down to shoulders (450 cm² or more, 100 mm below the mandible).
    """
    for entry in datalist(str(data), split):
        labelled = cast("list[float]", entry["labelled"])
        contoured = frozenset(k for k, known in enumerate(labelled) if k and known)
        if not contoured >= {ORGANS.index(organ) + 1 for organ in REQUIRED}:
            continue
        ct = sitk.DICOMOrient(sitk.ReadImage(str(entry["image"]), sitk.sitkFloat32), "LPS")
        label = sitk.DICOMOrient(sitk.ReadImage(str(entry["label"]), sitk.sitkUInt8), "LPS")
        hu, ids = sitk.GetArrayFromImage(ct), sitk.GetArrayFromImage(label)
        dx, dy, dz = ct.GetSpacing()
        body_cm2 = (hu > -900.0).sum(axis=(1, 2)) * dx * dy / 100.0
        mandible = np.flatnonzero((ids == 5).any(axis=(1, 2)))
        low, high = whole_slices(body_cm2, int(mandible.mean()))
        brainstem_top = np.flatnonzero((ids == 1).any(axis=(1, 2))).max()
        if (
            (high - brainstem_top) * dz < 15.0
            or (mandible.min() - low) * dz < 100.0
            or body_cm2[low] < 450.0
        ):
            continue
        z0 = ct.GetOrigin()[2]
        seen = (z0 + low * dz, z0 + high * dz)
        yield Case(ct, label, seen, contoured, landmarks(ids, ct))


def rigid(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`source` points turned and shifted onto `target`, both shape (n, 3) (Kabsch)."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    u, _, vt = np.linalg.svd(a.T @ b)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return a @ u @ flip @ vt + target.mean(axis=0)


def mean_landmarks(sets: list[np.ndarray]) -> np.ndarray:
    """Mean shape of several landmark sets (n, 3), mean size kept, centred at 0."""
    mean = sets[0] - sets[0].mean(axis=0)
    for _ in range(10):
        mean = np.mean([rigid(points, mean) for points in sets], axis=0)
        mean -= mean.mean(axis=0)
    return mean


def affine(mean: np.ndarray, points: np.ndarray) -> sitk.AffineTransform:
    """Least-squares affine from the common space to a patient's."""
    solution, *_ = np.linalg.lstsq(np.c_[mean, np.ones(len(mean))], points, rcond=None)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(solution[:3].T.ravel().tolist())
    transform.SetTranslation(solution[3].tolist())
    return transform


def grid(spacing_mm: tuple[float, float, float]) -> sitk.Image:
    """Empty float image that spans the common space."""
    size = np.ceil(np.subtract(HIGH_MM, LOW_MM) / spacing_mm).astype(int) + 1
    image = sitk.Image(size.tolist(), sitk.sitkFloat32)
    image.SetSpacing(spacing_mm)
    image.SetOrigin(LOW_MM)
    return image


def to_patient(base: sitk.AffineTransform, field: sitk.Image | None) -> sitk.Transform:
    """Common space to patient: displacement first, affine after."""
    if field is None:
        return base
    return sitk.CompositeTransform([base, sitk.DisplacementFieldTransform(sitk.Image(field))])


def painted(case: Case) -> sitk.Image:
    """CT clamped to what guides a registration, with the labelled organs painted in."""
    out = sitk.Clamp(case.ct, sitk.sitkFloat32, -400.0, 500.0)
    for k, extra in PAINT_HU.items():
        out = out + sitk.Cast(case.label == k, sitk.sitkFloat32) * extra
    return out


def seen_mask(case: Case, reference: sitk.Image, transform: sitk.Transform) -> np.ndarray:
    """Where on `reference` this patient has whole slices, bool (z, y, x)."""
    z_size = case.ct.GetSize()[2]
    flags = np.zeros((z_size, 1, 1), np.float32)
    z = case.ct.GetOrigin()[2] + np.arange(z_size) * case.ct.GetSpacing()[2]
    flags[(z >= case.seen_z_mm[0] - 0.01) & (z <= case.seen_z_mm[1] + 0.01)] = 1.0
    # One column as wide as the world: in-plane, what lies outside the array is air.
    column = sitk.GetImageFromArray(np.repeat(np.repeat(flags, 2, 1), 2, 2))
    column.SetSpacing((4000.0, 4000.0, case.ct.GetSpacing()[2]))
    x0, y0, z0 = case.ct.GetOrigin()
    column.SetOrigin((x0 - 2000.0, y0 - 2000.0, z0))
    return sitk.GetArrayFromImage(sitk.Resample(column, reference, transform)) > 0.99


def compose(field: sitk.Image | None, update: sitk.Image) -> sitk.Image:
    """Displacement of `x -> x + update(x)` followed by `field`."""
    if field is None:
        return update
    moved = sitk.Warp(
        field,
        update,
        outputSpacing=update.GetSpacing(),
        outputOrigin=update.GetOrigin(),
        outputDirection=update.GetDirection(),
        outputSize=update.GetSize(),
    )
    return update + moved


def register(
    case: Case,
    target: np.ndarray,
    reference: sitk.Image,
    base: sitk.AffineTransform,
    field: sitk.Image | None,
    *,
    iterations: int,
    smooth_voxels: float,
) -> sitk.Image:
    """One round of demons for one patient, going on from `field`.

    Parameters
    ----------
    target : numpy.ndarray, shape (z, y, x)
        The present mean of the painted images.
    reference : sitk.Image
        Its grid.
    base, field
        The patient's affine and displacement so far.
    iterations, smooth_voxels
        Of the demons; smoothing of the total update, in voxels.

    Returns
    -------
    sitk.Image
        New displacement on `reference`.
    """
    if field is not None:
        field = sitk.Resample(field, reference, sitk.Transform(), sitk.sitkLinear)
        field = sitk.Cast(field, sitk.sitkVectorFloat64)
    transform = to_patient(base, field)
    moving = sitk.GetArrayFromImage(
        sitk.Resample(painted(case), reference, transform, sitk.sitkLinear, -400.0)
    )
    # Where this patient was cut the target stands in for it: no force there.
    moving = np.where(seen_mask(case, reference, transform), moving, target)
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfIterations(iterations)
    demons.SetStandardDeviations(smooth_voxels)
    fixed, floating = sitk.GetImageFromArray(target), sitk.GetImageFromArray(moving)
    fixed.CopyInformation(reference)
    floating.CopyInformation(reference)
    return compose(field, demons.Execute(fixed, floating))


def arrived(
    case: Case, reference: sitk.Image, base: sitk.AffineTransform, field: sitk.Image | None
) -> tuple[np.ndarray, np.ndarray]:
    """Painted image of one patient on `reference`, and where it is valid."""
    transform = to_patient(base, field)
    image = sitk.Resample(painted(case), reference, transform, sitk.sitkLinear, -400.0)
    return sitk.GetArrayFromImage(image), seen_mask(case, reference, transform)


def mean_of(pairs: Iterator[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Mean over patients, each where it is valid; air where nobody is."""
    total: np.ndarray | float = 0.0
    count: np.ndarray | float = 0.0
    for image, valid in pairs:
        total = total + image * valid
        count = count + valid.astype(np.float32)
    return np.where(count > 0, total / np.maximum(count, 1), -400.0).astype(np.float32)


def centred(fields: list[sitk.Image]) -> list[sitk.Image]:
    """The fields without their mean: the common space moves to the mean shape."""
    array = np.mean([sitk.GetArrayViewFromImage(field) for field in fields], axis=0)
    mean = sitk.GetImageFromArray(array, isVector=True)
    mean.CopyInformation(fields[0])
    back = sitk.InverseDisplacementField(
        mean, mean.GetSize(), mean.GetOrigin(), mean.GetSpacing(), 8
    )
    return [compose(field, sitk.Cast(back, sitk.sitkVectorFloat64)) for field in fields]


def shape_fields(people: list[Case]) -> tuple[list[sitk.AffineTransform], list[sitk.Image]]:
    """Common space to each patient: affines, and displacements on the fine grid.

    Two coarse rounds are centred on the mean shape, then two fine ones sharpen.
    """
    mean = mean_landmarks([case.landmarks for case in people])
    bases = [affine(mean, case.landmarks) for case in people]
    fields: list[sitk.Image | None] = [None] * len(people)
    rounds = (
        (COARSE_MM, 25, 2.5, True),
        (COARSE_MM, 25, 1.5, True),
        (SPACING_MM, 8, 1.8, False),
        (SPACING_MM, 8, 1.2, False),
    )
    for spacing, iterations, smooth, centre in rounds:
        reference = grid(spacing)
        target = mean_of(
            arrived(case, reference, base, field)
            for case, base, field in zip(people, bases, fields, strict=True)
        )
        found = [
            register(
                case, target, reference, base, field, iterations=iterations, smooth_voxels=smooth
            )
            for case, base, field in zip(people, bases, fields, strict=True)
        ]
        fields = list(centred(found) if centre else found)
        print(f"round at {spacing[0]} mm done", flush=True)
    return bases, [field for field in fields if field is not None]
