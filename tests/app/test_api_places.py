"""Centre and box of a segment, against the phantom's drawing."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.api.places import read_places
from operators.evidence.write import write_evidence
from tests.operators.scene import RECORDED_AT, two_glands


def test_oblique_grid_whose_frames_are_no_whole_bytes(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "ct")
    seg, _ = write_evidence(report, tmp_path / "out", RECORDED_AT)

    places = read_places(seg.path)

    truth = {
        "parotid_left": ((5.0, -42.0, 68.0), (5.0,) * 3),
        "mandible": ((17.0, -38.0, 72.0), (3.0, 2.5, 4.5)),
    }
    found = [f.segment for f in report.findings if f.voxels]
    assert len(places) == len(found) == 2
    for segment in found:
        centre, half = truth[segment.name]
        place = places[segment.name]
        assert place.center_lps_mm == pytest.approx(centre, abs=0.7)
        for axis in range(3):
            low, high = place.box_lps_mm[0][axis], place.box_lps_mm[1][axis]
            # Half a voxel of each of three turned directions: 2.5, 0.8 and 1.1 mm.
            assert low == pytest.approx(centre[axis] - half[axis], abs=2.5)
            assert high == pytest.approx(centre[axis] + half[axis], abs=2.5)


def test_the_number_is_the_segs_own(tmp_path: Path) -> None:
    """Labels 2, 5 (not found) and 7 are segments 1 and 2 of the SEG."""
    seg, _ = write_evidence(two_glands(tmp_path / "ct"), tmp_path / "out", RECORDED_AT)
    numbers = {name: place.segment_number for name, place in read_places(seg.path).items()}
    assert numbers == {"parotid_left": 1, "mandible": 2}
