"""Which series a card accepts, and the sentence for each "no"."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from operators.job import Instance, Series, Study
from operators.study.read import read_drop
from operators.study.refusals import UnknownAcceptsKey
from operators.study.select import Accepts, explain_mismatch, select
from tests.series import centred_grid, write_ct_series

CARD = {
    "modality": ["CT"],
    "body_part": ["HEAD", "NECK", "HEADNECK", "HEAD AND NECK"],
    "image_type": {"none_of": ["LOCALIZER", "DERIVED"]},
    "slices": {"min": 5},
    "spacing_mm": {"max": 5.0},
    "pixel_mm": {"max": 2.0},
}
ACCEPTS = Accepts.from_mapping(CARD)
SHAPE = (6, 8, 9)


def series_in(folder: Path, spacing=(2.5, 0.8, 1.1), shape=SHAPE, **options) -> Series:
    write_ct_series(folder, np.zeros(shape, np.int16), centred_grid(shape, spacing), **options)
    (study,) = read_drop(folder).studies
    (series,) = study.series
    return series


def change(**elements):
    def edit(dataset: Dataset, _: int) -> None:
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)

    return edit


def test_series_that_answers_every_question_matches(tmp_path):
    assert explain_mismatch(series_in(tmp_path), ACCEPTS) is None


@pytest.mark.parametrize("written", ["head", "HEAD AND NECK", " NECK"])
def test_body_part_is_read_without_case_and_padding(tmp_path, written):
    series = series_in(tmp_path, body_part=written)

    assert explain_mismatch(series, ACCEPTS) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"body_part": "ABDOMEN"},
            "body part 'ABDOMEN' is none of HEAD, NECK, HEADNECK, HEAD AND NECK",
        ),
        (
            {"body_part": None},
            "BodyPartExamined is empty and the bundle is for HEAD, NECK, HEADNECK, HEAD AND NECK "
            "only (`radloop run --bundle NAME` runs it regardless)",
        ),
        ({"edit": change(Modality="MR")}, "modality 'MR' is none of CT"),
        ({"edit": change(Modality="")}, "its Modality is empty"),
        (
            {"edit": change(SOPClassUID="1.2.840.10008.5.1.4.1.1.7")},
            "its objects are Secondary Capture Image Storage, not CT Image Storage, "
            "MR Image Storage, Positron Emission Tomography Image Storage",
        ),
        (
            {"edit": change(ImageType=["DERIVED", "SECONDARY", "REFORMATTED"])},
            "image type DERIVED is not accepted (6 of 6 images have it)",
        ),
        (
            {"edit": change(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])},
            "all 6 images are localizers",
        ),
        ({"shape": (4, 8, 9)}, "it has 4 slices, fewer than 5"),
        ({"spacing": (5.5, 0.8, 1.1)}, "its slices are 5.50 mm apart, more than 5.00 mm"),
        ({"spacing": (2.5, 0.8, 2.1)}, "its pixels are 2.10 mm wide, more than 2.00 mm"),
        ({"spacing": (2.5, 2.2, 1.1)}, "its pixels are 2.20 mm wide, more than 2.00 mm"),
    ],
)
def test_each_no_is_told_in_words(tmp_path, options, said):
    assert explain_mismatch(series_in(tmp_path, **options), ACCEPTS) == said


def test_spacing_is_measured_and_not_read_from_slice_thickness(tmp_path):
    thin_label = change(SliceThickness="1", SpacingBetweenSlices="1")
    series = series_in(tmp_path, spacing=(6.0, 0.8, 1.1), edit=thin_label)

    assert "6.00 mm apart" in explain_mismatch(series, ACCEPTS)


def test_a_value_that_is_no_code_string_is_not_repeated(tmp_path):
    series = series_in(tmp_path, body_part="Doe, John 1950")

    said = explain_mismatch(series, ACCEPTS)

    assert said.startswith("body part (no valid code string) is none of HEAD")


def test_one_localizer_among_slices_is_left_to_the_volume_builder(tmp_path):
    def first_is_localizer(dataset: Dataset, k: int) -> None:
        if k == 0:
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    series = series_in(tmp_path, edit=first_is_localizer)

    assert explain_mismatch(series, ACCEPTS) is None


def test_a_single_foreign_instance_stops_the_series(tmp_path):
    def last_is_abdomen(dataset: Dataset, k: int) -> None:
        if k == 5:
            dataset.BodyPartExamined = "ABDOMEN"

    series = series_in(tmp_path, edit=last_is_abdomen)

    assert "'ABDOMEN'" in explain_mismatch(series, ACCEPTS)


def test_forced_bundle_skips_the_body_part_and_nothing_else(tmp_path):
    abdomen = series_in(tmp_path / "a", body_part="ABDOMEN")
    short = series_in(tmp_path / "b", body_part="ABDOMEN", shape=(4, 8, 9), series="short")
    study = Study("1.2", (abdomen, short))

    matches, unmatched = select((study,), {"hn": ACCEPTS, "other": ACCEPTS}, forced_bundle="hn")

    assert [(match.bundle, match.series) for match in matches] == [("hn", abdomen)]
    assert [entry.reason for entry in unmatched] == ["hn: it has 4 slices, fewer than 5."]


def test_every_bundle_says_why_not_and_a_series_may_match_several(tmp_path):
    abdomen = series_in(tmp_path, body_part="ABDOMEN")
    anything = replace(ACCEPTS, body_part=())

    matches, unmatched = select(
        (Study("1.2", (abdomen,)),), {"a": anything, "b": ACCEPTS, "c": anything}
    )
    _, alone = select((Study("1.2", (abdomen,)),), {"b": ACCEPTS, "d": replace(ACCEPTS)})

    assert [match.bundle for match in matches] == ["a", "c"]
    assert unmatched == ()
    assert alone[0].what == abdomen.series_instance_uid
    assert alone[0].reason.startswith("b: body part 'ABDOMEN'")
    assert "d: body part 'ABDOMEN'" in alone[0].reason


def test_without_a_bundle_every_series_says_so(tmp_path):
    study = Study("1.2", (series_in(tmp_path),))

    assert select((study,), {})[1][0].reason == "No bundle is installed."
    assert "called x (installed: hn)" in select((study,), {"hn": ACCEPTS}, "x")[1][0].reason


def test_a_report_is_told_by_its_modality():
    header = Dataset()
    header.Modality = "SR"
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    series = Series("1.2.3", "SR", (Instance(Path("x"), header),))

    assert explain_mismatch(series, ACCEPTS) == "modality 'SR' is none of CT"


@pytest.mark.parametrize("block", [{"colour": ["red"]}, {"slices": {"max": 3}}, {"slices": 40}])
def test_a_question_that_is_not_understood_is_refused(block):
    with pytest.raises(UnknownAcceptsKey, match=next(iter(block))):
        Accepts.from_mapping(block)


def test_description_holds_every_limit():
    assert ACCEPTS.describe() == (
        "CT; body part HEAD or NECK or HEADNECK or HEAD AND NECK; image type without LOCALIZER, "
        "DERIVED; at least 5 slices; slices at most 5 mm apart; pixels at most 2 mm wide"
    )
