"""Segments lie where geometry says, by the SEG's own headers and by dcmqi's reading.

Nothing of ours reads the SEG here: positions come from its functional groups by
the formula of PS3.3 C.7.6.2.1.1.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy.spatial import cKDTree

from operators.evidence.write import write_evidence
from operators.findings.measure import measure
from tests.operators.scene import RECORDED_AT, make_segmentation, segment, two_glands
from tests.series import Ball, axis_directions, centred_grid, oblique
from tests.validators import segments_by_dcmqi

SHAPE = (18, 28, 22)
SPACING_ZYX_MM = (1.25, 0.8, 1.1)  # rows 0.8 mm apart, columns 1.1 mm
BALL = Ball(centre_lps_mm=(11.3, -29.6, 54.2), radius_mm=9.0, hu=20)
# Slices are sorted along their normal, so a volume's grid is right-handed.
RIGHT_HANDED = [axes for axes in axis_directions() if np.linalg.det(axes) > 0]
GRIDS = {
    **{f"axes-{n:02}": axes for n, axes in enumerate(RIGHT_HANDED)},
    **{f"oblique-{a}-{b}": oblique(a, b) for a, b in product((17, 100), (35, -60))},
}


def places(seg: pydicom.Dataset, number: int) -> np.ndarray:
    """LPS mm of the voxel centres of one segment, shape (n, 3)."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    along_row, along_column = orientation.reshape(2, 3)
    # First value: distance between rows, so the step from one row to the next.
    row_step_mm, column_step_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    found = []
    for frame, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        if groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber != number:
            continue
        origin = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(frame)
        found.append(
            origin
            + np.outer(columns * column_step_mm, along_row)
            + np.outer(rows * row_step_mm, along_column)
        )
    return np.concatenate(found)


@pytest.mark.parametrize("directions", GRIDS.values(), ids=GRIDS.keys())
def test_ball_keeps_its_centre_and_volume_in_the_seg(
    tmp_path: Path, directions: np.ndarray
) -> None:
    # Off the middle of the grid, so that a flip moves it.
    grid = centred_grid(SHAPE, SPACING_ZYX_MM, directions, centre_lps_mm=(12.5, -28.7, 53.4))
    segmentation = make_segmentation(tmp_path, [BALL], SHAPE, grid, [segment(2, "mandible")])

    evidence = write_evidence(measure(segmentation), tmp_path, RECORDED_AT)

    seg = pydicom.dcmread(evidence[0].path)
    found = places(seg, 1)
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    voxel_mm3 = np.prod([*measures.PixelSpacing, measures.SpacingBetweenSlices])
    offset_mm = found.mean(axis=0) - BALL.centre_lps_mm
    assert (np.abs(directions.T @ offset_mm) < 0.5 * np.array(SPACING_ZYX_MM[::-1])).all()
    assert len(found) * voxel_mm3 / 1000 == pytest.approx(BALL.volume_ml, rel=0.01)


def test_dcmqi_finds_every_voxel_at_its_place(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    seg, _ = write_evidence(report, tmp_path / "out", RECORDED_AT)
    volume, labels = report.segmentation.volume, report.segmentation.labels

    found = segments_by_dcmqi(seg.path, tmp_path / "dcmqi")

    assert sorted(found) == [1, 2]
    for number, label in ((1, 2), (2, 7)):
        index = np.argwhere(labels == label)[:, ::-1]
        expected = index @ volume.lps_from_index[:3, :3].T + volume.lps_from_index[:3, 3]
        distances, partners = cKDTree(expected).query(found[number])
        assert len(set(partners)) == len(expected) == len(found[number])
        assert distances.max() < 1e-3


def test_frames_point_to_the_source_image_of_their_own_slice(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    seg = pydicom.dcmread(write_evidence(report, tmp_path / "out", RECORDED_AT)[0].path)
    headers = {h.SOPInstanceUID: h for h in report.segmentation.volume.headers}

    for groups in seg.PerFrameFunctionalGroupsSequence:
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        header = headers[source.ReferencedSOPInstanceUID]
        assert source.ReferencedSOPClassUID == header.SOPClassUID
        position = groups.PlanePositionSequence[0].ImagePositionPatient
        assert position == pytest.approx(list(header.ImagePositionPatient), abs=1e-6)
