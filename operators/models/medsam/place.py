"""Marks brought to the slices of a volume: what is prompted on which slice.

Named images are found by name; drawings in the patient by frame of reference and plane,
with half the distance of the slices as the limit; painted masks voxel by voxel, nearest
neighbour. A box that was worked out from a drawing is cut at the edge of its image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydicom.dataset import Dataset
from skimage.draw import polygon2mask

from operators.errors import ModelRefusal
from operators.job import QualityFlag, Volume
from operators.models.medsam.drawn import Shape, box_round
from operators.models.medsam.mark_file import (
    ImageNotInStudy,
    OffTheSlices,
    OnWholeSlide,
    OtherFrame,
    OtherImageFrame,
    OtherPatient,
    OutsideTheImage,
    VolumeAmbiguous,
)
from operators.models.medsam.picture import Box, Point, SlicePrompt
from operators.models.medsam.pieces import of_mask
from operators.models.medsam.region import (
    Drawing,
    MarkedTwice,
    OnImage,
    Painted,
    PointOutside,
    Region,
)
from operators.models.medsam.request import DECIMALS, check_box, locate
from operators.study.identity import patient_identity
from operators.volume.planar_pixels import frame_count

# An outline with more corners than a rectangle that was closed by hand shows the border
# itself, and is a mask to refine; a rectangle is only round it.
RECTANGLE_CORNERS = 5


# Contours within this distance are on one plane, and so far may a limit be passed: files
# have coordinates with two to four decimals.
COPLANAR_MM = 0.01


@dataclass(frozen=True)
class _Outline:
    """An outline near a slice: its height above that, mm, and its pixel edges."""

    height_mm: float
    points_px: np.ndarray


@dataclass(frozen=True)
class Placed:
    """A region on its volume.

    Attributes
    ----------
    volume : Volume
        Which of the volumes it is on.
    slices : dict of int to SlicePrompt
        By k, rising; at least one.
    remarks : tuple of QualityFlag
        How it was placed, where that is not plain.
    """

    volume: Volume
    slices: dict[int, SlicePrompt]
    remarks: tuple[QualityFlag, ...] = ()


def place(volumes: Sequence[Volume], region: Region) -> Placed:
    """Where a region lies.

    Parameters
    ----------
    volumes : sequence of Volume
        At least one; of any number of series.
    region : Region
        Its marks are checked against the images.

    Raises
    ------
    ModelRefusal
        A mark fits no slice, or two fit one; or the marks are of another patient.
    """
    placed = _placed(volumes, region)
    if region.marked_in is None:
        return placed
    return replace(placed, remarks=(*placed.remarks, *_whose(placed.volume, region.marked_in)))


def _whose(volume: Volume, marked_in: Dataset) -> tuple[QualityFlag, ...]:
    """A flag where the marks are of another study.

    Raises
    ------
    OtherPatient
        Where both sides have a PatientID and it differs, or an issuer of it.
    """
    header, uid = volume.headers[0], volume.series_instance_uid
    (issuer, patient, _), (marked_issuer, marked_patient, _) = (
        patient_identity(header),
        patient_identity(marked_in),
    )
    if patient and marked_patient:
        if patient != marked_patient:
            raise OtherPatient(uid, "PatientID")
        if issuer and marked_issuer and issuer != marked_issuer:
            raise OtherPatient(uid, "IssuerOfPatientID")
    studies = {str(header.StudyInstanceUID), str(marked_in.StudyInstanceUID)} - {""}
    if len(studies) < 2:
        return ()
    text = (
        f"The marks are of another study ({str(marked_in.StudyInstanceUID)[:64]}) than the "
        "images: the patient may have changed between them."
    )
    return (QualityFlag("marked-in-other-study", text),)


def _placed(volumes: Sequence[Volume], region: Region) -> Placed:
    """As `place`, whoever the marks are of."""
    first = region.marks[0]
    if isinstance(first, Painted):
        here = _in_frame(volumes, first.frame_of_reference_uid)
        return _on_one(here, region, lambda volume: _place_mask(volume, first, region))
    if isinstance(first, Drawing) and not first.image_uid:
        frames = {m.frame_of_reference_uid for m in region.marks if isinstance(m, Drawing)}
        if len(frames) > 1:
            raise OtherFrame(", ".join(sorted(frames)), volumes[0].frame_of_reference_uid)
        here = _in_frame(volumes, first.frame_of_reference_uid)
        return _on_one(here, region, lambda volume: _place_in_patient(volume, region))
    volume: Volume | None = None
    slices: dict[int, SlicePrompt] = {}
    for mark in region.marks:
        if isinstance(mark, OnImage):
            found, k = locate(volumes, mark.image)
            prompt = _checked(found, mark)
        elif isinstance(mark, Drawing):
            found, k = _by_uid(volumes, mark.image_uid)
            _check_frame(found, k, mark)
            prompt = _drawn(found, k, mark.shape, mark.points * _pixel_mm(found)[::-1])
        else:
            raise OtherFrame("", volumes[0].frame_of_reference_uid)
        if volume is not None and found is not volume:
            raise ImageNotInStudy(found.source_sop_uids[k])
        if k in slices:
            raise MarkedTwice(found.source_sop_uids[k])
        volume, slices[k] = found, prompt
    return Placed(found, dict(sorted(slices.items())))


def _checked(volume: Volume, mark: OnImage) -> SlicePrompt:
    if mark.box is not None:
        check_box(volume, mark.box)
    rows, columns = volume.array.shape[1:]
    for point in mark.points:
        if not (0 <= point[0] <= columns and 0 <= point[1] <= rows):
            raise PointOutside(point, rows, columns)
    return SlicePrompt(mark.box, mark.points)


def _by_uid(volumes: Sequence[Volume], sop_uid: str) -> tuple[Volume, int]:
    for volume in volumes:
        uids = volume.source_sop_uids
        if sop_uid in uids:
            return volume, uids.index(sop_uid)
    raise ImageNotInStudy(sop_uid)


def _check_frame(volume: Volume, k: int, mark: Drawing) -> None:
    """Raises where a mark means another frame, or other pixels, than those of slice k."""
    header, uid = volume.headers[k], mark.image_uid
    frames = frame_count(header)
    used = volume.plane.frame if volume.plane is not None else None
    # A frame that is named counts for an image of one frame too: it can only be the first.
    if (frames > 1 or mark.frames) and (used or 1) not in mark.frames:
        raise OtherImageFrame(uid, mark.frames, used, frames)
    whole = header.get("TotalPixelMatrixRows"), header.get("TotalPixelMatrixColumns")
    if whole not in ((None, None), (header.Rows, header.Columns)) and mark.origin != "FRAME":
        raise OnWholeSlide(uid, mark.origin)


def _drawn(volume: Volume, k: int, shape: Shape, points_mm: np.ndarray) -> SlicePrompt:
    """A drawing as a box, a mask or a point; `points_mm` from the corner of the first pixel."""
    row_mm, column_mm = _pixel_mm(volume)
    rows, columns = volume.array.shape[1:]
    points_px = points_mm / (column_mm, row_mm)
    middle = points_px.mean(axis=0)
    if not (np.abs(points_px) < 4 * max(rows, columns)).all() or not (
        0 <= middle[0] <= columns and 0 <= middle[1] <= rows
    ):
        raise OutsideTheImage(volume.source_sop_uids[k], rows, columns)
    if shape is Shape.POINT:
        x, y = (round(float(value), DECIMALS) for value in middle)
        point: Point = (x, y, True)
        return SlicePrompt(None, (point,))
    x0, y0, x1, y1 = box_round(shape, points_mm)
    box = _cut((x0 / column_mm, y0 / row_mm, x1 / column_mm, y1 / row_mm), rows, columns)
    if box[2] - box[0] < 1 or box[3] - box[1] < 1:
        raise OutsideTheImage(volume.source_sop_uids[k], rows, columns)
    if shape is Shape.OUTLINE and len(points_px) > RECTANGLE_CORNERS:
        mask = _filled([points_px], (rows, columns))
        if mask.any():
            return of_mask(mask)
    return SlicePrompt(box)


def _pixel_mm(volume: Volume) -> np.ndarray:
    """Distance between rows and between columns; of a 2D image only that they are equal."""
    return np.ones(2) if volume.plane is not None else np.array(volume.spacing_zyx_mm[1:])


def _cut(box: Box, rows: int, columns: int) -> Box:
    x0, y0, x1, y1 = (round(float(value), DECIMALS) for value in box)
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(columns)), min(y1, float(rows))


def _filled(outlines: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centres lie in an odd number of outlines, given in pixel edges (x, y)."""
    mask = np.zeros(shape, bool)
    for outline in outlines:
        mask ^= polygon2mask(shape, outline[:, ::-1] - 0.5)
    return mask


