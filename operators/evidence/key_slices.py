"""Pictures of what was found: each structure in the source slice where it is largest.

Slices are shown as they were acquired, none is interpolated between others, so that a
reader finds the same image in the series. Pure: a report in, pictures out; nothing of
the patient is drawn but the pixels and the structures' names and sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from operators.evidence.drawing import (
    BOLD,
    HEADER_PX,
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
    printable,
    shortened,
    square,
)
from operators.evidence.grey import to_grey, window_of
from operators.evidence.orientation import View, view_of
from operators.job import Finding, Report, Volume

SINGLE_PX = 820
TILE_PX = 440
TILES_PER_PAGE = 12
COLUMNS = 4
MAX_PAGES = 4
FILL_SHARE = 0.35
NOTE = "Found by software, not checked by a person. Research only, not for diagnosis."
SIDES_UNKNOWN = "Left and right are not marked: the image does not say."
_GAP_PX = 10
_HEAD_PX = 96
_FOOT_PX = 34
_AMBER = (240, 190, 90)


@dataclass(frozen=True)
class KeySlice:
    """The slice where a structure's cross-section is largest.

    Attributes
    ----------
    finding : Finding
        The structure.
    k : int
        Index of the slice; the first of several that are equally large.
    """

    finding: Finding
    k: int


@dataclass(frozen=True)
class KeyPage:
    """One picture of several structures, or a large one of one.

    Attributes
    ----------
    image : PIL.Image.Image
        RGB.
    slices : tuple of KeySlice
        What is shown, in reading order.
    """

    image: Image.Image
    slices: tuple[KeySlice, ...]


def key_slices(report: Report, counts: np.ndarray) -> list[KeySlice]:
    """Where each structure that was found is best seen.

    Parameters
    ----------
    report : Report
        A segmentation with its findings.
    counts : numpy.ndarray, shape (slices, highest segment number + 1)
        From `operators.findings.tally`.

    Returns
    -------
    list of KeySlice
        Structures that a guideline has something to say about first, then the report's order.
    """
    found = [finding for finding in report.findings if finding.voxels]
    found.sort(key=lambda finding: not finding.rules)  # stable
    return [KeySlice(one, int(counts[:, one.segment.number].argmax())) for one in found]


def key_pages(report: Report, slices: Sequence[KeySlice]) -> list[KeyPage]:
    """Everything as few pictures: a large one of one structure, else twelve on a page.

    Parameters
    ----------
    report : Report
        The report that `slices` are of.
    slices : sequence of KeySlice
        From `key_slices`.

    Returns
    -------
    list of KeyPage
        At most `MAX_PAGES`; the last one says how many structures no page shows.
    """
    shown = list(slices[: MAX_PAGES * TILES_PER_PAGE])
    # As even as can be: thirteen are seven and six, not twelve and a lost one.
    pages = -(-len(shown) // TILES_PER_PAGE)
    return [
        _page(report, part, len(slices) - len(shown) if number == pages - 1 else 0)
        for number, part in enumerate(_split(shown, pages))
    ]


def _split(slices: Sequence[KeySlice], parts: int) -> list[Sequence[KeySlice]]:
    bounds = [round(n * len(slices) / parts) for n in range(parts + 1)] if parts else []
    return [slices[start:end] for start, end in itertools.pairwise(bounds)]


def _page(report: Report, slices: Sequence[KeySlice], left_out: int) -> KeyPage:
    columns = min(COLUMNS, len(slices)) if len(slices) != 4 else 2
    side_px = SINGLE_PX if len(slices) == 1 else TILE_PX
    rows = -(-len(slices) // columns)
    cell = (side_px + _GAP_PX, side_px + HEADER_PX + _GAP_PX)
    width = max(columns * cell[0] + _GAP_PX, SINGLE_PX + 2 * _GAP_PX)
    page = Image.new("RGB", (width, _HEAD_PX + rows * cell[1] + _FOOT_PX), PAPER)
    outlined = [one.finding for one in slices]
    for number, one in enumerate(slices):
        tile = key_tile(report, one, outlined, side_px)
        page.paste(
            tile, (_GAP_PX + number % columns * cell[0], _HEAD_PX + number // columns * cell[1])
        )
    _page_texts(page, report, left_out)
    return KeyPage(page, tuple(slices))


def _page_texts(page: Image.Image, report: Report, left_out: int) -> None:
    """Title, note and quality above the tiles; the model below them."""
    draw = ImageDraw.Draw(page)
    volume, model = report.segmentation.volume, report.segmentation.model
    width = page.width - 2 * _GAP_PX - 8
    left = _GAP_PX + 4
    notes = [flag.text for flag in volume.quality]
    if not all(view_of(volume).edges):
        notes.insert(0, SIDES_UNKNOWN)
    lines = [
        (12, "AI segmentation: key images", INK, font(24, BOLD)),
        (44, NOTE, PALE, font(16)),
        (68, " · ".join(notes), _AMBER, font(16)),
    ]
    foot = f"{model.name} {model.version} · weights sha256 {model.weights_sha256[:16] or 'none'}"
    if left_out:
        foot += f" · {left_out} more structures are in the segmentation only"
    lines.append((page.height - _FOOT_PX + 6, foot, PALE, font(15)))
    for top, text, colour, face in lines:
        draw.text((left, top), shortened(printable(text), face, width), colour, face)


def key_tile(
    report: Report, shown: KeySlice, outlined: Sequence[Finding], side_px: int
) -> Image.Image:
    """One slice under its structure's name, colour and size.

    Parameters
    ----------
    report : Report
        What the slice is of.
    shown : KeySlice
        The structure that is filled.
    outlined : sequence of Finding
        Others that are outlined; each must be named beside the tile.
    side_px : int
        Width of the picture; `HEADER_PX` are added to its height.
    """
    finding, volume = shown.finding, report.segmentation.volume
    image, window = key_picture(report, shown, outlined, side_px)
    view = view_of(volume)
    where = f"{view.name} image {image_number(volume, shown.k)}".strip()
    detail = " · ".join(filter(None, (size_in_words(finding), where, _window_text(volume, window))))
    label = printable(finding.segment.label, finding.segment.name)
    return headed(image, label, detail, finding.segment.colour_rgb)


def key_picture(
    report: Report, shown: KeySlice, outlined: Sequence[Finding], side_px: int
) -> tuple[Image.Image, tuple[float, float]]:
    """The picture of a tile, square, without its head; and which values are black and white."""
    segmentation = report.segmentation
    volume, k, number = segmentation.volume, shown.k, shown.finding.segment.number
    view = view_of(volume)
    stored = volume.array[k]
    window = (
        (0.0, 255.0)
        if volume.plane is not None
        else window_of(stored, volume.unit, volume.headers[k], mean=shown.finding.mean)
    )
    plane = view.turn(stored)
    spacing_mm = (view.row_mm or 1.0, view.column_mm or 1.0)
    inside = view.turn(segmentation.mask(number, k))
    centre, side_mm = _field(volume, view, plane, inside, window)
    masks = [
        Mask(view.turn(segmentation.mask(other.segment.number, k)), other.segment.colour_rgb, 0.0)
        for other in outlined
        if other.segment.number != number
    ]
    masks.append(Mask(inside, shown.finding.segment.colour_rgb, FILL_SHARE))
    box = square(centre, side_mm, spacing_mm, plane.shape)
    image = draw_plane(to_grey(plane, *window), masks, box, side_px)
    draw_edges(image, view.edges)
    if view.row_mm is not None and volume.plane is None:
        draw_bar(image, side_mm)  # of a projection no length holds everywhere
    return image, window


def _field(
    volume: Volume, view: View, plane: np.ndarray, inside: np.ndarray, window: tuple[float, float]
) -> tuple[tuple[float, float], float]:
    """Middle and side of what is shown: a 2D image whole, a slice as far as it is useful."""
    spacing_mm = (view.row_mm or 1.0, view.column_mm or 1.0)
    if volume.plane is not None:
        middle = ((plane.shape[0] - 1) / 2, (plane.shape[1] - 1) / 2)
        return middle, float(np.multiply(plane.shape, spacing_mm).max())
    return field_of(plane > window[0], inside, spacing_mm)


def image_number(volume: Volume, k: int) -> str:
    """What a viewer calls the slice: its Instance Number, else its place from 1."""
    number = volume.headers[k].get("InstanceNumber")
    if volume.plane is not None and volume.plane.frame is not None:
        return f"{number or 1}, frame {volume.plane.frame}"
    multiframe = len({*volume.source_sop_uids}) < len(volume.headers)
    return str(k + 1 if number is None or multiframe else number)


def size_in_words(finding: Finding) -> str:
    """Volume of a structure; of a 2D image its area, or pixels where its scale is unknown."""
    if not finding.voxels:
        return "not found"
    if finding.volume_ml is not None:
        return f"{finding.volume_ml:.{2 if finding.volume_ml < 10 else 1}f} mL"
    if finding.area_mm2 is not None:
        return f"{finding.area_mm2:.4g} mm²"
    return f"{finding.voxels} pixels"


def _window_text(volume: Volume, window: tuple[float, float]) -> str:
    """Which values are black and white, where they have a unit."""
    if volume.unit == "arbitrary":
        return ""
    return f"{window[0]:.0f} to {window[1]:.0f} {volume.unit}".replace("-", "−")
