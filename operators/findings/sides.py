"""Does a structure lie on the side that its segment says?

A swapped side is the mistake that no volume and no mean shows. Left and right of one
structure are compared with each other, and each with the middle of the body, where the
image shows the body from side to side. What can't be checked is said.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from operators.job import Code, QualityFlag, Segment, Volume

# Along LPS x, which grows towards the patient's left (PS3.3 C.7.6.2.1.1).
_SIGN = {("7771000", "SCT"): 1.0, ("24028007", "SCT"): -1.0}
_SIDE = {1.0: "left", -1.0: "right"}

MARGIN_MM = 5.0  # structures at the middle may cross it by that without a remark
TISSUE_HU = -500.0
# Of other units, what is brighter than this share of the brightest.
TISSUE_SHARE = 0.1
BRIGHTEST_PERCENTILE = 99.0
# A plane at the edge that has this share of the fullest one's tissue cuts the body off.
CUT_SHARE = 0.05
_SAMPLES = 2_000_000


def check_sides(
    volume: Volume, centroids_lps_mm: Mapping[Segment, np.ndarray]
) -> tuple[QualityFlag, ...]:
    """Remarks on segments with a side.

    Parameters
    ----------
    volume : Volume
        With a place in the patient, or a 2D image.
    centroids_lps_mm : mapping
        Segments that were found → centre of gravity, shape (3,); segments without a side
        are passed over.

    Returns
    -------
    tuple of QualityFlag
        ``"side-doubtful"`` names every segment that lies on the other side, by more than
        `MARGIN_MM`; ``"side-unchecked"`` those that nothing could be compared with.
    """
    sided = {
        segment: float(place[0])
        for segment, place in centroids_lps_mm.items()
        if sign_of(segment.laterality)
    }
    if not sided:
        return ()
    if volume.plane is not None:
        return (_unchecked(list(sided), "a 2D image has no place in the patient"),)
    middle = _middle_mm(volume)
    doubtful, unchecked = [], []
    for segment, x_mm in sided.items():
        sign = sign_of(segment.laterality)
        partners = [
            x
            for other, x in sided.items()
            if other.type == segment.type and sign_of(other.laterality) == -sign
        ]
        if partners and (beyond := sign * (partners[0] - x_mm)) > MARGIN_MM:
            other = _SIDE[-sign]
            doubtful.append(
                f"{segment.label} lies {beyond:.0f} mm farther {other} than the one of the {other}"
            )
        elif middle is not None and (beyond := sign * (middle - x_mm)) > MARGIN_MM:
            doubtful.append(
                f"{segment.label} lies {beyond:.0f} mm {_SIDE[-sign]} of the body's middle"
            )
        elif middle is None and not partners:
            unchecked.append(segment)
    flags = []
    if doubtful:
        said = "; ".join(doubtful)
        flags.append(
            QualityFlag(
                "side-doubtful",
                f"{said}. Left and right may be swapped: compare with the image before use.",
            )
        )
    if unchecked:
        flags.append(_unchecked(unchecked, "the image does not show the body from side to side"))
    return tuple(flags)


def _unchecked(segments: list[Segment], why: str) -> QualityFlag:
    labels = ", ".join(segment.label for segment in segments)
    return QualityFlag("side-unchecked", f"The side could not be checked of {labels}: {why}.")


def sign_of(side: Code | None) -> float:
    """1.0 for left, -1.0 for right, as LPS x grows; 0.0 for anything else."""
    return _SIGN.get((side.value, side.scheme), 0.0) if side else 0.0


def _middle_mm(volume: Volume) -> float | None:
    """Where half of the tissue lies to the left, LPS x; None where the body is cut off."""
    stride = max(1, round((volume.array.size / _SAMPLES) ** (1 / 3)))
    values = volume.array[::stride, ::stride, ::stride]
    if volume.unit == "HU":
        tissue = values > TISSUE_HU
    else:
        low, high = float(values.min()), float(np.percentile(values, BRIGHTEST_PERCENTILE))
        tissue = values > low + TISSUE_SHARE * (high - low)
    if volume.padding is not None:
        tissue = tissue & ~volume.padding[::stride, ::stride, ::stride]
    # The array's axis that runs from side to side, more than any other.
    x_of_ijk = volume.lps_from_index[0, :3] * stride
    across = 2 - int(np.argmax(np.abs(x_of_ijk)))
    planes = tissue.sum(axis=tuple({0, 1, 2} - {across}))
    if not planes.any() or max(planes[0], planes[-1]) > CUT_SHARE * planes.max():
        return None
    k, j, i = np.nonzero(tissue)
    return float(np.median(np.column_stack([i, j, k]) @ x_of_ijk) + volume.lps_from_index[0, 3])