def _in_frame(volumes: Sequence[Volume], frame_of_reference_uid: str) -> list[Volume]:
    """The volumes in a frame of reference; at least one, and none that is a 2D image."""
    # A 2D image has no frame of reference: two that are empty are not one.
    here = [
        volume
        for volume in volumes
        if volume.plane is None and volume.frame_of_reference_uid == frame_of_reference_uid != ""
    ]
    if not here:
        raise OtherFrame(frame_of_reference_uid, volumes[0].frame_of_reference_uid)
    return here


def _on_one(volumes: list[Volume], region: Region, place_on: Callable[[Volume], Placed]) -> Placed:
    """The marks on the volume that holds most of their images, or on the only one that they fit.

    Phases of a series, and series of a study, share a frame of reference: the first one
    would be as likely the wrong one.

    Raises
    ------
    VolumeAmbiguous
        Several are left.
    ModelRefusal
        They fit none: what the first one says.
    """
    held = [len(set(region.images) & set(volume.source_sop_uids)) for volume in volumes]
    likeliest = [v for v, count in zip(volumes, held, strict=True) if count == max(held)]
    placed: list[Placed] = []
    refusals: list[ModelRefusal] = []
    for volume in likeliest:
        try:
            placed.append(place_on(volume))
        except ModelRefusal as refusal:
            refusals.append(refusal)
    if not placed:
        raise refusals[0]
    if len(placed) > 1:
        raise VolumeAmbiguous([(p.volume.series_instance_uid, p.volume.part) for p in placed])
    return placed[0]


