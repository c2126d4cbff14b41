"""From one file to the values of one slice: decoded, masked, rescaled.

Stored values come from pydicom's decoders, which keep only BitsStored bits
(PS3.5 section 8.1.1). Each slice has its own slope and intercept. MONOCHROME1
says how to show values, not what they are: nothing is inverted (PS3.3 C.7.6.3.1.2).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import as_pixel_options, get_decoder
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from operators.errors import FileRefusal
from operators.job import Instance, Unit
from operators.study.layout import Source, open_pixels
from operators.study.refusals import TruncatedFile
from operators.volume.codestream import codestream_size
from operators.volume.refusals import UndecodablePixels, UnsupportedPixels

RESCALE_LIMIT = 1e9
_AIR_HU = -1024
_INT16 = np.iinfo(np.int16)
_PLAIN_SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
_GREY = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class Rescale:
    """Stored value → value: times `slope` plus `intercept` (PS3.3 C.7.6.16.2.9)."""

    slope: float
    intercept: float

    @property
    def integral(self) -> bool:
        """Whether integers stay integers."""
        return self.slope.is_integer() and self.intercept.is_integer()


def read_rescale(header: Dataset, series_uid: str) -> Rescale:
    """Slope and intercept of one slice; 1 and 0 where it has none, as in MR.

    Raises
    ------
    UnsupportedPixels
        A slope of 0, or a number that no modality writes.
    """
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    rescale = Rescale(
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
    )
    if not (0 < abs(rescale.slope) <= RESCALE_LIMIT and abs(rescale.intercept) <= RESCALE_LIMIT):
        fault = f"RescaleSlope {rescale.slope:g} or RescaleIntercept {rescale.intercept:g} is wrong"
        raise UnsupportedPixels(series_uid, str(header.SOPInstanceUID), fault)
    return rescale


def check_supported(header: Dataset, series_uid: str) -> None:
    """One grey value per pixel, and no table between stored value and value.

    Raises
    ------
    UnsupportedPixels
    """
    sop_uid = str(header.SOPInstanceUID)
    if not header.get("Rows") or not header.get("Columns"):
        raise UnsupportedPixels(series_uid, sop_uid, "it has no Rows and Columns")
    if header.get("HighBit") != (header.get("BitsStored") or 0) - 1:
        raise UnsupportedPixels(series_uid, sop_uid, "HighBit is not BitsStored - 1")
    if header.get("SamplesPerPixel") != 1 or header.get("PhotometricInterpretation") not in _GREY:
        raise UnsupportedPixels(series_uid, sop_uid, "its pixels are colours, not values")
    if "ModalityLUTSequence" in header:
        raise UnsupportedPixels(series_uid, sop_uid, "its values need a Modality LUT")


def read_stored(instance: Instance, series_uid: str, room: np.ndarray | None = None) -> np.ndarray:
    """Stored values of one single-frame image.

    Parameters
    ----------
    instance : Instance
        The image.
    series_uid : str
        Only for the message.
    room : numpy.ndarray or None, shape (rows, columns), int16, C-contiguous
        Where the values may be put: those that stand in the file as 16 bits need no
        memory of their own then.

    Returns
    -------
    numpy.ndarray, shape (rows, columns)
        Integers of the type and sign that the header names, unused bits cleared.

    Raises
    ------
    UndecodablePixels
        There are none, or they are not what the header promises.
    """
    header = instance.header
    sop_uid = instance.sop_instance_uid
    try:
        with open_pixels(instance) as (source, keyword, length):
            if keyword != "PixelData":
                fault = "the object has no integer pixel data"
                raise UndecodablePixels(series_uid, sop_uid, fault)
            plain = _plain_type(header, length)
            if plain is not None:
                return _read_plain(source, header, plain, room)
            encoded = source.read(length)
    except FileRefusal as refusal:
        raise UndecodablePixels(series_uid, sop_uid, refusal.reason) from refusal
    return _decode(encoded, header, series_uid)


def _plain_type(header: Dataset, length: int) -> np.dtype | None:
    """Type of values that stand in the file as they will in memory; None for all others.

    Whatever a decoder would refuse, correct or warn of is not plain.
    """
    bits, stored = header.get("BitsAllocated"), header.get("BitsStored") or 0
    if not (
        sys.byteorder == "little"
        and header.file_meta.TransferSyntaxUID in _PLAIN_SYNTAXES
        and bits in (8, 16)
        and 0 < stored <= bits
        and header.get("PixelRepresentation") in (0, 1)
        and header.get("SamplesPerPixel") == 1
        and header.get("NumberOfFrames", 1) == 1
        and header.get("PhotometricInterpretation") in _GREY
        and header.get("Rows")
        and header.get("Columns")
    ):
        return None
    dtype = np.dtype(f"{'ui'[header.PixelRepresentation]}{bits // 8}")
    # One byte more is padding to an even length.
    padding = length - header.Rows * header.Columns * dtype.itemsize
    return dtype if padding in (0, 1) else None


def _read_plain(
    source: Source, header: Dataset, dtype: np.dtype, room: np.ndarray | None
) -> np.ndarray:
    if room is not None and room.dtype.itemsize == dtype.itemsize:
        stored = room.view(dtype)
    else:
        stored = np.empty((header.Rows, header.Columns), dtype)
    found = source.readinto(stored.data.cast("B"))
    if found < stored.nbytes:  # the file was cut while it was open
        raise TruncatedFile("PixelData", stored.nbytes, found)
    if header.BitsStored < 8 * dtype.itemsize:
        np.bitwise_and(stored, (1 << header.BitsStored) - 1, out=stored)
        if dtype.kind == "i":
            # The highest bit in use is the sign and goes into all above it.
            sign = 1 << (header.BitsStored - 1)
            np.bitwise_xor(stored, sign, out=stored)
            np.subtract(stored, sign, out=stored)
    return stored


def _decode(encoded: bytes, header: Dataset, series_uid: str) -> np.ndarray:
    """Stored values of any other encoding, by pydicom's decoders."""
    sop_uid = str(header.SOPInstanceUID)
    syntax = header.file_meta.TransferSyntaxUID
    size = codestream_size(encoded, syntax)
    if size is not None and size != (header.Rows, header.Columns):
        found = f"{size[0]} x {size[1]} pixels, not {header.Rows} x {header.Columns}"
        raise UndecodablePixels(series_uid, sop_uid, f"the codestream holds {found}")
    try:
        options = as_pixel_options(header, pixel_keyword="PixelData")
        stored, _ = get_decoder(syntax).as_array(encoded, raw=True, **options)
    except Exception as error:  # decoders are plugins: their errors are of any class
        raise UndecodablePixels(series_uid, sop_uid, type(error).__name__) from error
    if stored.shape != (header.Rows, header.Columns) or stored.dtype.kind not in "iu":
        found = f"{stored.dtype} {stored.shape}"
        raise UndecodablePixels(series_uid, sop_uid, f"the decoder gives {found}")
    return stored


