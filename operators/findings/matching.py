"""Which structure of an earlier result is which of the present one.

Two are one where a person followed one to the other (tracking UID), where a body has just
one of the kind (code and side), or where they overlap in one frame of reference.
Everything else is named as not matched, with the reason; nothing is guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from operators.compared import MatchedBy, NotMatched, Placed, Prior, PriorStructure
from operators.findings.boxes import Box, bounding_boxes
from operators.findings.sides import MARGIN_MM, sign_of
from operators.findings.tally import tally
from operators.job import Code, Finding, Report

# A concentric ball that became 19 times as large has this overlap still.
LEAST_DICE = 0.1

# Segmented Property Categories (PS3.16 CID 7150, now and before) of which a code may name
# one thing in a body…
_ANATOMY = {("91723000", "SCT"), ("123037004", "SCT")}
# … but for lymph nodes: one node each in two studies need not be the same one.
_MANY_IN_A_BODY = {
    (value, "SCT")
    for value in (
        "59441001",
        "81105003",
        "68171009",
        "62683002",
        "818991007",
        "54268001",
        "8928004",
    )
}
_Key = tuple[str, str, str]


@dataclass(frozen=True)
class Matched:
    """Two that are one.

    Attributes
    ----------
    finding : Finding
        The present one.
    structure : PriorStructure
        The earlier one.
    placed : Placed
        Its mask, not empty.
    how : MatchedBy
        Why they are one.
    dice : float or None
        Where the overlap says so.
    shared : bool
        Whether a third one overlaps either: they may have merged, or split.
    """

    finding: Finding
    structure: PriorStructure
    placed: Placed
    how: MatchedBy
    dice: float | None = None
    shared: bool = False


def match(report: Report, prior: Prior) -> tuple[list[Matched], list[NotMatched]]:
    """Pairs, and what is left over: the present structures first.

    Parameters
    ----------
    report : Report
        Measured; of a stack.
    prior : Prior
        Of the same patient.
    """
    matching = _Matching(report, prior)
    return matching.pairs, matching.left_over()


def overlap_dice(one: Placed, other: Placed) -> float:
    """Dice of two masks in the patient, whatever their grids.

    Voxel centres of the finer grid are looked up in the other one (nearest voxel).

    Parameters
    ----------
    one, other : Placed
        In one frame of reference.

    Returns
    -------
    float
        0 to 1; the common volume is counted on the finer grid.
    """
    fine, coarse = sorted((one, other), key=_voxel_mm3)
    index = np.argwhere(fine.mask)[:, ::-1]
    places = index @ fine.lps_from_index[:3, :3].T + fine.lps_from_index[:3, 3]
    there = np.linalg.inv(coarse.lps_from_index)
    looked_up = np.rint(places @ there[:3, :3].T + there[:3, 3]).astype(np.int64)[:, ::-1]
    inside = ((looked_up >= 0) & (looked_up < coarse.mask.shape)).all(axis=1)
    common = int(np.count_nonzero(coarse.mask[tuple(looked_up[inside].T)]))
    volumes = sum(int(np.count_nonzero(p.mask)) * _voxel_mm3(p) for p in (fine, coarse))
    return min(1.0, 2 * common * _voxel_mm3(fine) / volumes) if volumes else 0.0


class _Matching:
    """Which structure of one result is which of the other; see the module's head."""

    def __init__(self, report: Report, prior: Prior) -> None:
        self._report, self._prior = report, prior
        self._found = [finding for finding in report.findings if finding.voxels]
        self._left = {one.segment.number: one for one in self._found}
        self._prior_left = {one.number: one for one in prior.structures}
        self._loaded: dict[int, Placed] = {}
        self._why: dict[int, str] = {}
        self.pairs: list[Matched] = []
        self._by_tracking()
        self._by_code()
        self._by_overlap()

    def left_over(self) -> list[NotMatched]:
        """What has no partner, the present structures first."""
        gone = "it is in the earlier result and has no partner in this one"
        new = "the earlier result has none of this code and side"
        return [
            *(
                NotMatched(finding.segment.label, True, self._why.get(number, new))
                for number, finding in self._left.items()
            ),
            *(NotMatched(one.label, False, gone) for one in self._prior_left.values()),
        ]

    def _take(
        self,
        finding: Finding,
        structure: PriorStructure,
        how: MatchedBy,
        dice: float | None = None,
        shared: bool = False,
    ) -> None:
        placed = self._load(structure)
        if not placed.mask.any():
            self._why[finding.segment.number] = "the earlier segment has no pixel"
            return
        self.pairs.append(Matched(finding, structure, placed, how, dice, shared))
        del self._left[finding.segment.number], self._prior_left[structure.number]

    def _load(self, structure: PriorStructure) -> Placed:
        if structure.number not in self._loaded:
            self._loaded[structure.number] = structure.load()
        return self._loaded[structure.number]

    def _by_tracking(self) -> None:
        """What a person marked with a structure of the earlier result, by its UID."""
        marked = dict(self._report.segmentation.model.prompt)
        if len(self._found) != 1:
            return
        for structure in self._prior.structures:
            by_uid = structure.tracking_uid and structure.tracking_uid == marked.get(
                "prompt_tracking_uid"
            )
            by_segment = (self._prior.identity.seg_sop_instance_uid, str(structure.number)) == (
                marked.get("prompt_seg"),
                marked.get("prompt_segment"),
            )
            if by_uid or by_segment:
                self._take(self._found[0], structure, "tracking UID")
                return

    def _by_code(self) -> None:
        """Organs that a body has once, and each result too."""
        segments = self._report.segmentation.segments
        now = Counter(_key(one.type, one.laterality) for one in segments)
        then = Counter(_key(one.type, one.laterality) for one in self._prior.structures)
        doubtful = any(
            flag.name == "side-doubtful" for flag in self._report.segmentation.volume.quality
        )
        for finding in list(self._left.values()):
            segment = finding.segment
            key = _key(segment.type, segment.laterality)
            alike = [
                one
                for one in self._prior_left.values()
                if _key(one.type, one.laterality) == key and _is_once(one.category, one.type)
            ]
            if not (_is_once(segment.category, segment.type) and now[key] == then[key] == 1):
                continue
            if doubtful and segment.laterality is not None:
                self._why[segment.number] = "left and right may be swapped in this result"
            elif alike and self._is_swapped(alike[0]):
                self._why[segment.number] = "left and right may be swapped in the earlier result"
            elif alike:
                self._take(finding, alike[0], "code and side")

    def _is_swapped(self, structure: PriorStructure) -> bool:
        """Whether an earlier structure lies on the other side of its partner (`sides.py`)."""
        sign = sign_of(structure.laterality)
        return any(
            sign * (_x_mm(self._load(other)) - _x_mm(self._load(structure))) > MARGIN_MM
            for other in self._prior.structures
            if sign
            and sign_of(other.laterality) == -sign
            and (other.type.value, other.type.scheme)
            == (structure.type.value, structure.type.scheme)
        )

    def _by_overlap(self) -> None:
        """All others: largest overlap first, in one frame of reference only."""
        frame = self._report.segmentation.volume.frame_of_reference_uid
        candidates = [
            (finding, structure)
            for finding in self._left.values()
            for structure in self._prior_left.values()
            if _key(finding.segment.type, finding.segment.laterality)
            == _key(structure.type, structure.laterality)
            and finding.segment.number not in self._why
        ]
        if not candidates:
            return
        if not frame or frame != self._prior.frame_of_reference_uid:
            for finding, _ in candidates:
                self._why[finding.segment.number] = (
                    "a body may hold several of its kind, and the two results share no frame of "
                    "reference in which places could be compared"
                )
            return
        here = _placed(self._report, [finding for finding, _ in candidates])
        scored = [
            (overlap_dice(here[finding.segment.number], self._load(structure)), finding, structure)
            for finding, structure in candidates
        ]
        for dice, finding, structure in sorted(scored, key=_largest_first):
            number = finding.segment.number
            if number not in self._left:
                continue
            if dice < LEAST_DICE:
                self._why.setdefault(
                    number, f"its overlap with each of the earlier result is below {LEAST_DICE}"
                )
            elif structure.number not in self._prior_left:
                self._why.setdefault(
                    number, f"it overlaps {structure.label}, which has a larger overlap"
                )
            else:
                touching = [1 for d, f, s in scored if d > 0 and (f is finding or s is structure)]
                self._take(finding, structure, "overlap", dice, len(touching) > 1)


