"""What is cut off at an end of the image is named, there and nowhere else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from operators.evidence.result import write_result
from operators.evidence.write import write_job
from operators.findings.coverage import NAME, cut_off, remark_coverage
from operators.findings.measure import measure_job
from operators.job import QualityFlag, Segmentation, StudyJob
from operators.models.beyond import remark_beyond
from operators.study.select import Accepts
from tests.operators.scene import RECORDED_AT, make_segmentation, segment
from tests.series import Box, centred_grid

SHAPE = (8, 20, 24)
GRID = centred_grid(SHAPE, (3.0, 1.0, 1.0))
# Half-open index ranges (z, y, x) of the one structure, and where it is cut off.
PLACES = {
    "inside": ((1, 7), (1, 19), (1, 23), []),
    "first slice": ((0, 4), (5, 9), (5, 9), ["first slice"]),
    "last slice": ((4, 8), (5, 9), (5, 9), ["last slice"]),
    "both ends": ((0, 8), (5, 9), (5, 9), ["first slice", "last slice"]),
    "first row": ((3, 5), (0, 9), (5, 9), ["edge of the field of view"]),
    "last row": ((3, 5), (5, 20), (5, 9), ["edge of the field of view"]),
    "first column": ((3, 5), (5, 9), (0, 9), ["edge of the field of view"]),
    "last column": ((3, 5), (5, 9), (5, 24), ["edge of the field of view"]),
}


def labelled(folder: Path, ranges: tuple[tuple[int, int], ...], number: int = 2) -> Segmentation:
    """The phantom's grid with one box of voxels; the larynx is looked for and not there."""
    segments = [segment(2, "parotid", "left"), segment(5, "larynx")]
    far = Box(centre_lps_mm=(500.0, 0.0, 0.0), size_lps_mm=(1.0, 1.0, 1.0), hu=20)
    made = make_segmentation(folder, [far], SHAPE, GRID, segments)
    labels = np.zeros(SHAPE, np.uint8)
    labels[tuple(slice(*ends) for ends in ranges)] = number
    return replace(made, labels=labels)


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("name", PLACES)
def test_a_structure_is_cut_off_where_it_touches_an_end(
    tmp_path: Path, name: str, overlapping: bool
) -> None:
    *ranges, places = PLACES[name]
    # As a plane of bits, 2 is segment 2.
    made = replace(labelled(tmp_path, tuple(ranges)), overlapping=overlapping)

    found = cut_off(made)

    assert [place for place, labels in found.items() if labels] == places
    assert all(labels == ["Parotid left"] for labels in found.values() if labels)


def test_the_border_of_a_round_field_of_view_is_an_end_too(tmp_path: Path) -> None:
    made = labelled(tmp_path, ((3, 5), (8, 12), (8, 12)))
    y, x = np.mgrid[:20, :24]
    disc = (y - 9.5) ** 2 + (x - 9.5) ** 2
    far, near = (np.repeat([disc > radius**2], 8, axis=0) for radius in (8, 2.5))

    inside = replace(made, volume=replace(made.volume, padding=far))
    touching = replace(made, volume=replace(made.volume, padding=near))

    assert not any(cut_off(inside).values())
    assert cut_off(touching)["edge of the field of view"] == ["Parotid left"]


def test_who_followed_a_structure_to_the_end_is_not_repeated(tmp_path: Path) -> None:
    made = labelled(tmp_path, ((0, 4), (0, 9), (5, 9)))
    told = QualityFlag(NAME, "It reaches the end of the series.")
    made = replace(made, volume=replace(made.volume, quality=(told,)))

    flags = remark_coverage(made).volume.quality

    assert [flag.text for flag in flags[1:]] == [
        "Touches the edge of the field of view, may go on outside and be larger: Parotid left."
    ]


def test_thick_slices_are_remarked_only_beyond_what_the_card_measured(tmp_path: Path) -> None:
    volume = labelled(tmp_path, ((1, 2), (1, 2), (1, 2))).volume  # 3 mm

    for measured, flagged in ((None, False), (3.0, False), (2.5, True)):
        block = {"max": 5.0} | ({} if measured is None else {"measured": measured})
        accepts = Accepts.from_mapping({"modality": "CT", "spacing_mm": block})
        names = [flag.name for flag in remark_beyond(volume, accepts).quality]
        assert names == ["thick-slices"] * flagged


def test_remarks_reach_the_sr_and_result_json(tmp_path: Path) -> None:
    made = labelled(tmp_path / "in", ((0, 4), (5, 9), (5, 9)))
    accepts = Accepts.from_mapping({"modality": "CT", "spacing_mm": {"measured": 2.0}})
    made = replace(made, volume=remark_beyond(made.volume, accepts))
    job = StudyJob(tmp_path, tmp_path / "out", RECORDED_AT, segmentations=(made,))

    done = write_job(measure_job(job))
    write_result(done)

    said = [
        "Slices are 3.00 mm apart; the bundle was measured on slices of at most 2 mm.",
        "Touches the first slice, may go on outside and be larger: Parotid left.",
    ]
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [flag["text"] for flag in result["results"][0]["quality"]][:2] == said
    document = done.evidence[-1].path.read_bytes().decode("utf-8", "replace")
    assert all(f"Quality of the input, {flag}" in document for flag in ("thick", "incomplete"))
    assert all(text in document for text in said)
