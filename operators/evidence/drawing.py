"""Planes of pixels as pictures for readers: masks in colours, letters at the edges, lines of text.

The one home of what key images, the PDF's pictures and the demo's overlays draw. It
knows pixels and texts only: what is shown, and what the letters are, is for who calls.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Colour = tuple[int, int, int]
Edges = tuple[float, float, float, float]
"""Top, left, bottom, right of a rectangle of pixels; the first pixel spans 0 to 1."""

PAPER: Colour = (16, 18, 22)
INK: Colour = (236, 238, 242)
PALE: Colour = (158, 164, 174)
BLACK: Colour = (0, 0, 0)
OUTLINE_PX = 2
HEADER_PX = 68
BAR_MM = 50.0
FIELD_MM = (150.0, 260.0)
MARGIN_MM = 16.0
# A subset of DejaVu Sans (fonts/LICENSE): the same typeface on every machine, with the
# letters of European languages and the signs that measurements need.
FONTS = Path(__file__).with_name("fonts")
REGULAR, BOLD = FONTS / "DejaVuSans.ttf", FONTS / "DejaVuSans-Bold.ttf"
_UNKNOWN = "?"


@dataclass(frozen=True)
class Mask:
    """A structure in one plane.

    Attributes
    ----------
    inside : numpy.ndarray, shape (rows, columns), bool
        Its pixels.
    colour : Colour
        Of the outline, in full.
    share : float
        How much of the colour goes into the inside, 0 to 1.
    """

    inside: np.ndarray
    colour: Colour
    share: float


@functools.cache
def font(size: int, face: Path = REGULAR) -> ImageFont.FreeTypeFont:
    """The typeface at a size, pixels."""
    return ImageFont.truetype(face, size)


@functools.cache
def advances(face: Path = REGULAR) -> dict[int, float]:
    """Width of every letter that the typeface has, by code point, in units of its size."""
    from fontTools.ttLib import TTFont

    with TTFont(face, lazy=True) as opened:
        widths, per_em = opened["hmtx"], opened["head"].unitsPerEm
        return {code: widths[name][0] / per_em for code, name in opened.getBestCmap().items()}


def printable(text: str, instead: str = "") -> str:
    """`text` as the typeface can print it.

    >>> printable("Ωμος 12 µm"), printable("肝臓", "liver"), printable("a肝")
    ('Ωμος 12 µm', 'liver', 'a?')

    Parameters
    ----------
    text : str
        Any text; line breaks become blanks.
    instead : str
        Printed where the typeface lacks a letter of `text`; else only that letter is
        replaced, by a question mark.
    """
    text = " ".join(text.split())
    if all(ord(letter) in advances() for letter in text):
        return text
    if instead:
        return printable(instead)
    return "".join(letter if ord(letter) in advances() else _UNKNOWN for letter in text)


def shortened(text: str, drawn_with: ImageFont.FreeTypeFont, width_px: float) -> str:
    """`text`, cut off with an ellipsis where it is wider than `width_px`."""
    if drawn_with.getlength(text) <= width_px:
        return text
    while text and drawn_with.getlength(text + "…") > width_px:
        text = text[:-1].rstrip()
    return text + "…"


def field_of(
    body: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, float]
) -> tuple[tuple[float, float], float]:
    """Middle (row, column) and side, mm, of the square that shows a structure in its body.

    Parameters
    ----------
    body : numpy.ndarray, shape (rows, columns), bool
        What is not air; the part that the structure lies in counts.
    mask : numpy.ndarray, shape (rows, columns), bool
        The structure, with at least one pixel; all of it is shown.
    spacing_mm : tuple of float
        Between rows, between columns.
    """
    parts, _ = ndimage.label(ndimage.binary_opening(body, iterations=2))
    if parts[mask].any():
        body = parts == np.bincount(parts[mask & (parts > 0)]).argmax()
    on = np.argwhere(body | mask)
    low, high = on.min(axis=0), on.max(axis=0) + 1
    least = min(FIELD_MM[0], float(np.multiply(mask.shape, spacing_mm).max()))
    side_mm = float(np.clip(((high - low) * spacing_mm).max() + MARGIN_MM, least, FIELD_MM[1]))
    organ = np.argwhere(mask)
    first, last = organ.min(axis=0), organ.max(axis=0) + 1
    needed_mm = float(((last - first) * spacing_mm).max()) + MARGIN_MM
    side_mm = max(side_mm, needed_mm)
    fits = (high - low) * spacing_mm <= side_mm
    centre = np.where(fits, (low + high - 1) / 2, (first + last - 1) / 2)
    return (float(centre[0]), float(centre[1])), side_mm


def square(
    centre: tuple[float, float],
    side_mm: float,
    spacing_mm: tuple[float, float],
    shape: tuple[int, ...],
) -> Edges:
    """A square round `centre` (row, column), moved into the image where it fits."""
    edges = []
    for middle, step, size in zip(centre, spacing_mm, shape, strict=True):
        length = side_mm / step
        start = middle + 0.5 - length / 2
        start = min(max(start, 0.0), size - length) if length <= size else (size - length) / 2
        edges.append((start, start + length))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]


def draw_plane(grey: np.ndarray, masks: Sequence[Mask], box: Edges, side_px: int) -> Image.Image:
    """A square cut out of one plane, with masks filled and outlined.

    Parameters
    ----------
    grey : numpy.ndarray, shape (rows, columns), uint8
        Grey levels.
    masks : sequence of Mask
        Of the same shape; later ones are drawn over earlier ones.
    box : Edges
        What of the plane is shown; it may reach beyond it, where it is black.
    side_px : int
        Side of the result; the box is square in mm, so its pixels need not be.
    """
    canvas = _cut(grey, box, side_px, Image.Resampling.BICUBIC)
    rgb = np.repeat(canvas[:, :, None], 3, axis=2).astype(np.float32)
    for mask in masks:
        if not mask.inside.any():
            continue
        flat = mask.inside.astype(np.uint8) * 255
        inside = _cut(flat, box, side_px, Image.Resampling.BILINEAR) > 127
        outline = inside & ~ndimage.binary_erosion(inside, iterations=OUTLINE_PX, border_value=1)
        rgb[inside] = (1 - mask.share) * rgb[inside] + mask.share * np.array(mask.colour)
        rgb[outline] = mask.colour
    return Image.fromarray(np.rint(rgb).astype(np.uint8))


def _cut(pixels: np.ndarray, box: Edges, side_px: int, resample: Image.Resampling) -> np.ndarray:
    """`box` of an 8-bit plane, brought to `side_px` × `side_px`; 0 outside the plane."""
    top, left, bottom, right = box
    extent = (left, top, right, bottom)
    cut = Image.fromarray(np.ascontiguousarray(pixels)).transform(
        (side_px, side_px), Image.Transform.EXTENT, extent, resample
    )
    return np.asarray(cut)


def draw_edges(image: Image.Image, letters: Sequence[str]) -> None:
    """Write directions at the left, right, top and bottom edge of a square, in place."""
    side = image.width
    draw = ImageDraw.Draw(image)
    large = font(max(18, side // 22), BOLD)
    inset = side // 40
    for text, at, anchor in zip(
        letters,
        ((inset, side / 2), (side - inset, side / 2), (side / 2, inset), (side / 2, side - inset)),
        ("lm", "rm", "ma", "md"),
        strict=True,
    ):
        draw.text(at, text, INK, large, anchor=anchor, stroke_width=3, stroke_fill=BLACK)


def draw_bar(image: Image.Image, side_mm: float) -> None:
    """Draw a bar of 50 mm, or 10 mm in small fields, at the lower right of a square."""
    side = image.width
    draw = ImageDraw.Draw(image)
    length_mm = BAR_MM if side_mm >= 2 * BAR_MM else BAR_MM / 5
    inset = side // 40
    y, right = side - inset - 2, side - inset
    draw.line([(right - length_mm / side_mm * side, y), (right, y)], INK, 3)
    draw.text(
        (right, y - 5),
        f"{length_mm:.0f} mm",
        INK,
        font(max(13, side // 40)),
        anchor="rd",
        stroke_width=2,
        stroke_fill=BLACK,
    )


def headed(image: Image.Image, title: str, detail: str, colour: Colour | None) -> Image.Image:
    """The picture under a line with the structure's name and colour, and its numbers."""
    out = Image.new("RGB", (image.width, image.height + HEADER_PX), PAPER)
    out.paste(image, (0, HEADER_PX))
    draw = ImageDraw.Draw(out)
    left = 12
    if colour is not None:
        draw.rounded_rectangle((left, 14, left + 20, 34), 4, colour)
        left += 30
    large, small = font(22, BOLD), font(15)
    draw.text((left, 24), shortened(title, large, out.width - left - 8), INK, large, anchor="lm")
    draw.text((12, 51), shortened(detail, small, out.width - 20), PALE, small, anchor="lm")
    return out
