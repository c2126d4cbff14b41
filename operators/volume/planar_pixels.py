"""From one frame of a 2D image to the grey picture that a reader sees.

The order is that of PS3.3 C.11 and PS3.4 N.2: palette or colour → grey by luminance;
stored values → Modality LUT → VOI LUT or window → inverted where MONOCHROME1. One frame
is decoded, never the others, and its size is compared with the header before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, apply_modality_lut, as_pixel_options, get_decoder
from pydicom.pixels.utils import get_expected_length

from operators.errors import FileRefusal
from operators.job import Instance
from operators.study.layout import Source, open_pixels
from operators.volume.codestream import codestream_size
from operators.volume.pixels import padding_mask
from operators.volume.planar_refusals import PlanarTooLarge, PlanarUndecodable, PlanarUnsupported

PIXEL_LIMIT = 40_000_000  # of one frame; a mammogram has 20 million
ENCODED_LIMIT_BYTES = 256 << 20  # of one frame, as it stands in the file
WHITE = 255.0
# ITU-R BT.601, as the Y of YBR_FULL (PS3.3 C.7.6.3.1.2).
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
_GREY = ("MONOCHROME1", "MONOCHROME2")
_PALETTE = "PALETTE COLOR"
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def frame_count(header: Dataset) -> int:
    """Number of Frames (0028,0008), 1 where it is absent."""
    return max(int(header.get("NumberOfFrames") or 1), 1)


def read_grey(instance: Instance, frame: int) -> tuple[np.ndarray, np.ndarray | None]:
    """One frame as it is displayed.

    Parameters
    ----------
    instance : Instance
        The image.
    frame : int
        From 0; the image has it.

    Returns
    -------
    grey : numpy.ndarray, shape (rows, columns), float32
        0 (black) to 255 (white).
    padding : numpy.ndarray or None, shape (rows, columns), bool
        True where the source says that there is no image (PixelPaddingValue); black there.

    Raises
    ------
    PlanarTooLarge, PlanarUnsupported, PlanarUndecodable
    """
    header = instance.header
    _check(header, instance.sop_instance_uid)
    stored = _read_frame(instance, frame)
    kind = header.PhotometricInterpretation
    try:
        if kind in _GREY:
            return _grey_values(stored, header)
        return _luminance(apply_color_lut(stored, header) if kind == _PALETTE else stored), None
    except Exception as error:  # tables of any length and type: pydicom raises many kinds
        fault = f"its lookup tables can't be applied ({type(error).__name__})"
        raise PlanarUnsupported(instance.sop_instance_uid, fault) from error


def _check(header: Dataset, sop_uid: str) -> None:
    """Everything that can be told before a pixel is read."""
    rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    if not rows or not columns:
        raise PlanarUnsupported(sop_uid, "it has no Rows and Columns")
    if rows * columns > PIXEL_LIMIT:
        raise PlanarTooLarge(sop_uid, rows, columns, PIXEL_LIMIT)
    kind = str(header.get("PhotometricInterpretation") or "")
    samples = 3 if kind in _COLOUR else 1
    if kind not in (*_GREY, _PALETTE, *_COLOUR) or header.get("SamplesPerPixel") != samples:
        raise PlanarUnsupported(sop_uid, "its Photometric Interpretation is none that is read")
    if header.get("BitsAllocated") not in (8, 16):
        raise PlanarUnsupported(sop_uid, "its pixels have neither 8 nor 16 bits")
    if samples == 3 and header.get("BitsStored") != header.BitsAllocated:
        raise PlanarUnsupported(sop_uid, "its colours do not fill their bits")


def _read_frame(instance: Instance, frame: int) -> np.ndarray:
    """Stored values, shape (rows, columns), or RGB, shape (rows, columns, 3)."""
    header, sop_uid = instance.header, instance.sop_instance_uid
    syntax = header.file_meta.TransferSyntaxUID
    try:
        with open_pixels(instance) as (source, keyword, length):
            if keyword != "PixelData":
                raise PlanarUndecodable(sop_uid, "the object has no integer pixel data")
            encoded = (
                _encapsulated_frame(source, header, frame, sop_uid)
                if syntax.is_encapsulated
                else _native_frame(source, header, frame, length)
            )
    except FileRefusal as refusal:
        raise PlanarUndecodable(sop_uid, refusal.reason) from refusal
    options: dict[str, Any] = as_pixel_options(header, pixel_keyword="PixelData")
    options["number_of_frames"] = 1
    try:
        decoded, _ = get_decoder(syntax).as_array(encoded, index=0, **options)
    except Exception as error:  # decoders are plugins: their errors are of any class
        raise PlanarUndecodable(sop_uid, type(error).__name__) from error
    if decoded.shape[:2] != (header.Rows, header.Columns) or decoded.dtype.kind not in "iu":
        raise PlanarUndecodable(sop_uid, f"the decoder gives {decoded.dtype} {decoded.shape}")
    return decoded


def _encapsulated_frame(source: Source, header: Dataset, frame: int, sop_uid: str) -> bytes:
    try:
        encoded = get_frame(source, frame, number_of_frames=frame_count(header))
    except Exception as error:  # fragments and tables of offsets as a file has them
        raise PlanarUndecodable(sop_uid, f"no frame {frame + 1} in its fragments") from error
    if len(encoded) > ENCODED_LIMIT_BYTES:
        raise PlanarUndecodable(sop_uid, f"{len(encoded)} bytes for one frame")
    whole = encapsulate([encoded])
    size = codestream_size(whole, header.file_meta.TransferSyntaxUID)
    if size is not None and size != (header.Rows, header.Columns):
        found = f"{size[0]} x {size[1]} pixels, not {header.Rows} x {header.Columns}"
        raise PlanarUndecodable(sop_uid, f"the codestream holds {found}")
    return whole


def _native_frame(source: Source, header: Dataset, frame: int, length: int) -> bytes:
    """The bytes of one frame; that all are there was checked when the header was read."""
    one = get_expected_length(header) // frame_count(header)
    source.seek(source.tell() + frame * one)
    encoded = source.read(min(one, length))
    return encoded + b"\0" * (one % 2)


def _luminance(rgb: np.ndarray) -> np.ndarray:
    """RGB of 8 or 16 bits to grey."""
    full = WHITE / (2 ** (8 * rgb.dtype.itemsize) - 1)
    return (rgb @ (_LUMINANCE * np.float32(full))).astype(np.float32)


def _grey_values(stored: np.ndarray, header: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
    padding = padding_mask(stored, header)
    values = np.asarray(apply_modality_lut(stored, header))
    seen = values if padding is None or padding.all() else values[~padding]
    grey = _by_table(values, header)
    if grey is None:
        grey = _by_window(values, header)
    if grey is None or not np.ptp(grey):
        # No window, or one beside all values: dark to bright as they come.
        low, high = float(seen.min()), float(seen.max())
        grey = np.clip((values - low) / max(high - low, 1e-9), 0.0, 1.0)
    grey = (grey * WHITE).astype(np.float32)
    if header.PhotometricInterpretation == "MONOCHROME1":
        grey = np.float32(WHITE) - grey
    if padding is not None:
        grey[padding] = 0.0
    return grey, padding


def _by_table(values: np.ndarray, header: Dataset) -> np.ndarray | None:
    """Through the first item of the VOI LUT Sequence, 0 to 1; None where there is none.

    Not by pydicom's `apply_voi`: it indexes tables of 8 bit entries with 8 bits.

    References
    ----------
    DICOM PS3.3 C.11.2.1.1, VOI LUT.
    """
    if not header.get("VOILUTSequence"):
        return None
    item = header.VOILUTSequence[0]
    entries, first, bits = (int(value) for value in item.LUTDescriptor)
    data = item.LUTData
    if isinstance(data, bytes):
        little = header.file_meta.TransferSyntaxUID.is_little_endian
        data = np.frombuffer(data, "<u2" if little else ">u2")
    table = np.asarray(data, np.float32)[: entries or 2**16]
    place = np.clip(np.rint(values) - first, 0, len(table) - 1).astype(np.intp)
    return np.clip(table[place] / float(2**bits - 1), 0.0, 1.0)


def _by_window(values: np.ndarray, header: Dataset) -> np.ndarray | None:
    """Through the first window, 0 to 1; None where the header has no usable one.

    References
    ----------
    DICOM PS3.3 C.11.2.1.2 Window Center and Window Width, C.11.2.1.3 VOI LUT Function.
    """
    centre, width = _number(header, "WindowCenter"), _number(header, "WindowWidth")
    function = str(header.get("VOILUTFunction") or "LINEAR").upper()
    if centre is None or width is None or width <= 0:
        return None
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(-4.0 * (values - centre) / width))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0.0, 1.0)
    if width <= 1:
        return None
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)


def _number(header: Dataset, keyword: str) -> float | None:
    """The first value of a display hint; a broken one counts as none."""
    try:
        value = header.get(keyword)
        first = value[0] if isinstance(value, MultiValue) else value
        number = float(first)
    except Exception:  # noqa: BLE001  (pydicom raises many kinds for a bad value)
        return None
    return number if np.isfinite(number) else None
