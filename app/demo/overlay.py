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
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from operators.errors import EvidenceRefusal

SOFT_TISSUE_HU = (-160.0, 240.0)
FILL_SHARE = 0.5
OUTLINE_PX = 2
GRID_TOLERANCE_VOXELS = 0.1
GREY_CIELAB = (43908, 32896, 32896)

PICTURE_PX = 800
TILE_PX = 440
HEADER_PX = 68
SHEET_COLUMNS = 4
FIELD_MM = (150.0, 260.0)
CORONAL_MM = 320.0
PAPER = (16, 18, 22)
INK = (236, 238, 242)
PALE = (150, 156, 166)


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
    _, row_mm, column_mm = axial.spacing
    plane = axial.array[k]
    box = _field(plane > window[0], segment.mask[k], (row_mm, column_mm))
    image = _plane(
        plane,
        [(s.mask[k], s.colour, FILL_SHARE if s is segment else 0.0) for s in segments],
        box,
        window,
        side_px,
    )
    _marks(image, box, column_mm, "RLAP")
    volume_ml = segment.mask.sum() * axial.voxel_volume / 1000.0
    z_mm = axial.map_indices_to_reference(np.array([[k, *np.argwhere(segment.mask[k]).mean(0)]]))
    detail = (
        f"{volume_ml:.1f} mL   slice {k + 1} of {len(axial.array)} from the feet   "
        f"z {z_mm[0, 2]:+.1f} mm"
    )
    return _headed(image, segment.label, detail, segment.colour)


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
    box = _square(centre, CORONAL_MM, (slice_mm, column_mm), upright.shape)
    image = _plane(
        upright,
        [(s.mask[::-1, j], s.colour, FILL_SHARE) for s in segments],
        box,
        window,
        side_px,
    )
    _marks(image, box, column_mm, "RLHF")
    shown = sum(bool(s.mask[:, j].any()) for s in segments)
    y_mm = axial.map_indices_to_reference(np.array([[middle[0], j, middle[1]]]))[0, 1]
    detail = f"{shown} of {len(segments)} structures in this plane   y {y_mm:+.1f} mm"
    return _headed(image, "Coronal view", detail, None)


