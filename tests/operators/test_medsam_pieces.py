"""What lies apart in a slice is followed piece by piece, and together again in the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.graph import load_models
from operators.job import Volume
from operators.models.medsam.mark_file import MarkFile, TooManyMarks, read_regions
from operators.models.medsam.picture import SlicePrompt
from operators.models.medsam.pieces import PIECES_LIMIT, of_mask, pieces_of, united
from operators.models.medsam.place import place
from operators.models.medsam.propagate import End, Propagated
from operators.study.read import read_drop
from operators.volume.build import build_volumes
from tests.operators.marks import write_structures
from tests.series import write_ct_series

SIDE = 40


def squares(*corners: tuple[int, int], size: int = 6) -> SlicePrompt:
    """A mask of squares with these upper left corners (x, y)."""
    mask = np.zeros((SIDE, SIDE), bool)
    for x, y in corners:
        mask[y : y + size, x : x + size] = True
    return of_mask(mask)


def corners(region: dict[int, SlicePrompt]) -> dict[int, tuple[float, float]]:
    """Upper left of each box, without its margin."""
    return {k: (p.box[0] + 2, p.box[1] + 2) for k, p in region.items()}


def test_two_organs_are_two_regions_and_a_branch_begins_one_of_its_own():
    left, right = (5, 5), (25, 5)
    both = pieces_of({2: squares(left, right), 5: squares((7, 6), (26, 6)), 6: squares((8, 7))})
    assert [corners(region) for region in both] == [
        {2: left, 5: (7, 6), 6: (8, 7)},
        {2: right, 5: (26, 6)},
    ]
    branched = pieces_of(
        {1: squares((10, 10)), 2: squares((9, 10), (20, 10)), 3: squares((20, 11))}
    )
    assert [corners(region) for region in branched] == [
        {1: (10, 10), 2: (9, 10)},
        {2: (20, 10), 3: (20, 11)},
    ]


def test_what_is_in_one_piece_stays_as_it_was_given():
    """Also where the pieces of two slices don't overlap, and where one is a box."""
    given = {4: squares((30, 30)), 1: squares((2, 2)), 2: SlicePrompt((1.0, 1.0, 9.0, 9.0))}
    (region,) = pieces_of(given)
    assert region == given and list(region) == [1, 2, 4]


def test_too_many_pieces_are_refused():
    specks = [(x, y) for x in range(0, SIDE, 2) for y in range(0, SIDE, 2)]
    many = {k: squares(*specks, size=1) for k in range(3)}
    with pytest.raises(
        TooManyMarks, match=f"1200 separate pieces are more than the {PIECES_LIMIT}"
    ):
        pieces_of(many)


def test_united_pieces_reach_as_far_as_the_farthest_and_end_as_it_does():
    def found(first: int, last: int, *ends: End) -> Propagated:
        mask = np.zeros((9, 4, 4), bool)
        mask[first : last + 1, 1] = True
        return Propagated(mask, first, last, ends)

    low = found(0, 4, End.SERIES, End.EMPTY)
    high = found(3, 6, End.EMPTY, End.INTENSITY)
    none = Propagated(np.zeros((9, 4, 4), bool), 8, 8, (End.EMPTY, End.EMPTY))

    both = united([none, high, low])
    assert (both.first, both.last, both.ends) == (0, 6, (End.SERIES, End.INTENSITY))
    assert np.array_equal(both.mask, low.mask | high.mask)
    assert united([none, none]) is none


@pytest.mark.usefixtures("medsam_weights")
def test_contours_of_two_organs_come_back_as_two_and_not_as_a_bridge(tmp_path: Path):
    """Two cylinders, 14 and 12 mm, 50 mm apart; one box round both gave a Dice of .82."""
    grid = np.diag([1.0, 1.0, 3.0, 1.0])
    k, j, i = np.mgrid[:5, :128, :128].astype(float)
    discs = [(40, 60, 14), (90, 60, 12)]
    truth = np.zeros(k.shape, bool)
    for x, y, radius in discs:
        truth |= ((i + 0.5 - x) ** 2 + (j + 0.5 - y) ** 2 <= radius**2) & (k >= 1) & (k <= 3)
    array = np.where(truth, 60, -80) + np.random.default_rng(1).normal(0, 10, k.shape)
    write_ct_series(tmp_path / "in", array.round().astype(np.int16), grid)
    (volume,) = build_volumes(read_drop(tmp_path / "in").studies[0].series[0])
    (region,) = read_regions(
        MarkFile(write_structures(tmp_path / "rs", volume, drawn(volume, discs)))
    )

    result = load_models().get_prompted("medsam_lite").segment(place([volume], region), region)

    ours = result.labels > 0
    assert 2 * (ours & truth).sum() / (ours.sum() + truth.sum()) > 0.97
    assert not ours[:, :, 56:76].any()
    (flag,) = [flag for flag in result.volume.quality if flag.name == "separate-pieces"]
    assert flag.text.startswith("The marks lie in 2 separate pieces")


def drawn(volume: Volume, discs: list[tuple[int, int, int]]) -> list[np.ndarray]:
    """Contours of the discs on slices 1 to 3, LPS mm."""
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ones = np.ones(len(angles))
    return [
        np.column_stack(
            [x + r * np.cos(angles) - 0.5, y + r * np.sin(angles) - 0.5, k * ones, ones]
        )
        @ volume.lps_from_index[:3].T
        for k in (1, 2, 3)
        for x, y, r in discs
    ]
