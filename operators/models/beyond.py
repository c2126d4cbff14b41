"""What of a volume lies beyond the data that its bundle was measured on, though it is accepted.

Only where the card names a measured limit: a guess would be no better than silence.
"""

from __future__ import annotations

from dataclasses import replace

from operators.job import QualityFlag, Volume
from operators.study.select import Accepts

TOLERANCE_MM = 0.01  # positions are rounded


def remark_beyond(volume: Volume, accepts: Accepts) -> Volume:
    """`volume`, with a flag "thick-slices" where its slices are farther apart than measured.

    Parameters
    ----------
    volume : Volume
        Distances between slices come from its affine; a 2D image has none.
    accepts : Accepts
        The card's.
    """
    limit = accepts.measured_slice_spacing_mm
    if limit is None or volume.plane is not None:
        return volume
    spacing_mm = volume.spacing_zyx_mm[0]
    if spacing_mm <= limit + TOLERANCE_MM:
        return volume
    text = (
        f"Slices are {spacing_mm:.2f} mm apart; the bundle was measured on slices of at most "
        f"{limit:g} mm."
    )
    flag = QualityFlag("thick-slices", text)
    return replace(volume, quality=(*volume.quality, flag))
