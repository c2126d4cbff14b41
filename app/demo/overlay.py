"""Pictures of a written SEG on its images: one per structure, and a contact sheet.

The masks come from the SEG file itself, through its own headers, so a picture
shows what a viewer will show and not what memory held before writing. Axial
pictures follow the radiological convention: the patient's right is on the left.
The letters at the edges are the patient's directions. No name and no identifier
is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
from PIL import Image, ImageDraw

from operators.errors import EvidenceRefusal
from operators.evidence.drawing import (
    BOLD,
    INK,
    PALE,
    PAPER,
    Mask,
    draw_bar,
    draw_edges,
    draw_plane,
    field_of,
    font,
    headed,
    square,
)
from operators.evidence.grey import SOFT_TISSUE_HU, to_grey
from operators.evidence.orientation import view_of_plane

FILL_SHARE = 0.5
GRID_TOLERANCE_VOXELS = 0.1
GREY_CIELAB = (43908, 32896, 32896)

PICTURE_PX = 800
TILE_PX = 440
SHEET_COLUMNS = 4
CORONAL_MM = 320.0


class NotOnTheseImages(EvidenceRefusal):
    """A SEG whose voxels are not those of the images it is to be drawn on."""

    code = "RL-0591"

    def __init__(self, sop_instance_uid: str, series_on_grid: tuple[int, ...]) -> None:
        super().__init__(
            f"SEG {sop_instance_uid} does not lie on the grid of the given images "
            f"({' x '.join(map(str, series_on_grid))} voxels): its positions, spacing or "
            "orientation are others. Give the series that the SEG refers to."
        )


@dataclass(frozen=True)
class Drawn:
    """One segment, as the file says.

    Attributes
    ----------
    number : int
        Segment Number.
    label : str
        Segment Label.
    colour : tuple of int
        Recommended Display CIELab Value as sRGB, 0 to 255.
    mask : numpy.ndarray, shape (z, y, x), bool
        On the reoriented grid: z to the Head, y to the Posterior, x to the Left.
    """

    number: int
    label: str
    colour: tuple[int, int, int]
    mask: np.ndarray


def write_overlays(
    values: np.ndarray,
    lps_from_index: np.ndarray,
    seg_path: Path,
    folder: Path,
    *,
    window: tuple[float, float] = SOFT_TISSUE_HU,
) -> list[Path]:
    """Draw every segment of a SEG on its images.

    Parameters
    ----------
    values : numpy.ndarray, shape (z, y, x)
        The images the SEG was made from, HU or any other unit.
    lps_from_index : numpy.ndarray, shape (4, 4), float64
        (i, j, k, 1) = (column, row, slice) → LPS mm.
    seg_path : Path
        A BINARY SEG on the same grid; slices without a mask may be absent.
    folder : Path
        Created where absent.
    window : tuple of float
        Values shown black and white.

    Returns
    -------
    list of Path
        One PNG per segment that has voxels, ``01_brainstem.png`` and so on, each at
        the axial slice where its cross-section is largest; last the contact sheet.

    Raises
    ------
    NotOnTheseImages
        The SEG's geometry is not that of the images.
    """
    source = hd.Volume(
        values, np.asarray(lps_from_index, float)[:, [2, 1, 0, 3]], coordinate_system="PATIENT"
    )
    axial = source.to_patient_orientation("HPL")
    algorithm, segments = read_segments(seg_path, axial)
    folder.mkdir(parents=True, exist_ok=True)
    written, tiles = [], []
    for segment in segments:
        path = folder / f"{segment.number:02d}_{_slug(segment.label)}.png"
        axial_picture(axial, segment, segments, window, PICTURE_PX).save(path)
        tiles.append(axial_picture(axial, segment, segments, window, TILE_PX))
        written.append(path)
    if segments:
        tiles.append(coronal_picture(axial, segments, window, TILE_PX))
    sheet = folder / "contact_sheet.png"
    contact_sheet(tiles, algorithm, len(segments)).save(sheet)
    return [*written, sheet]


def read_segments(seg_path: Path, axial: hd.Volume) -> tuple[str, list[Drawn]]:
    """Name of the algorithm, and the segments that have voxels.

    Raises
    ------
    NotOnTheseImages
        No permutation, flip or crop brings the SEG onto `axial`.
    """
    seg = hd.seg.segread(seg_path)
    drawn = []
    for number in seg.segment_numbers:
        about = seg.get_segment_description(number)
        own = seg.get_volume(segment_numbers=[number], combine_segments=True, dtype=np.uint8)
        if not own.array.any():
            continue
        mask = _placed(own, axial, str(seg.SOPInstanceUID))
        lab = about.get("RecommendedDisplayCIELabValue", GREY_CIELAB)
        rgb = hd.color.CIELabColor.from_dicom_value(list(lab)).to_rgb(clip=True)
        drawn.append(Drawn(int(number), str(about.SegmentLabel), rgb, mask))
    return str(seg.SegmentSequence[0].get("SegmentAlgorithmName", "")), drawn


def _placed(own: hd.Volume, axial: hd.Volume, sop_instance_uid: str) -> np.ndarray:
    """The mask on the grid of `axial`, bool; refused unless voxel falls on voxel."""
    from_own = np.linalg.inv(axial.affine) @ own.affine
    index = np.argwhere(own.array > 0)
    exact = index @ from_own[:3, :3].T + from_own[:3, 3]
    nearest = np.rint(exact).astype(int)
    same_size = np.allclose(sorted(own.spacing), sorted(axial.spacing), rtol=1e-3)
    inside = ((nearest >= 0) & (nearest < axial.spatial_shape)).all()
    if not (same_size and inside and np.abs(exact - nearest).max() < GRID_TOLERANCE_VOXELS):
        raise NotOnTheseImages(sop_instance_uid, axial.spatial_shape)
    mask = np.zeros(axial.spatial_shape, bool)
    mask[tuple(nearest.T)] = True
    return mask


def axial_picture(
    axial: hd.Volume,
    segment: Drawn,
    segments: Sequence[Drawn],
    window: tuple[float, float],
    side_px: int,
) -> Image.Image:
    """The axial slice where `segment` is largest, the other segments outlined.

    Parameters
    ----------
    axial : highdicom.Volume
        Images, z to the Head, y to the Posterior, x to the Left.
    segment, segments
        The one that is shown filled, and all.
    window : tuple of float
        Black and white value.
    side_px : int
        Width of the picture and height of its image part.

    Returns
    -------
    PIL.Image.Image
        RGB, `side_px` wide, with a header.
    """
    k = int(segment.mask.sum(axis=(1, 2)).argmax())
    plane, spacing_mm = axial.array[k], (axial.spacing[1], axial.spacing[2])
    centre, side_mm = field_of(plane > window[0], segment.mask[k], spacing_mm)
    image = draw_plane(
        to_grey(plane, *window),
        [Mask(s.mask[k], s.colour, FILL_SHARE if s is segment else 0.0) for s in segments],
        square(centre, side_mm, spacing_mm, plane.shape),
        side_px,
    )
    # The reoriented grid may still be oblique: its letters are those of its real directions.
    draw_edges(image, view_of_plane(axial.affine[:3, 2], axial.affine[:3, 1]).edges)
    draw_bar(image, side_mm)
    volume_ml = segment.mask.sum() * axial.voxel_volume / 1000.0
    z_mm = axial.map_indices_to_reference(np.array([[k, *np.argwhere(segment.mask[k]).mean(0)]]))
    detail = (
        f"{volume_ml:.1f} mL   slice {k + 1} of {len(axial.array)} from the feet   "
        f"z {z_mm[0, 2]:+.1f} mm"
    )
    return headed(image, segment.label, detail, segment.colour)


def coronal_picture(
    axial: hd.Volume, segments: Sequence[Drawn], window: tuple[float, float], side_px: int
) -> Image.Image:
    """The coronal plane where segments are largest, each against its own largest."""
    areas = np.stack([s.mask.sum(axis=(0, 2)) for s in segments]).astype(float)
    j = int((areas / areas.max(axis=1, keepdims=True)).sum(axis=0).argmax())
    slice_mm, _, column_mm = axial.spacing
    upright = axial.array[::-1, j]
    every = np.any([s.mask for s in segments], axis=0)
    ends = np.argwhere(every.any(axis=1))[:, [0, 1]]
    middle = (ends.min(axis=0) + ends.max(axis=0)) / 2
    centre = (len(upright) - 1 - middle[0], middle[1])
    spacing_mm = (slice_mm, column_mm)
    image = draw_plane(
        to_grey(upright, *window),
        [Mask(s.mask[::-1, j], s.colour, FILL_SHARE) for s in segments],
        square(centre, CORONAL_MM, spacing_mm, upright.shape),
        side_px,
    )
    draw_edges(image, view_of_plane(axial.affine[:3, 2], -axial.affine[:3, 0]).edges)
    draw_bar(image, CORONAL_MM)
    shown = sum(bool(s.mask[:, j].any()) for s in segments)
    y_mm = axial.map_indices_to_reference(np.array([[middle[0], j, middle[1]]]))[0, 1]
    detail = f"{shown} of {len(segments)} structures in this plane   y {y_mm:+.1f} mm"
    return headed(image, "Coronal view", detail, None)


def contact_sheet(tiles: Sequence[Image.Image], algorithm: str, structures: int) -> Image.Image:
    """All pictures on one page, under a line that says what they are."""
    columns = max(1, min(SHEET_COLUMNS, len(tiles)))
    rows = -(-len(tiles) // columns)
    gap, head = 10, 84
    width = max(columns * (TILE_PX + gap) + gap, 2 * TILE_PX)
    cell_px = max((tile.height for tile in tiles), default=0) + gap
    sheet = Image.new("RGB", (width, head + rows * cell_px), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((gap + 4, 12), f"{structures} structures found by software", INK, font(26, BOLD))
    note = "Not checked by a person. Patient's left is on the right of each picture."
    draw.text((gap + 4, 50), "   ".join(filter(None, (algorithm, note))), PALE, font(16))
    for n, tile in enumerate(tiles):
        at = (gap + n % columns * (TILE_PX + gap), head + n // columns * cell_px)
        sheet.paste(tile, at)
    return sheet


def _slug(label: str) -> str:
    """A file name of a label that someone else may have chosen."""
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")[:60] or "segment"
