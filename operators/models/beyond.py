"""What of a volume lies beyond the data of its bundle, though it is accepted.

Only where the card names a measured limit: a guess would be no better than silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from operators.job import QualityFlag, Volume
from operators.study.select import Accepts

TOLERANCE_MM = 0.01  # positions are rounded


def remark_beyond(volume: Volume, accepts: Accepts) -> Volume:
    """`volume`, with a flag for each way in which it is unlike the bundle's data.

    Parameters
    ----------
    volume : Volume
        Of a 2D image nothing is said: it has no slices, and its grey levels are a display's.
    accepts : Accepts
        The card's.

    Returns
    -------
    Volume
        With "thick-slices" where its slices are farther apart than the bundle was measured
        on, and "unusual-intensities" where its values are unlike those of the training images.
    """
    if volume.plane is not None:
        return volume
    flags = (*_thick(volume, accepts), *_unusual(volume, accepts))
    return replace(volume, quality=(*volume.quality, *flags)) if flags else volume


def _thick(volume: Volume, accepts: Accepts) -> Iterator[QualityFlag]:
    limit = accepts.measured_slice_spacing_mm
    spacing_mm = volume.spacing_zyx_mm[0]
    if limit is not None and spacing_mm > limit + TOLERANCE_MM:
        yield QualityFlag(
            "thick-slices",
            f"Slices are {spacing_mm:.2f} mm apart; the bundle was measured on slices of at most "
            f"{limit:g} mm.",
        )


def _unusual(volume: Volume, accepts: Accepts) -> Iterator[QualityFlag]:
    known = accepts.intensities
    found = () if known is None else tuple(known.unlike(volume.array, volume.padding))
    if known is not None and found:
        unit = (
            ""
            if volume.unit == "arbitrary"
            else f" ({volume.unit}, of what is above {known.above:g})"
        )
        yield QualityFlag(
            "unusual-intensities",
            f"Values are unlike those of the images that the network was trained on{unit}: "
            f"{'; '.join(found)}. Its masks may be wrong without looking so.",
        )
