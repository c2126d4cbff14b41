"""The SEG of a tilted series, and its way back: highdicom reads it, ours finds its grid.

highdicom is the oracle of the frames and their positions. Of a grid it is none: it has no
leaning ones, and takes those that lean little for straight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from operators.compared import Priors
from operators.evidence.prior import read_priors
from operators.evidence.write import write_evidence
from operators.findings.longitudinal import compare_job
from operators.findings.measure import measure
from operators.job import Code, Segmentation, StudyJob
from operators.models.medsam.mark_file import MarkFile, MarksUnusable, read_regions
from operators.models.medsam.place import place
from operators.volume.seg_grid import find_grid, read_mask
from tests.operators.scene import RECORDED_AT, make_segmentation, segment
from tests.operators.test_volume_tilt import FLIPPED, SHAPE_ZYX, tilted
from tests.series import Ball, centred_grid, stable_uid

_ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
LARYNX, MANDIBLE = segment(1, "larynx"), segment(7, "mandible")
# Slices between the two, and the first and last ones, have no frame.
BALLS = [Ball((5.0, -5.0, -9.0), 5.0, 10), Ball((-6.0, 4.0, 8.0), 6.0, 70)]
GRIDS = {
    "1 degree, which highdicom takes for none": tilted(1.0),
    "15 degrees": tilted(15.0),
    "-20 degrees": tilted(-20.0),
    "flipped": tilted(30.0, FLIPPED),
    "about two axes": tilted(10.0, sideways=-12.0),
    "straight": centred_grid(SHAPE_ZYX, (2.5, 0.9, 0.7)),
}
Edit = Callable[[pydicom.Dataset], None]


def scene(
    folder: Path,
    affine: np.ndarray,
    date: str = "20240101",
    balls: Sequence[Ball] = tuple(BALLS),
) -> Segmentation:
    """Of a study of that date; all are of one patient and in one frame of reference."""

    def edit(dataset: pydicom.Dataset, k: int) -> None:
        dataset.StudyDate, dataset.PatientID = date, "P-1"
        dataset.StudyInstanceUID = stable_uid("study", date)
        dataset.SeriesInstanceUID = stable_uid("series", date)
        dataset.SOPInstanceUID = stable_uid("series", date, k)
        dataset.FrameOfReferenceUID = stable_uid("one frame")

    return make_segmentation(folder, balls, SHAPE_ZYX, affine, [LARYNX, MANDIBLE], edit=edit)


def written(made: Segmentation, folder: Path) -> Path:
    files = write_evidence(measure(made), folder, RECORDED_AT)
    return next(one.path for one in files if one.kind == "SEG")


@pytest.mark.parametrize("grid", GRIDS)
def test_highdicom_reads_frames_that_lie_on_the_slices_as_they_were_taken(
    grid: str, tmp_path: Path
) -> None:
    made = scene(tmp_path / "in", GRIDS[grid])

    seg = hd.seg.segread(written(made, tmp_path / "out"))

    assert "VolumeLocalizer" not in seg and seg.get("DimensionOrganizationType") != "3D"
    by_uid = {str(header.SOPInstanceUID): header for header in made.volume.headers}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        position = by_uid[str(source.ReferencedSOPInstanceUID)].ImagePositionPatient
        ours = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        np.testing.assert_allclose(ours, np.array(position, float), atol=1e-4)
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    normal = np.cross(*GRIDS[grid][:3, :2].T)
    along = abs(GRIDS[grid][:3, 2] @ normal) / np.linalg.norm(normal)
    assert float(measures.SpacingBetweenSlices) == pytest.approx(along, abs=1e-6)
    for number, label in ((1, 1), (2, 7)):
        pixels = seg.get_pixels_by_source_instance(
            list(made.volume.source_sop_uids),
            segment_numbers=[number],
            combine_segments=True,
            assert_missing_frames_are_empty=True,
        )
        np.testing.assert_array_equal(pixels > 0, made.labels == label)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_segment_is_where_it_was(grid: str, tmp_path: Path) -> None:
    made = scene(tmp_path / "in", GRIDS[grid])
    seg = hd.seg.segread(written(made, tmp_path / "out"))

    found = find_grid(seg)

    assert found is not None
    for number, ball in enumerate(BALLS, start=1):
        mask = read_mask(seg, number, found)
        assert mask.shape == found.shape
        index = np.argwhere(mask)[:, ::-1]
        there = index @ found.lps_from_index[:3, :3].T + found.lps_from_index[:3, 3]
        truth = np.argwhere(made.labels == ball.hu // 10)[:, ::-1]
        expected = truth @ GRIDS[grid][:3, :3].T + GRIDS[grid][:3, 3]
        # In whatever direction the slices are counted.
        ours, theirs = (points[np.lexsort(points.round(2).T)] for points in (there, expected))
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
        assert ball.contains(there).mean() > 0.99


def beside(dataset: pydicom.Dataset) -> None:
    frame = dataset.PerFrameFunctionalGroupsSequence[2]
    frame.PlanePositionSequence[0].ImagePositionPatient[0] += 1.0


def no_spacing(dataset: pydicom.Dataset) -> None:
    del dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices


def other_spacing(dataset: pydicom.Dataset) -> None:
    """That along the table, which is not along the normal."""
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SpacingBetweenSlices = 2.5


@pytest.mark.parametrize("degrees", [1.0, 15.0])
@pytest.mark.parametrize("edit", [beside, no_spacing])
def test_frames_on_no_one_grid_are_refused(degrees: float, edit: Edit, tmp_path: Path) -> None:
    refused(tilted(degrees), edit, tmp_path)


@pytest.mark.parametrize("balls", [BALLS, BALLS[:1]])
def test_a_spacing_that_the_positions_deny_is_refused(balls: list[Ball], tmp_path: Path) -> None:
    """With one ball its slices follow each other evenly, by less than is said."""
    refused(tilted(20.0), other_spacing, tmp_path, balls)


def refused(
    affine: np.ndarray, edit: Edit, folder: Path, balls: Sequence[Ball] = tuple(BALLS)
) -> None:
    file = written(scene(folder / "in", affine, balls=balls), folder / "out")
    dataset = pydicom.dcmread(file)
    edit(dataset)
    dataset.save_as(file)

    assert find_grid(hd.seg.segread(file)) is None
    with pytest.raises(MarksUnusable, match="no one grid"):
        read_regions(MarkFile(file, "1"))
    (reason,) = read_priors(folder / "out").left_out
    assert "no one grid" in reason


def test_a_segment_of_a_tilted_series_is_a_mark_on_the_same_slices(tmp_path: Path) -> None:
    made = scene(tmp_path / "in", tilted(-20.0))

    (region,) = read_regions(MarkFile(written(made, tmp_path / "out"), "2"))
    placed = place([made.volume], region)

    ours = np.zeros(SHAPE_ZYX, bool)
    for k, prompt in placed.slices.items():
        ours[k] = prompt.mask
    np.testing.assert_array_equal(ours, made.labels == 7)


@pytest.mark.parametrize("now", ["15 degrees", "1 degree, which highdicom takes for none"])
@pytest.mark.parametrize("then", ["15 degrees", "straight"])
def test_what_did_not_grow_has_not_grown_whatever_the_gantry(
    now: str, then: str, tmp_path: Path
) -> None:
    written(scene(tmp_path / "then", GRIDS[then], "20230101"), tmp_path / "out")
    present = measure(scene(tmp_path / "now", GRIDS[now]))
    priors = read_priors(tmp_path / "out")
    job = StudyJob(Path(), Path(), RECORDED_AT, reports=(present,))

    (report,) = compare_job(job, lambda _: Priors(priors.results)).reports

    assert report.comparison is not None and priors.left_out == ()
    assert len(report.comparison.pairs) == 2
    for pair, ball in zip(report.comparison.pairs, BALLS, strict=True):
        volume = pair.changes[0]
        assert volume.prior == pytest.approx(ball.volume_ml, rel=0.06)
        assert volume.present == pytest.approx(ball.volume_ml, rel=0.06)
        assert not volume.exceeds_uncertainty


def test_lesions_of_a_tilted_prior_overlap_where_they_are(tmp_path: Path) -> None:
    lesions = [replace(LARYNX, category=_ABNORMAL), replace(MANDIBLE, category=_ABNORMAL)]
    then = replace(scene(tmp_path / "then", tilted(15.0), "20230101"), segments=tuple(lesions))
    now = replace(scene(tmp_path / "now", GRIDS["straight"]), segments=tuple(lesions))
    written(then, tmp_path / "out")
    job = StudyJob(Path(), Path(), RECORDED_AT, reports=(measure(now),))

    (report,) = compare_job(job, lambda _: read_priors(tmp_path / "out")).reports

    assert report.comparison is not None
    found = {pair.number: (pair.matched_by, pair.dice) for pair in report.comparison.pairs}
    assert {number: how for number, (how, _) in found.items()} == {1: "overlap", 7: "overlap"}
    assert all(dice is not None and dice > 0.85 for _, dice in found.values())
