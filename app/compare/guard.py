"""Which images may leave the house. In doubt, none.

Headers never leave; the danger is text that is drawn into the pixels. A scanner's own
CT and MR slices hold none; whatever else there is must say so in its header, and a
picture without a header needs its sender's word.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage

from operators.job import Series

# Slices that a scanner computes from its raw data; text in the pixels would be noise to it.
_SCANNED = frozenset({("CT", CTImageStorage), ("MR", MRImageStorage)})
_MADE_BY_SCANNER = ["ORIGINAL", "PRIMARY"]


@dataclass(frozen=True)
class Withheld:
    """Why no image was sent.

    Attributes
    ----------
    code : str
        For machines.
    text : str
        One sentence, no PHI.
    """

    code: str
    text: str


def why_series_stays(series: Series) -> Withheld | None:
    """None where the pixels of every slice may leave.

    References
    ----------
    DICOM PS3.3 C.7.6.1, BurnedInAnnotation (0028,0301), RecognizableVisualFeatures
    (0028,0302), ImageType (0008,0008).
    """
    reasons = (why_image_stays(instance.header) for instance in series.instances)
    return next((reason for reason in reasons if reason), None)


def why_image_stays(header: Dataset) -> Withheld | None:
    """None where the pixels of this instance may leave."""
    burned = _code(header, "BurnedInAnnotation")
    if burned not in ("", "NO"):
        return Withheld("burned_in", "BurnedInAnnotation is neither NO nor absent.")
    if _code(header, "RecognizableVisualFeatures") not in ("", "NO"):
        text = "RecognizableVisualFeatures is neither NO nor absent: a face could be known."
        return Withheld("recognizable", text)
    if burned == "NO":
        return None
    kind = (_code(header, "Modality"), str(header.get("SOPClassUID", "")))
    if kind not in _SCANNED:
        text = "BurnedInAnnotation is not NO, and the image is not a scanner's CT or MR slice."
        return Withheld("may_be_burned_in", text)
    image_type = header.get("ImageType") or ()
    values = [image_type] if isinstance(image_type, str) else [str(part) for part in image_type]
    reconstructed = header.get("ImagePositionPatient") and "ConversionType" not in header
    if values[:2] != _MADE_BY_SCANNER or not reconstructed:
        text = "BurnedInAnnotation is not NO, and ImageType is not ORIGINAL\\PRIMARY."
        return Withheld("may_be_burned_in", text)
    return None


def why_picture_stays(pixels_are_deidentified: bool) -> Withheld | None:
    """None where the sender of a PNG or JPEG vouches for its pixels."""
    if pixels_are_deidentified:
        return None
    text = (
        "a PNG or JPEG has no header that says what stands in its pixels. Whoever knows that "
        "they name nobody sends pixels_are_deidentified=true."
    )
    return Withheld("pixels_not_stated_deidentified", text)


def _code(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword, "") or "").strip().upper()