def _place_in_patient(volume: Volume, region: Region) -> Placed:
    """Drawings with coordinates of the patient, by plane."""
    spacing_mm = volume.spacing_zyx_mm
    index_from_lps = np.linalg.inv(volume.lps_from_index)
    outlines: dict[int, list[_Outline]] = {}
    slices: dict[int, SlicePrompt] = {}
    farthest_mm = 0.0
    for mark in region.marks:
        if not isinstance(mark, Drawing) or mark.image_uid:
            raise OtherFrame("", volume.frame_of_reference_uid)
        index = mark.points @ index_from_lps[:3, :3].T + index_from_lps[:3, 3]
        k = round(float(np.median(index[:, 2])))
        inside = min(max(k, 0), len(volume.array) - 1)
        off_mm = float(np.abs(index[:, 2] - inside).max()) * spacing_mm[0]
        if off_mm > spacing_mm[0] / 2 + COPLANAR_MM:
            raise OffTheSlices(off_mm, spacing_mm[0] / 2)
        farthest_mm = max(farthest_mm, off_mm)
        points_px = index[:, :2] + 0.5
        if mark.shape is Shape.OUTLINE:
            height_mm = (float(np.median(index[:, 2])) - inside) * spacing_mm[0]
            outlines.setdefault(inside, []).append(_Outline(height_mm, points_px))
        elif inside in slices:
            raise MarkedTwice(volume.source_sop_uids[inside])
        else:
            slices[inside] = _drawn(
                volume, inside, mark.shape, points_px * np.array(spacing_mm[:0:-1])
            )
    left_out = 0
    for k, drawn in outlines.items():
        nearest = _nearest_plane(drawn)
        left_out += len(drawn) - len(nearest)
        slices[k] = _outlined(volume, k, nearest)
    remarks = _how_placed(volume, region, len(slices), farthest_mm)
    return Placed(
        volume, dict(sorted(slices.items())), (*remarks, *_left_out(left_out, len(region.marks)))
    )


