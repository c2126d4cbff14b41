"""Regions of one 2D image that the network finds by itself: proposals, nothing assessed.

The network answers every box with something, so what a box gets is no finding yet. Boxes
of several sizes and shapes are laid over the picture; each answer is asked for again by
its own bounding box. A region is what stays: its outline hardly moves when the logits'
threshold does (stability), and hardly moves when the box does (agreement). The network's
own estimate of its IoU is not used: it is not calibrated. All of it is deterministic.

ModelRefusal
├── ProposalsAlone        RL-1820   marks or a label beside them
└── ProposalsNeedPicture  RL-1821   a stack of slices

References
----------
Kirillov et al., Segment Anything, ICCV 2023, section 5 and appendix B (automatic masks:
stability at a threshold moved by 1, suppression of repeated masks).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from operators.errors import ModelRefusal
from operators.job import Segment
from operators.models.medsam.propagate import bounding_box, largest_piece
from operators.models.medsam.request import CATEGORY, TYPE

# Boxes (n, 4) in pixels of the picture → logits (n, side, side); above 0 is inside.
Answer = Callable[[np.ndarray], np.ndarray]

MOST_SEGMENTS = 32  # bits of a label plane
_COLOURS_RGB = (
    (230, 75, 53),
    (77, 187, 213),
    (0, 160, 135),
    (243, 155, 127),
    (132, 145, 180),
    (145, 209, 194),
    (220, 160, 20),
    (126, 97, 72),
)


class ProposalsAlone(ModelRefusal):
    """Proposals are for an image on which nothing is marked."""

    code = "RL-1820"

    def __init__(self) -> None:
        super().__init__(
            "--propose looks for regions by itself: leave --box, --point, --from and --label out, "
            "or --propose."
        )


class ProposalsNeedPicture(ModelRefusal):
    """A stack of slices is no picture."""

    code = "RL-1821"

    def __init__(self, series_uid: str) -> None:
        super().__init__(
            f"series {series_uid} is a stack of slices; regions are proposed on one X-ray, "
            "ultrasound frame, slide tile or photograph. Mark the structure on a slice: "
            "`radloop segment STUDY --box x0,y0,x1,y1 --slice N`."
        )


@dataclass(frozen=True)
class ProposalRule:
    """Which boxes are asked for, and which answers are kept.

    Attributes
    ----------
    boxes : tuple of (float, float, int, int)
        Width and height of a box as shares of the picture, and how many lie side by
        side and one below the other, evenly from edge to edge.
    asked_again : int
        So many of the most stable answers get a second look.
    offset : float
        How far the threshold of the logits is moved either way for the stability.
    least_stability, least_agreement : float
        IoU of the masks at both thresholds, and of the first and second answer.
    smallest_share, largest_share : float
        Of the picture: smaller is noise, larger is the background.
    least_spread : float
        Standard deviation of the grey levels, 0 to 1, below which there is nothing to
        see: the black round an ultrasound sector is as stable as anything.
    most_overlap : float
        IoU with a better region above which it is the same one.
    most : int
        Regions kept.
    """

    boxes: tuple[tuple[float, float, int, int], ...] = (
        (0.5, 0.5, 3, 3),
        (0.3, 0.3, 5, 5),
        (0.35, 0.7, 3, 2),
        (0.7, 0.35, 2, 3),
    )
    asked_again: int = 16
    offset: float = 1.0
    least_stability: float = 0.7
    least_agreement: float = 0.75
    smallest_share: float = 0.002
    largest_share: float = 0.5
    least_spread: float = 0.02
    most_overlap: float = 0.5
    most: int = 8


@dataclass(frozen=True)
class Proposal:
    """One region.

    Attributes
    ----------
    logits : numpy.ndarray, shape (side, side), float32
        The network's answer; above 0 is inside.
    mask : numpy.ndarray, shape (rows, columns), bool
        Its largest piece, on the used part of the picture.
    stability, agreement : float
        0 to 1; see `ProposalRule`. No probability that anything is there.
    """

    logits: np.ndarray
    mask: np.ndarray
    stability: float
    agreement: float


def propose(answer: Answer, picture: np.ndarray, rule: ProposalRule) -> tuple[Proposal, ...]:
    """Regions of a picture, the most stable first.

    Parameters
    ----------
    answer : callable
        The network on this picture.
    picture : numpy.ndarray, shape (rows, columns), float32
        What it was shown, 0 to 1, without what was added below and right of the image.
    rule : ProposalRule
        See there.

    Returns
    -------
    tuple of Proposal
        No two are alike by more than `rule.most_overlap`; one may lie in another.
    """
    shape = (picture.shape[0], picture.shape[1])
    first = [
        (_stability(logits, shape, rule.offset), logits)
        for logits in answer(grid_boxes(shape, rule))
        if _fits(_mask(logits, shape), picture, rule)
    ]
    # Stable sort: of equals the earlier box wins, on every machine.
    first.sort(key=lambda entry: -entry[0])
    first = _distinct(first, shape, rule)[: rule.asked_again]
    if not first:
        return ()
    boxes = np.array([bounding_box(_mask(logits, shape), 0.0) for _, logits in first], np.float32)
    found = []
    for (_, before), logits in zip(first, answer(boxes), strict=True):
        mask = _mask(logits, shape)
        agreement = overlap(mask, _mask(before, shape))
        stability = _stability(logits, shape, rule.offset)
        if (
            _fits(mask, picture, rule)
            and stability >= rule.least_stability
            and agreement >= rule.least_agreement
        ):
            found.append(Proposal(logits, mask, stability, agreement))
    found.sort(key=lambda proposal: -proposal.stability)
    kept: list[Proposal] = []
    for proposal in found:
        if all(overlap(proposal.mask, other.mask) <= rule.most_overlap for other in kept):
            kept.append(proposal)
    return tuple(kept[: rule.most])


def grid_boxes(shape: tuple[int, int], rule: ProposalRule) -> np.ndarray:
    """All boxes that are asked for, shape (n, 4), float32: x0, y0, x1, y1."""
    return np.array(list(_grid(shape, rule)), np.float32)


def _grid(shape: tuple[int, int], rule: ProposalRule) -> Iterator[tuple[float, ...]]:
    height, width = shape
    for across, down, columns, rows in rule.boxes:
        box_width, box_height = across * width, down * height
        for y in np.linspace(0.0, height - box_height, rows):
            for x in np.linspace(0.0, width - box_width, columns):
                yield float(x), float(y), float(x + box_width), float(y + box_height)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """IoU of two masks; 0 where both are empty."""
    both = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / both if both else 0.0


def proposed_segments(count: int) -> tuple[Segment, ...]:
    """A segment for each region; what it is, nobody has said."""
    return tuple(
        Segment(
            number=number,
            name=f"proposed_region_{number}",
            label=f"Proposed region {number}",
            category=CATEGORY,
            type=TYPE,
            colour_rgb=_COLOURS_RGB[(number - 1) % len(_COLOURS_RGB)],
        )
        for number in range(1, count + 1)
    )


def _mask(logits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return largest_piece(logits[: shape[0], : shape[1]] > 0)


def _stability(logits: np.ndarray, shape: tuple[int, int], offset: float) -> float:
    """IoU of the masks at thresholds `offset` above and below 0: one lies in the other."""
    seen = logits[: shape[0], : shape[1]]
    loose = np.count_nonzero(seen > -offset)
    return np.count_nonzero(seen > offset) / loose if loose else 0.0


def _fits(mask: np.ndarray, picture: np.ndarray, rule: ProposalRule) -> bool:
    share = int(np.count_nonzero(mask)) / mask.size
    if not rule.smallest_share <= share <= rule.largest_share:
        return False
    return float(picture[mask].std()) >= rule.least_spread


def _distinct(
    answers: list[tuple[float, np.ndarray]], shape: tuple[int, int], rule: ProposalRule
) -> list[tuple[float, np.ndarray]]:
    """Without those that repeat a better one: a second look at both would give one twice."""
    kept: list[tuple[float, np.ndarray]] = []
    masks: list[np.ndarray] = []
    for stability, logits in answers:
        mask = _mask(logits, shape)
        if all(overlap(mask, other) <= rule.most_overlap for other in masks):
            kept.append((stability, logits))
            masks.append(mask)
    return kept