def contact_sheet(tiles: Sequence[Image.Image], algorithm: str, structures: int) -> Image.Image:
    """All pictures on one page, under a line that says what they are."""
    columns = max(1, min(SHEET_COLUMNS, len(tiles)))
    rows = -(-len(tiles) // columns)
    gap, head = 10, 84
    width = max(columns * (TILE_PX + gap) + gap, 2 * TILE_PX)
    cell_px = max((tile.height for tile in tiles), default=0) + gap
    sheet = Image.new("RGB", (width, head + rows * cell_px), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((gap + 4, 12), f"{structures} structures found by software", INK, _font(28))
    note = "Not checked by a person. Patient's left is on the right of each picture."
    draw.text((gap + 4, 50), "   ".join(filter(None, (algorithm, note))), PALE, _font(17))
    for n, tile in enumerate(tiles):
        at = (gap + n % columns * (TILE_PX + gap), head + n // columns * cell_px)
        sheet.paste(tile, at)
    return sheet


def _field(
    body: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Square to show of one axial slice: the body, or as much of it as is useful."""
    parts, _ = ndimage.label(ndimage.binary_opening(body, iterations=2))
    if parts[mask].any():
        body = parts == np.bincount(parts[mask & (parts > 0)]).argmax()
    on = np.argwhere(body | mask)
    low, high = on.min(axis=0), on.max(axis=0) + 1
    side_mm = float(np.clip(((high - low) * spacing_mm).max() + 16.0, *FIELD_MM))
    organ = np.argwhere(mask).mean(axis=0)
    fits = (high - low) * spacing_mm <= side_mm
    centre = np.where(fits, (low + high - 1) / 2, organ)
    return _square((centre[0], centre[1]), side_mm, spacing_mm, body.shape)


def _square(
    centre: tuple[float, float],
    side_mm: float,
    spacing_mm: tuple[float, float],
    shape: tuple[int, ...],
) -> tuple[float, float, float, float]:
    """Pixel edges (top, left, bottom, right) of a square, moved into the image where it fits."""
    edges = []
    for middle, step, size in zip(centre, spacing_mm, shape, strict=True):
        length = side_mm / step
        start = middle + 0.5 - length / 2
        start = min(max(start, 0.0), size - length) if length <= size else (size - length) / 2
        edges.append((start, start + length))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]


def _plane(
    plane: np.ndarray,
    masks: Sequence[tuple[np.ndarray, tuple[int, int, int], float]],
    box: tuple[float, float, float, float],
    window: tuple[float, float],
    side_px: int,
) -> Image.Image:
    """A square cut out of one plane, windowed, with masks filled and outlined.

    Parameters
    ----------
    plane : numpy.ndarray, shape (rows, columns)
        Values.
    masks : sequence of (bool array, colour, share)
        Same shape; `share` of the colour goes into the inside, the outline is full.
    box : tuple of float
        Top, left, bottom, right, as pixel edges (the first pixel spans 0 to 1).
    window : tuple of float
        Black and white value.
    side_px : int
        Side of the result.
    """
    black, white = window
    grey = np.clip((plane.astype(np.float32) - black) / (white - black), 0, 1) * 255
    canvas = _cut(grey.astype(np.uint8), box, side_px, Image.Resampling.BICUBIC)
    rgb = np.repeat(canvas[:, :, None], 3, axis=2).astype(np.float32)
    for mask, colour, share in masks:
        inside = _cut(mask.astype(np.uint8) * 255, box, side_px, Image.Resampling.BILINEAR) > 127
        outline = inside & ~ndimage.binary_erosion(inside, iterations=OUTLINE_PX, border_value=1)
        rgb[inside] = (1 - share) * rgb[inside] + share * np.array(colour, np.float32)
        rgb[outline] = colour
    return Image.fromarray(np.rint(rgb).astype(np.uint8))


def _cut(
    pixels: np.ndarray,
    box: tuple[float, float, float, float],
    side_px: int,
    resample: Image.Resampling,
) -> np.ndarray:
    """`box` of an 8-bit plane, brought to `side_px` × `side_px`; 0 outside the plane."""
    top, left, bottom, right = box
    extent = (left, top, right, bottom)
    cut = Image.fromarray(pixels).transform(
        (side_px, side_px), Image.Transform.EXTENT, extent, resample
    )
    return np.asarray(cut)


def _marks(
    image: Image.Image, box: tuple[float, float, float, float], column_mm: float, letters: str
) -> None:
    """Write the directions at the edges (left, right, top, bottom) and a 50 mm bar."""
    side = image.width
    draw = ImageDraw.Draw(image)
    font = _font(max(18, side // 26))
    inset = side // 40
    for letter, at, anchor in zip(
        letters,
        ((inset, side / 2), (side - inset, side / 2), (side / 2, inset), (side / 2, side - inset)),
        ("lm", "rm", "ma", "md"),
        strict=True,
    ):
        draw.text(at, letter, INK, font, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))
    bar = 50.0 / column_mm / (box[3] - box[1]) * side
    y, right = side - inset - 2, side - inset
    draw.line([(right - bar, y), (right, y)], INK, 3)
    small = _font(max(13, side // 46))
    draw.text((right - bar / 2, y - 5), "50 mm", INK, small, anchor="md")


def _headed(
    image: Image.Image, title: str, detail: str, colour: tuple[int, int, int] | None
) -> Image.Image:
    """The picture under a line with the structure's name and colour, and its numbers."""
    out = Image.new("RGB", (image.width, image.height + HEADER_PX), PAPER)
    out.paste(image, (0, HEADER_PX))
    draw = ImageDraw.Draw(out)
    left = 12
    if colour is not None:
        draw.rounded_rectangle((left, 13, left + 20, 33), 4, colour)
        left += 30
    draw.text((left, 23), title, INK, _font(24), anchor="lm")
    draw.text((12, 51), detail, PALE, _font(16), anchor="lm")
    return out


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface: the same on every machine."""
    return ImageFont.load_default(size)


def _slug(label: str) -> str:
    """A file name of a label that someone else may have chosen."""
    return re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")[:60] or "segment"