def _nearest_plane(outlines: list[_Outline]) -> list[np.ndarray]:
    """Those on the plane nearest to their slice: only these are inner and outer ones."""
    height_mm = min((outline.height_mm for outline in outlines), key=abs)
    return [o.points_px for o in outlines if abs(o.height_mm - height_mm) <= COPLANAR_MM]


def _left_out(count: int, of: int) -> tuple[QualityFlag, ...]:
    """That contours lie closer together than the slices do."""
    if not count:
        return ()
    text = (
        f"{count} of {of} contours were not used: contours of another plane lie nearer to their "
        "slice."
    )
    return (QualityFlag("contours-between-slices", text),)


def _outlined(volume: Volume, k: int, outlines: list[np.ndarray]) -> SlicePrompt:
    """All outlines of one plane together."""
    spacing_mm = np.array(volume.spacing_zyx_mm[:0:-1])
    if len(outlines) == 1:
        return _drawn(volume, k, Shape.OUTLINE, outlines[0] * spacing_mm)
    shape = volume.array.shape[1:]
    limit = 4 * max(shape)
    if all((np.abs(outline) < limit).all() for outline in outlines):
        mask = _filled(outlines, shape)
        if mask.any():
            return of_mask(mask)
    raise OutsideTheImage(volume.source_sop_uids[k], *shape)


def _how_placed(
    volume: Volume, region: Region, count: int, farthest_mm: float | None
) -> tuple[QualityFlag, ...]:
    """That coordinates decided, where the images that were named are not these."""
    if not region.images:
        return ()
    there = len(set(region.images) & set(volume.source_sop_uids))
    if there == len(region.images):
        return ()
    how = "" if farthest_mm is None else f", at most {farthest_mm:.2f} mm off a slice"
    text = (
        f"{there} of the {len(region.images)} images that the marks name are in the series; the "
        f"marks were placed on {count} slices by frame of reference and coordinates{how}."
    )
    return (QualityFlag("placed-by-geometry", text),)


def _place_mask(volume: Volume, painted: Painted, region: Region) -> Placed:
    """A mask of another grid on the slices, by nearest neighbour."""
    painted_from_index = np.linalg.inv(painted.lps_from_index) @ volume.lps_from_index
    slices: dict[int, SlicePrompt] = {}
    rows, columns = volume.array.shape[1:]
    j, i = np.mgrid[:rows, :columns]
    for k in range(len(volume.array)):
        index = np.stack([i, j, np.full_like(i, k), np.ones_like(i)], axis=-1)
        at = np.rint(index @ painted_from_index[:3].T).astype(np.int64)[..., ::-1]
        inside = ((at >= 0) & (at < painted.mask.shape)).all(axis=-1)
        mask = np.zeros((rows, columns), bool)
        mask[inside] = painted.mask[tuple(at[inside].T)]
        if mask.any():
            slices[k] = of_mask(mask)
    if not slices:
        centre = np.argwhere(painted.mask).mean(axis=0)[::-1]
        lps = painted.lps_from_index @ (*centre, 1.0)
        at_k = float((np.linalg.inv(volume.lps_from_index) @ lps)[2])
        off = abs(at_k - min(max(at_k, 0), len(volume.array) - 1))
        raise OffTheSlices(off * volume.spacing_zyx_mm[0], volume.spacing_zyx_mm[0] / 2)
    return Placed(volume, slices, _how_placed(volume, region, len(slices), None))
