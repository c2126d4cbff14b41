"""Faults that were reproduced in other readers of DICOM series, each shown to be absent here.

One test per fault of the App SDK's series-to-volume and selection operators.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import PositronEmissionTomographyImageStorage

from operators.job import Series
from operators.study.read import read_drop
from operators.study.select import Accepts, explain_mismatch
from operators.volume.build import build_volumes
from operators.volume.refusals import (
    MissingGeometry,
    RepeatedPositions,
    TooFewSlices,
    UnevenSpacing,
)
from tests.series import Ball, centred_grid, render, stable_uid, write_ct_series

SHAPE = (8, 20, 16)
SPACING_ZYX_MM = (2.5, 0.8, 1.1)
AFFINE = centred_grid(SHAPE, SPACING_ZYX_MM)
ARRAY = render([Ball((1.0, 2.0, -1.0), 5.0, 1500)], SHAPE, AFFINE)


def written(folder: Path, array=ARRAY, edit=None) -> Series:
    write_ct_series(folder, array, AFFINE, edit=edit)
    (study,) = read_drop(folder).studies
    return study.series[0]


def test_fault_dtype_taken_from_the_first_slice(tmp_path):
    """There: −924 HU became 64612, since the first slice was unsigned."""
    hu = np.full(SHAPE, -924, np.int16)

    def first_slice_unsigned(dataset: Dataset, k: int) -> None:
        if k == 0:
            dataset.PixelRepresentation = 0
            dataset.RescaleIntercept = "-1024"
            dataset.PixelData = np.full(SHAPE[1:], 100, "<u2").tobytes()

    (volume,) = build_volumes(written(tmp_path, hu, first_slice_unsigned))

    assert volume.array.dtype == np.int16
    assert set(np.unique(volume.array)) == {-924}


def test_fault_slope_of_one_slice_used_for_all(tmp_path):
    def own_rescale(dataset: Dataset, k: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = str(k + 1), str(-10 * k)
        dataset.PixelData = np.full(SHAPE[1:], 7, "<i2").tobytes()

    (volume,) = build_volumes(written(tmp_path, edit=own_rescale))

    assert volume.array[:, 0, 0].tolist() == [7 * (k + 1) - 10 * k for k in range(SHAPE[0])]


def test_fault_pet_values_truncated_to_integers(tmp_path):
    slopes = [0.001 + 0.0003 * k for k in range(SHAPE[0])]

    def as_pet(dataset: Dataset, k: int) -> None:
        dataset.SOPClassUID = PositronEmissionTomographyImageStorage
        dataset.Modality = "PT"
        dataset.Units = "GML"
        dataset.RescaleSlope = str(slopes[k])
        dataset.PixelData = np.full(SHAPE[1:], 2500, "<i2").tobytes()

    (volume,) = build_volumes(written(tmp_path, edit=as_pet))

    assert volume.unit == "SUVbw"
    assert volume.array.dtype == np.float32
    assert volume.array[:, 3, 3] == pytest.approx([2500 * slope for slope in slopes], rel=1e-6)


def test_fault_row_and_column_spacing_swapped(tmp_path):
    (volume,) = build_volumes(written(tmp_path))

    assert volume.spacing_zyx_mm == pytest.approx(SPACING_ZYX_MM, abs=1e-6)
    # One column further is 1.1 mm to the left, one row further 0.8 mm to the back.
    assert volume.lps_from_index[:3, 0] == pytest.approx([1.1, 0, 0], abs=1e-6)
    assert volume.lps_from_index[:3, 1] == pytest.approx([0, 0.8, 0], abs=1e-6)


def test_fault_depth_spacing_from_the_first_two_slices_gap_unseen(tmp_path):
    series = written(tmp_path)
    with_gap = [image for image in series.instances if image.header.InstanceNumber != 5]

    with pytest.raises(UnevenSpacing, match=r"5\.00 mm between slices 4 and 5"):
        build_volumes(Series(series.series_instance_uid, "CT", tuple(with_gap)))


def test_fault_depth_spacing_is_the_mean_of_all_steps_not_the_first(tmp_path):
    def rounded(dataset: Dataset, k: int) -> None:
        dataset.ImagePositionPatient = ["0", "0", f"{round(k * 0.64, 1):.1f}"]

    (volume,) = build_volumes(written(tmp_path, edit=rounded))

    assert volume.spacing_zyx_mm[0] == pytest.approx(4.5 / 7, abs=1e-6)


def test_fault_equal_duplicates_dropped_silently(tmp_path):
    """There: 4 slices became 3 without a word."""
    extra = np.insert(ARRAY, 3, ARRAY[3], axis=0)

    def same_place(dataset: Dataset, k: int) -> None:
        place = k if k <= 3 else k - 1
        dataset.ImagePositionPatient = [str(v) for v in AFFINE[:3] @ (0, 0, place, 1)]

    (volume,) = build_volumes(written(tmp_path, extra, same_place))

    assert np.array_equal(volume.array, ARRAY)
    (flag,) = volume.quality
    assert flag.name == "duplicates-removed"
    left_out = {stable_uid("PHANTOM-1", "study", "series", k) for k in range(9)}
    assert (left_out - set(volume.source_sop_uids)).pop() in flag.text


def test_fault_different_duplicates_dropped_silently(tmp_path):
    extra = np.insert(ARRAY, 3, ARRAY[3] + 50, axis=0)

    def same_place(dataset: Dataset, k: int) -> None:
        place = k if k <= 3 else k - 1
        dataset.ImagePositionPatient = [str(v) for v in AFFINE[:3] @ (0, 0, place, 1)]

    with pytest.raises(RepeatedPositions, match="1 of 9 images"):
        build_volumes(written(tmp_path, extra, same_place))


def test_fault_one_slice_without_affine(tmp_path):
    series = written(tmp_path)

    with pytest.raises(TooFewSlices, match="has 1 slice"):
        build_volumes(Series(series.series_instance_uid, "CT", series.instances[:1]))


def test_fault_slices_without_position_dropped_silently(tmp_path):
    def last_without_position(dataset: Dataset, k: int) -> None:
        if k == SHAPE[0] - 1:  # at the end, its absence leaves no gap
            del dataset.ImagePositionPatient

    with pytest.raises(MissingGeometry, match="1 of 8 images have no usable ImagePositionPatient"):
        build_volumes(written(tmp_path, edit=last_without_position))


def test_fault_body_part_read_from_the_wrong_tag(tmp_path):
    """There: (0008,0015) was asked, and the answer was always None."""

    def with_both(dataset: Dataset, _: int) -> None:
        dataset.add_new(0x00080015, "DT", "20240102030405")
        dataset.add_new(0x00180015, "CS", "HEADNECK")

    series = written(tmp_path, edit=with_both)

    assert explain_mismatch(series, Accepts(body_part=("HEADNECK",))) is None
    assert "'HEADNECK' is none of ABDOMEN" in str(
        explain_mismatch(series, Accepts(body_part=("ABDOMEN",)))
    )


def test_fault_monochrome1_changes_no_hounsfield_value(tmp_path):
    def monochrome1(dataset: Dataset, _: int) -> None:
        dataset.PhotometricInterpretation = "MONOCHROME1"

    (volume,) = build_volumes(written(tmp_path, edit=monochrome1))

    assert np.array_equal(volume.array, ARRAY)
