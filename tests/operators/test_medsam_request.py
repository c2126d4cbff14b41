"""What a person may write, and how each mistake is answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.job import Volume
from operators.models.medsam.request import (
    BoxEmpty,
    BoxOutside,
    BoxPrompt,
    BoxUnreadable,
    LabelUnfit,
    SliceAmbiguous,
    SliceNotThere,
    check_box,
    format_box,
    locate,
    parse_box,
)
from operators.study.read import read_drop
from operators.volume.build import build_volumes
from tests.series import centred_grid, render, write_ct_series

SHAPE_ZYX = (6, 40, 50)


def built(folder: Path, **options) -> tuple[Volume, ...]:
    affine = centred_grid(SHAPE_ZYX, (2.0, 1.0, 1.0))
    write_ct_series(folder, render([], SHAPE_ZYX, affine), affine, **options)
    return build_volumes(read_drop(folder).studies[0].series[0], "medsam_lite")


@given(st.tuples(*[st.integers(-99999, 99999)] * 4))
def test_a_box_is_read_as_it_is_written(hundredths) -> None:
    box = tuple(value / 100 for value in hundredths)

    assert parse_box(format_box(box)) == box
    assert parse_box(" , ".join(map(str, box))) == box


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1,2,nan,4", "0,0,inf,9"])
def test_what_is_no_box_is_refused(text: str) -> None:
    with pytest.raises(BoxUnreadable, match="x0,y0,x1,y1"):
        parse_box(text)


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (9, 5, 5, 9), (5, 5, 9, 5.5)])
def test_an_empty_box_is_refused(box) -> None:
    with pytest.raises(BoxEmpty, match="less than 1 x 1"):
        BoxPrompt("1", box)


@pytest.mark.parametrize("label", ["", "  ", "a\\b", "a\nb", "x" * 65])
def test_a_label_that_dicom_can_not_hold_is_refused(label: str) -> None:
    with pytest.raises(LabelUnfit, match="1 to 64"):
        BoxPrompt("1", (1, 1, 5, 5), label)


def test_a_slice_is_found_by_its_number_and_by_its_uid(tmp_path: Path) -> None:
    """Numbers that run against the positions: k follows the image, not the number."""
    volumes = built(tmp_path, reverse=True)

    by_number = locate(volumes, "6")
    by_uid = locate(volumes, volumes[0].source_sop_uids[4])

    assert by_number == (volumes[0], 0)
    assert by_uid == (volumes[0], 4)


@pytest.mark.parametrize(
    ("named", "said"),
    [("7", "instance number 7; its 6 images are numbered 1 to 6"), ("1.2.3", "SOP Instance UID")],
)
def test_a_slice_that_is_not_there_is_refused(tmp_path: Path, named: str, said: str) -> None:
    with pytest.raises(SliceNotThere, match=said):
        locate(built(tmp_path), named)


@pytest.mark.parametrize(
    "box", [(-1, 0, 9, 9), (0, -0.5, 9, 9), (40, 10, 50.01, 20), (10, 30, 20, 41)]
)
def test_a_box_past_the_image_is_refused_with_the_size_of_the_image(tmp_path, box) -> None:
    """50 columns, 40 rows: exchanged axes would let the last two through."""
    with pytest.raises(BoxOutside, match="50 pixels wide and 40 high"):
        check_box(built(tmp_path)[0], box)


def test_a_number_that_two_slices_bear_is_refused_with_their_uids(tmp_path: Path) -> None:
    def renumber(dataset, k):
        dataset.InstanceNumber = str(1 + k // 2)

    volumes = built(tmp_path, edit=renumber)
    uids = volumes[0].source_sop_uids

    with pytest.raises(SliceAmbiguous, match="2 images have instance number 2") as raised:
        locate(volumes, "2")

    assert uids[2] in str(raised.value) and uids[3] in str(raised.value)
    assert locate(volumes, uids[3])[1] == 3


def test_slices_without_numbers_can_be_named_by_uid_only(tmp_path: Path) -> None:
    def without(dataset, _k):
        del dataset.InstanceNumber

    volumes = built(tmp_path, edit=without)

    with pytest.raises(SliceNotThere, match="no instance number, so give a SOP Instance UID"):
        locate(volumes, "1")
    assert np.array_equal(volumes[0].array.shape, SHAPE_ZYX)