def _largest_first(scored: tuple[float, Finding, PriorStructure]) -> tuple[float, int, int]:
    dice, finding, structure = scored
    return -dice, finding.segment.number, structure.number


def _key(kind: Code, laterality: Code | None) -> _Key:
    return kind.value, kind.scheme, laterality.value if laterality else ""


def _is_once(category: Code, kind: Code) -> bool:
    """Whether a body has one such thing on a side."""
    return (category.value, category.scheme) in _ANATOMY and (
        kind.value,
        kind.scheme,
    ) not in _MANY_IN_A_BODY


def _placed(report: Report, findings: Sequence[Finding]) -> Mapping[int, Placed]:
    """Present masks in their boxes."""
    segmentation = report.segmentation
    boxes = bounding_boxes(segmentation, tally(segmentation))
    affine = segmentation.volume.lps_from_index
    return {
        number: Placed(segmentation.mask(number, box), shifted(affine, box), None)
        for number in {finding.segment.number for finding in findings}
        for box in [boxes[number]]
    }


def shifted(lps_from_index: np.ndarray, box: Box) -> np.ndarray:
    """Affine of a box (k, j, i) that was cut out of an array."""
    moved = lps_from_index.copy()
    moved[:3, 3] = lps_from_index[:3] @ (box[2].start, box[1].start, box[0].start, 1)
    return moved


def _x_mm(placed: Placed) -> float:
    """LPS x of the centre of gravity; NaN, which is on no side, of an empty mask."""
    if not placed.mask.any():
        return float("nan")
    index = np.argwhere(placed.mask).mean(axis=0)[::-1]
    return float(placed.lps_from_index[0] @ (*index, 1.0))


def _voxel_mm3(placed: Placed) -> float:
    return float(abs(np.linalg.det(placed.lps_from_index[:3, :3])))