def outside_value(unit: Unit) -> int:
    """The value where there is no image: air, or 0 where the unit has no air."""
    return _AIR_HU if unit == "HU" else 0


def padding_mask(stored: np.ndarray, header: Dataset) -> np.ndarray | None:
    """Where the source says that there is no tissue; None where nowhere.

    References
    ----------
    DICOM PS3.3 C.7.5.1.1.2, Pixel Padding Value and Pixel Padding Range Limit.
    """
    padding = header.get("PixelPaddingValue")
    if padding is None:
        return None
    limit = header.get("PixelPaddingRangeLimit")
    ends = [_as_stored(value, stored.dtype) for value in (padding, limit) if value is not None]
    mask = (stored >= min(ends)) & (stored <= max(ends))
    return mask if mask.any() else None


def _as_stored(value: int, dtype: np.dtype) -> int:
    """A padding value in the sign of the pixels: writers often take the wrong VR (US, SS)."""
    bits = 8 * dtype.itemsize
    unsigned = int(value) % 2**bits
    return unsigned - 2**bits if dtype.kind == "i" and unsigned >= 2 ** (bits - 1) else unsigned


def fits_int16(stored: np.ndarray, rescale: Rescale, mask: np.ndarray | None) -> bool:
    """Whether all values outside the padding are int16 after an integral rescale."""
    if not rescale.integral:
        return False
    tissue = stored if mask is None else stored[~mask]
    if tissue.size == 0:
        return True
    ends = [int(end) * rescale.slope + rescale.intercept for end in (tissue.min(), tissue.max())]
    return _INT16.min <= min(ends) and max(ends) <= _INT16.max


def write_values(
    stored: np.ndarray, rescale: Rescale, mask: np.ndarray | None, air: int, out: np.ndarray
) -> None:
    """Rescale one slice into its place in a volume.

    Parameters
    ----------
    stored : numpy.ndarray, shape (rows, columns)
        Stored values, integers.
    rescale : Rescale
        Of this slice.
    mask : numpy.ndarray or None, shape (rows, columns), bool
        True where `air` stands for the value.
    air : int
        Value without tissue, in the unit of the volume.
    out : numpy.ndarray, shape (rows, columns), int16 or float32
        Written to. int16 only where `fits_int16`; may be the memory of `stored`.
    """
    if out.dtype == np.int16:
        # Modulo 2**16: the values fit, so what wraps on the way wraps back.
        native = stored.itemsize == 2 and stored.dtype.isnative
        values = stored.view(np.int16) if native else stored.astype(np.int16)
        if rescale.slope != 1:
            values = np.multiply(values, _modulo(rescale.slope), out=out)
        np.add(values, _modulo(rescale.intercept), out=out)
    else:
        out[...] = stored * rescale.slope + rescale.intercept
    if mask is not None:
        out[mask] = air


def _modulo(value: float) -> np.int16:
    """An integer, modulo 2**16."""
    return np.int16((int(value) - _INT16.min) % 2**16 + _INT16.min)
