"""How large the pixels of a 2D image are, and for what that holds; unknown stays unknown.

Each kind of image says it elsewhere: a projection by Pixel Spacing and Imager Pixel
Spacing, an ultrasound by region and in cm, a slide in its functional groups. Whatever is
absent, zero, of another unit or at odds with the image gives no scale, and then nothing
in mm or mm2 is written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from operators.job import Plane, Scale
from operators.study.image_type import ULTRASOUND, WHOLE_SLIDE

SMALLEST_MM, LARGEST_MM = 1e-5, 100.0  # of a pixel: what lies beyond is a mistake
SAME_SHARE = 1e-3  # spacings that differ by less are one
CENTIMETRE, TWO_DIMENSIONS = 3, 1  # PS3.3 C.8.5.5.1.15 and C.8.5.5.1.1

AT_DETECTOR = "at the detector plane: what lies before it is smaller than that"
CALIBRATED = "as the source calibrated it, in the plane that it was calibrated for"
UNSTATED = "as the header has it, which does not say whether at the detector or in the patient"
IN_REGION = "inside the region of the ultrasound image that it was written for"
ON_SLIDE = "on the slide"


@dataclass(frozen=True)
class Known:
    """Scales of an image and what they hold for; no scales: ""."""

    scales: tuple[Scale, ...]
    holds: str


NOTHING = Known((), "")


def read_scale(header: Dataset, frame: int | None) -> Known:
    """What the header says of lengths.

    Parameters
    ----------
    header : Dataset
        Of a 2D image.
    frame : int or None
        Number of the frame from 1, where it has frames.

    Returns
    -------
    Known
        `NOTHING` wherever a number is missing or can't be trusted. Never raises.

    References
    ----------
    DICOM PS3.3 10.7.1.3 Pixel Spacing Value Order and Calibration, C.8.5.5 US Region
    Calibration, C.7.6.16.2.1 Pixel Measures.
    """
    try:
        if header.SOPClassUID in ULTRASOUND:
            return _ultrasound(header)
        if header.SOPClassUID == WHOLE_SLIDE:
            return _whole(header, _slide_spacing(header, frame), ON_SLIDE)
        return _projection(header)
    except Exception:  # noqa: BLE001  (a broken number is no number, whatever pydicom raises)
        return NOTHING


def area_mm2(plane: Plane, mask: np.ndarray) -> float | None:
    """Area of a mask; None where no scale holds for all of it, or two disagree.

    Parameters
    ----------
    plane : Plane
        Of the image.
    mask : numpy.ndarray, shape (rows, columns), bool
        With at least one pixel.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    left, top = int(columns[0]), int(rows[0])
    right, bottom = int(columns[-1]) + 1, int(rows[-1]) + 1
    touching = [
        s
        for s in plane.scales
        if s.left < right and left < s.right and s.top < bottom and top < s.bottom
    ]
    if not touching:
        return None
    first = touching[0]
    spacing = first.row_mm, first.column_mm
    for scale in touching:
        across = scale.left <= left and right <= scale.right
        down = scale.top <= top and bottom <= scale.bottom
        if not (across and down and _same((scale.row_mm, scale.column_mm), spacing)):
            return None
    return float(np.count_nonzero(mask) * first.row_mm * first.column_mm)


def _projection(header: Dataset) -> Known:
    pixel, imager = _pair(header, "PixelSpacing"), _pair(header, "ImagerPixelSpacing")
    calibration = str(header.get("PixelSpacingCalibrationType") or "")
    # A spacing of 0 is a statement that it is not known: the other is not taken for it.
    if "PixelSpacing" in header and header.PixelSpacing is not None and pixel is None:
        return NOTHING
    if pixel and calibration in ("GEOMETRY", "FIDUCIAL"):
        return _whole(header, pixel, CALIBRATED)
    if imager and (pixel is None or _same(pixel, imager)):
        return _whole(header, imager, AT_DETECTOR)
    if pixel and imager:
        return _whole(header, pixel, CALIBRATED)
    return _whole(header, pixel, UNSTATED)


def _ultrasound(header: Dataset) -> Known:
    """The 2D regions in cm; all must lie in the image, or the header is of another one."""
    rows, columns = int(header.Rows), int(header.Columns)
    scales = []
    for region in header.get("SequenceOfUltrasoundRegions") or []:
        units = region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")
        if region.get("RegionSpatialFormat") != TWO_DIMENSIONS or units != (CENTIMETRE,) * 2:
            continue
        left, top = int(region.RegionLocationMinX0), int(region.RegionLocationMinY0)
        # Both corners are pixels of the region; some makers write the edge instead.
        right = int(region.RegionLocationMaxX1) + 1
        bottom = int(region.RegionLocationMaxY1) + 1
        if not (0 <= left < right <= columns + 1 and 0 <= top < bottom <= rows + 1):
            return NOTHING
        spacing = _sound(
            (abs(float(region.PhysicalDeltaY)) * 10.0, abs(float(region.PhysicalDeltaX)) * 10.0)
        )
        if spacing is None:
            return NOTHING
        scales.append(Scale(left, top, min(right, columns), min(bottom, rows), *spacing))
    return Known(tuple(scales), IN_REGION if scales else "")


def _slide_spacing(header: Dataset, frame: int | None) -> tuple[float, float] | None:
    groups = [
        (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0],
        *(header.get("PerFrameFunctionalGroupsSequence") or [])[(frame or 1) - 1 : frame or 1],
    ]
    measured = [g.PixelMeasuresSequence[0] for g in groups if g.get("PixelMeasuresSequence")]
    return _pair(measured[0], "PixelSpacing") if len(measured) == 1 else None


def _whole(header: Dataset, spacing: tuple[float, float] | None, holds: str) -> Known:
    if spacing is None:
        return NOTHING
    return Known((Scale(0, 0, int(header.Columns), int(header.Rows), *spacing),), holds)


def _pair(header: Dataset, keyword: str) -> tuple[float, float] | None:
    """Two lengths: between rows, between columns (PS3.3 10.7.1.3)."""
    value = header.get(keyword)
    if value is None or np.size(value) != 2:
        return None
    return _sound((float(value[0]), float(value[1])))


def _sound(spacing: tuple[float, float]) -> tuple[float, float] | None:
    return spacing if all(SMALLEST_MM <= value <= LARGEST_MM for value in spacing) else None


def _same(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(abs(a - b) <= SAME_SHARE * max(a, b) for a, b in zip(one, other, strict=True))
