"""Values as grey levels: which are black, which are white.

The one home of windows, for key images, overlays and pictures of single slices.
"""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from operators.job import Unit

Window = tuple[float, float]

SOFT_TISSUE_HU: Window = (-160.0, 240.0)
LUNG_HU: Window = (-1350.0, 150.0)
SUV: Window = (0.0, 10.0)
TAILS_PERCENT = (1.0, 99.0)
_AIR_FILLED_HU = -400.0  # a structure whose mean is below it is lung, and black in soft tissue's


def window_of(
    values: np.ndarray, unit: Unit, header: Dataset, *, mean: float | None = None
) -> Window:
    """Which values of a plane are shown black and white.

    Parameters
    ----------
    values : numpy.ndarray, shape (rows, columns)
        The plane, in `unit`.
    unit : Unit
        HU and SUVbw have windows of their own; arbitrary values that of their header,
        where it falls on them, else all but the 1 percent at each end.
    header : Dataset
        Of the plane's source instance.
    mean : float or None
        Of the structure that is to be seen: air-filled ones get the lung's window.
    """
    if unit == "HU":
        return LUNG_HU if mean is not None and mean < _AIR_FILLED_HU else SOFT_TISSUE_HU
    if unit == "SUVbw":
        return SUV
    named = header_window(header)
    if named is not None and named[0] < values.max() and named[1] > values.min():
        return named
    low, high = np.percentile(values, TAILS_PERCENT)
    return float(low), float(high)


def header_window(header: Dataset) -> Window | None:
    """Lowest and highest value shown; None where the header names no usable window.

    References
    ----------
    DICOM PS3.3 C.11.2.1.2, Window Center and Window Width.
    """
    try:
        centre, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    except Exception:  # noqa: BLE001  (a display hint: pydicom raises many kinds for a bad one)
        return None
    if centre is None or width is None or not width >= 1 or not np.isfinite([centre, width]).all():
        return None
    return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2


def to_grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey levels, uint8: `low` and less is 0, `high` and more 255."""
    scaled = (values.astype(np.float64) - low) / max(high - low, 1e-9)
    return np.rint(np.clip(scaled, 0.0, 1.0) * 255).astype(np.uint8)


def _first(value: object) -> float | None:
    if isinstance(value, MultiValue):
        value = value[0] if len(value) else None
    return None if value is None or value == "" else float(str(value))
