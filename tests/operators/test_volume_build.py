"""What a series becomes: one volume, one per acquisition, or a refusal; and in how much memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from operators.job import Series
from operators.study.read import read_drop
from operators.volume.build import build_volumes
from operators.volume.refusals import (
    MixedFramesOfReference,
    MixedMatrixSizes,
    OnlyLocalizers,
    RepeatedPositions,
    UnevenSpacing,
)
from tests.series import Ball, centred_grid, render, stable_uid, write_ct_series

SHAPE = (6, 12, 10)
AFFINE = centred_grid(SHAPE, (2.5, 0.8, 1.1))
ARRAY = render([Ball((0.5, -0.5, 1.0), 4.0, 700)], SHAPE, AFFINE)


def written(folder: Path, array=ARRAY, edit=None) -> Series:
    write_ct_series(folder, array, AFFINE, edit=edit)
    drop = read_drop(folder)
    assert drop.refused == ()
    return drop.studies[0].series[0]


def at(place: float) -> list[str]:
    return [f"{value:.6f}" for value in AFFINE[:3] @ (0, 0, place, 1)]


def two_acquisitions(second_starts_at: int, number=lambda second: 1 + second):
    """Slices 0 to 5 are one run of the table, 6 to 11 another, beginning anywhere."""

    def edit(dataset: Dataset, k: int) -> None:
        second = k >= SHAPE[0]
        dataset.AcquisitionNumber = number(second)
        dataset.ImagePositionPatient = at(k - SHAPE[0] + second_starts_at if second else k)

    return edit


BOTH = np.concatenate([ARRAY, ARRAY + 120])


@pytest.mark.parametrize("start", [0, 4], ids=["same places", "overlapping"])
def test_two_acquisitions_become_two_volumes(tmp_path, start):
    first, second = build_volumes(written(tmp_path, BOTH, two_acquisitions(start)))

    assert (first.part, second.part) == ("acquisition 1", "acquisition 2")
    assert np.array_equal(first.array, ARRAY)
    assert np.array_equal(second.array, ARRAY + 120)
    assert second.lps_from_index[2, 3] - first.lps_from_index[2, 3] == pytest.approx(2.5 * start)
    assert not set(first.source_sop_uids) & set(second.source_sop_uids)


def test_acquisitions_that_continue_each_other_stay_one_volume(tmp_path):
    (volume,) = build_volumes(written(tmp_path, BOTH, two_acquisitions(SHAPE[0])))

    assert volume.part == ""
    assert np.array_equal(volume.array, BOTH)


@pytest.mark.parametrize("number", [1, None])
def test_repeated_places_without_a_number_to_tell_them_are_refused(tmp_path, number):
    with pytest.raises(RepeatedPositions, match="6 of 12 images"):
        build_volumes(written(tmp_path, BOTH, two_acquisitions(0, lambda _: number)))


def test_a_gap_in_one_acquisition_refuses_the_series(tmp_path):
    series = written(tmp_path, BOTH, two_acquisitions(0))
    lost = stable_uid("PHANTOM-1", "study", "series", SHAPE[0] + 3)
    kept = tuple(image for image in series.instances if image.sop_instance_uid != lost)

    with pytest.raises(UnevenSpacing, match="between slices 3 and 4"):
        build_volumes(Series(series.series_instance_uid, "CT", kept))


def test_localizers_are_left_out_and_told(tmp_path):
    def first_is_localizer(dataset: Dataset, k: int) -> None:
        if k == 0:
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            dataset.ImageOrientationPatient = ["0", "1", "0", "0", "0", "-1"]

    (volume,) = build_volumes(written(tmp_path, edit=first_is_localizer))

    assert np.array_equal(volume.array, ARRAY[1:])
    assert [flag.name for flag in volume.quality] == ["localizer-left-out"]
    assert volume.quality[0].text.startswith("1 localizer")


def test_a_series_of_localizers_is_refused(tmp_path):
    def localizer(dataset: Dataset, _: int) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    with pytest.raises(OnlyLocalizers, match="all 6 images"):
        build_volumes(written(tmp_path, edit=localizer))


def test_two_frames_of_reference_are_refused_though_positions_go_on(tmp_path):
    def two_frames(dataset: Dataset, k: int) -> None:
        dataset.FrameOfReferenceUID = "1.2.3" if k < 2 else "1.2.4"

    with pytest.raises(MixedFramesOfReference, match="2 and 4 images"):
        build_volumes(written(tmp_path, edit=two_frames))


def test_two_matrix_sizes_are_refused_with_both(tmp_path):
    def smaller_last(dataset: Dataset, k: int) -> None:
        if k == 5:
            dataset.Rows = 6
            dataset.PixelData = dataset.PixelData[: 6 * 10 * 2]

    with pytest.raises(MixedMatrixSizes, match="5 of 12 x 10") as refused:
        build_volumes(written(tmp_path, edit=smaller_last))
    assert "1 of 6 x 10" in str(refused.value)


def test_no_refusal_says_who_the_patient_is(tmp_path):
    def named(dataset: Dataset, k: int) -> None:
        dataset.PatientName, dataset.PatientID = "Doe^Jane", "SECRET-7"
        dataset.FrameOfReferenceUID = f"1.2.{k}"

    with pytest.raises(MixedFramesOfReference) as refused:
        build_volumes(written(tmp_path, edit=named))
    assert not {"Doe", "Jane", "SECRET"} & set(refused.value.reason.replace("-", "^").split("^"))


def test_memory_is_that_of_the_volume_and_a_few_slices(tmp_path):
    shape = (40, 128, 128)
    affine = centred_grid(shape, (2.5, 0.8, 1.1))
    write_ct_series(tmp_path, np.zeros(shape, np.int16), affine)
    series = read_drop(tmp_path).studies[0].series[0]
    build_volumes(series)  # decoders are loaded once

    tracemalloc.start()
    (volume,) = build_volumes(series)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < volume.array.nbytes + 8 * volume.array[0].nbytes
