"""Pixels as a new 8-bit PNG that holds nothing else, and bounded decoding of a caller's picture.

The output is drawn from an array, so no header, profile, text chunk or file name of the
source can be in it. What is drawn into the pixels themselves is for `guard` to judge.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from pydicom.dataset import Dataset

from operators.errors import Refusal
from operators.evidence.grey import TAILS_PERCENT, header_window, to_grey
from operators.job import Instance, Series
from operators.volume.pixels import check_supported, padding_mask, read_rescale, read_stored

FORMATS = ("PNG", "JPEG", "TIFF")
PIXEL_LIMIT = 40_000_000  # a mammogram has 20 million
LONGEST_SIDE = 1024
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # TIFF 6.0, section 4
_MOST_ASPECT = 10.0


class PictureUnusable(Refusal):
    """A PNG or JPEG that can't be decoded within bounds."""

    code = "RL-1430"


def check_picture(path: Path) -> None:
    """Decode a PNG, JPEG or TIFF to its end.

    Raises
    ------
    PictureUnusable
        None of them, several pages, cut, broken, or of more than `PIXEL_LIMIT` pixels.
    """
    _decoded(path)


def picture_png(path: Path) -> bytes:
    """A caller's PNG or JPEG, drawn anew.

    Returns
    -------
    bytes
        PNG, 8 bit, grey or RGB, longest side at most `LONGEST_SIDE` pixels.

    Raises
    ------
    PictureUnusable
        See `check_picture`.
    """
    image = _decoded(path)
    if _is_deep(image):
        values = np.asarray(image, np.float64)
        return _png(to_grey(values, *np.percentile(values, TAILS_PERCENT)), 1.0)
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        # What is invisible in the picture must not become visible by dropping its alpha.
        opaque = Image.new("RGBA", image.size, (0, 0, 0, 255))
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return _png(np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB")), 1.0)


def grey_picture(path: Path) -> np.ndarray:
    """A caller's picture as grey levels, full size.

    Returns
    -------
    numpy.ndarray, shape (rows, columns), uint8
        By luminance (ITU-R BT.601); more than 8 bits from its darkest to its brightest.

    Raises
    ------
    PictureUnusable
        See `check_picture`.
    """
    image = _decoded(path)
    if _is_deep(image):
        values = np.asarray(image, np.float64)
        return to_grey(values, float(values.min()), float(values.max()))
    return np.asarray(image.convert("L"))


def key_image(series: Series) -> Instance:
    """The middle slice along the normal; by Instance Number where slices have no place.

    References
    ----------
    DICOM PS3.3 C.7.6.2.1.1, Image Position and Image Orientation.
    """
    slices = sorted(series.instances, key=lambda instance: _place(instance.header))
    return slices[len(slices) // 2]


def key_image_png(instance: Instance) -> bytes:
    """One DICOM slice as a PNG: rescaled, windowed, white where dense, square pixels.

    Parameters
    ----------
    instance : Instance
        Single-frame, one grey value per pixel.

    Returns
    -------
    bytes
        PNG, 8 bit grey, longest side at most `LONGEST_SIDE` pixels.

    Raises
    ------
    VolumeRefusal
        Colours, several frames, a lookup table, or pixels that can't be decoded.

    References
    ----------
    DICOM PS3.3 C.11.2.1.2, Window Center and Window Width; C.7.6.3.1.2, MONOCHROME1.
    """
    header = instance.header
    series_uid = str(header.SeriesInstanceUID)
    check_supported(header, series_uid)
    rescale = read_rescale(header, series_uid)
    stored = read_stored(instance, series_uid)
    values = stored * rescale.slope + rescale.intercept
    padding = padding_mask(stored, header)
    tissue = values if padding is None or padding.all() else values[~padding]
    low, high = header_window(header) or np.percentile(tissue, TAILS_PERCENT)
    grey = to_grey(values, float(low), float(high))
    if header.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    if padding is not None:
        grey[padding] = 0
    return _png(grey, _row_to_column_mm(header))


def _decoded(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            width, height = image.size
            if width * height > PIXEL_LIMIT:
                raise PictureUnusable(
                    f"{width} x {height} pixels (limit {PIXEL_LIMIT}). Send it smaller."
                )
            if getattr(image, "n_frames", 1) > 1:
                raise PictureUnusable("several pages. Send one picture.")
            image.load()
            # Pillow turns 8 bit pictures of this kind over by itself, deeper ones it does not.
            white_is_zero = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
            upright = ImageOps.exif_transpose(image)
            return _deep(upright, white_is_zero=white_is_zero) if _is_deep(upright) else upright
    except PictureUnusable:
        raise
    except Exception as error:  # decoders raise whatever they like for what is broken
        raise PictureUnusable("no sound PNG, JPEG or TIFF. Export it again.") from error


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith(("I", "F"))


def _deep(image: Image.Image, *, white_is_zero: bool) -> Image.Image:
    """The same values as floats, brighter where larger."""
    values = np.asarray(image, np.float32)
    if not np.isfinite(values).all():
        raise PictureUnusable("values that are no numbers. Export it again.")
    return Image.fromarray(-values if white_is_zero else values)


def _row_to_column_mm(header: Dataset) -> float:
    """Distance between rows over distance between columns; 1 where unknown or absurd."""
    spacing = header.get("PixelSpacing") or header.get("ImagerPixelSpacing") or (1, 1)
    try:
        rows_mm, columns_mm = (float(value) for value in spacing)
        ratio = rows_mm / columns_mm
    except (TypeError, ValueError, ZeroDivisionError):
        return 1.0
    return ratio if 1 / _MOST_ASPECT <= ratio <= _MOST_ASPECT else 1.0


def _png(pixels: np.ndarray, row_to_column: float) -> bytes:
    """Encode an array of shape (rows, columns) or (rows, columns, 3), uint8."""
    rows, columns = pixels.shape[0] * row_to_column, float(pixels.shape[1])
    factor = min(1.0, LONGEST_SIDE / max(rows, columns))
    size = (max(1, round(columns * factor)), max(1, round(rows * factor)))
    image = Image.fromarray(pixels)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _place(header: Dataset) -> tuple[float, float]:
    """Distance along the normal, mm, then Instance Number."""
    number = header.get("InstanceNumber")
    position: Sequence[float] | None = header.get("ImagePositionPatient")
    orientation = header.get("ImageOrientationPatient")
    if not position or not orientation or len(position) != 3 or len(orientation) != 6:
        return 0.0, float(number or 0)
    axes = np.asarray(orientation, float)
    return float(np.cross(axes[:3], axes[3:]) @ np.asarray(position, float)), float(number or 0)
