"""Measurements against geometry and against the plainest possible counting."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from math import pi
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.dataset import Dataset

from operators.findings.measure import measure, measure_job
from operators.findings.tally import GridMismatch, UndescribedLabel
from operators.job import Segmentation, StudyJob, Volume
from tests.operators.scene import MODEL, make_segmentation, segment
from tests.series import Ball, centred_grid, oblique


def bare(
    array: np.ndarray, labels: np.ndarray, numbers: list[int], padding: np.ndarray | None = None
) -> Segmentation:
    """A segmentation without files: unit grid, empty headers."""
    volume = Volume(
        array=array,
        lps_from_index=np.diag([0.5, 2.0, 3.0, 1.0]),
        unit="HU",
        frame_of_reference_uid="1.2.3",
        headers=tuple(Dataset() for _ in array),
        series_instance_uid="1.2.3.4",
        bundle="test_bundle",
        padding=padding,
    )
    segments = tuple(segment(number, "larynx") for number in numbers)
    return Segmentation(volume, labels, segments, MODEL)


def test_ball_has_its_analytic_volume_on_an_oblique_anisotropic_grid(tmp_path: Path) -> None:
    ball = Ball(centre_lps_mm=(12.0, -30.0, 55.0), radius_mm=14.0, hu=30)
    grid = centred_grid((24, 40, 52), (1.5, 1.1, 0.8), oblique(30, 20), ball.centre_lps_mm)

    report = measure(
        make_segmentation(tmp_path, [ball], (24, 40, 52), grid, [segment(3, "mandible")])
    )

    (finding,) = report.findings
    assert finding.volume_ml == pytest.approx(4 / 3 * pi * 14.0**3 / 1000, rel=0.01)
    assert finding.mean == pytest.approx(30.0)
    assert (finding.unit, finding.severity) == ("HU", "NOT_ASSESSED")


@given(data=st.data(), dtype=st.sampled_from([np.int16, np.float32]))
@settings(max_examples=60, deadline=None)
def test_counts_and_means_equal_those_of_one_mask_after_the_other(
    data: st.DataObject, dtype: type
) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=6))
    labels = data.draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 4, 9])))
    values = data.draw(hnp.arrays(np.int16, shape)).astype(dtype)
    padding = data.draw(st.none() | hnp.arrays(np.bool_, shape))

    report = measure(bare(values, labels, [9, 1, 4], padding))

    for finding, number in zip(report.findings, [9, 1, 4], strict=True):
        mask = labels == number
        inside = mask if padding is None else mask & ~padding
        assert finding.voxels == mask.sum()
        assert finding.volume_ml == (pytest.approx(mask.sum() * 0.003) if mask.any() else None)
        expected = values[inside].astype(float).mean() if inside.any() else None
        assert finding.mean == (None if expected is None else pytest.approx(expected, abs=1e-6))


def test_padding_counts_for_the_volume_and_not_for_the_mean() -> None:
    values = np.array([[[10, 20, -2000, -2000]]], np.int16)
    labels = np.array([[[1, 1, 1, 2]]], np.uint8)

    report = measure(bare(values, labels, [1, 2], padding=values == -2000))

    assert [finding.voxels for finding in report.findings] == [3, 1]
    assert [finding.mean for finding in report.findings] == [15.0, None]


def test_label_without_a_segment_is_refused_by_its_number() -> None:
    labels = np.array([[[0, 1, 6, 6]]], np.uint8)

    with pytest.raises(UndescribedLabel, match="label 6 to 2 voxels"):
        measure(bare(np.zeros((1, 1, 4), np.int16), labels, [1]))


def test_labels_on_another_grid_are_refused_with_both_shapes() -> None:
    with pytest.raises(GridMismatch, match=r"\(1, 4, 1\) for a volume of shape \(1, 1, 4\)"):
        measure(bare(np.zeros((1, 1, 4), np.int16), np.zeros((1, 4, 1), np.uint8), [1]))


def test_measuring_takes_the_memory_of_the_structure_and_not_of_the_volume() -> None:
    values = np.ones((120, 160, 160), np.int16)
    labels = np.zeros(values.shape, np.uint8)
    labels[10:40, 20:60, 20:60] = 1
    segmentation = bare(values, labels, [1])
    measure(segmentation)  # what libraries keep from their first call on is not counted

    tracemalloc.start()
    measure(segmentation)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < values.nbytes / 5


def test_statistics_are_those_of_the_values_without_padding() -> None:
    values = np.random.default_rng(3).integers(-900, 900, (4, 9, 11)).astype(np.int16)
    labels = (np.indices(values.shape)[2] > 4).astype(np.uint8)
    padding = values < -700

    (finding,) = measure(bare(values, labels, [1], padding)).findings

    under = values[(labels == 1) & ~padding].astype(float)
    expected = {
        "mean": under.mean(),
        "standard_deviation": under.std(),
        "minimum": under.min(),
        "percentile_05": np.percentile(under, 5),
        "median": np.median(under),
        "percentile_95": np.percentile(under, 95),
        "maximum": under.max(),
    }
    for name, value in expected.items():
        assert finding.measured(name, "[hnsf'U]") == pytest.approx(value), name
        assert finding.measured(name, "mm") is None


def test_overlapping_segments_measure_as_each_would_alone() -> None:
    rng = np.random.default_rng(5)
    values = rng.integers(-100, 100, (7, 12, 10)).astype(np.int16)
    planes = [np.zeros(values.shape, bool) for _ in range(2)]
    planes[0][1:5, 2:9, 3:8] = True
    planes[1][3:7, 5:12, 0:6] = True
    bits = (planes[0] * 1 + planes[1] * 4).astype(np.uint8)
    together = replace(bare(values, bits, [1, 3]), overlapping=True)

    found = measure(together).findings

    for plane, finding in zip(planes, found, strict=True):
        (alone,) = measure(bare(values, plane.astype(np.uint8), [1])).findings
        assert finding.measurements == alone.measurements


def test_a_refused_segmentation_does_not_stop_the_next(tmp_path: Path) -> None:
    good = bare(np.zeros((1, 1, 4), np.int16), np.ones((1, 1, 4), np.uint8), [1])
    bad = replace(good, labels=np.full((1, 1, 4), 7, np.uint8))
    job = StudyJob(tmp_path, tmp_path, "20240506070809", segmentations=(bad, good))

    measured = measure_job(job)

    assert [report.segmentation.labels is good.labels for report in measured.reports] == [True]
    assert [refused.what for refused in measured.refused] == ["1.2.3.4"]
    assert measured.refused[0].reason.startswith("RL-0460")
