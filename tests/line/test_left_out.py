"""What is left out is seen: beside the result, in the exit code, never in silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.graph import analyse
from app.oneshot import OutputUnusable, analyse_folder, recorded_at
from app.worker.analysis import outcome
from operators.evidence.result import summarise
from operators.job import Refused, StudyJob
from operators.models.card import BundlesMissing, load_cards
from tests.series import Ball, centred_grid, render, write_ct_series

RECORDED = "20240102030405"
SHAPE_ZYX = (12, 40, 36)


def same_series(dataset, _k):
    """Every slice says one Series Instance UID, whoever the patient is."""
    dataset.SeriesInstanceUID = "1.2.840.99.1"


def ball(folder: Path, patient: str, hu: int, **options: object) -> list[Path]:
    """A small CT with one ball of that HU."""
    affine = centred_grid(SHAPE_ZYX, (2.5, 1.0, 1.0))
    array = render([Ball((0, 0, 0), 9.0, hu)], SHAPE_ZYX, affine)
    return write_ct_series(folder, array, affine, patient_id=patient, **options)


def test_two_patients_whose_series_share_a_uid_each_keep_their_own(tmp_path, threshold_models):
    ball(tmp_path / "in" / "a", "A", 100, edit=same_series)
    ball(tmp_path / "in" / "b", "B", 700, edit=same_series)

    job = analyse(tmp_path / "in", tmp_path / "out", RECORDED, models=threshold_models)

    found = {
        str(report.segmentation.volume.headers[0].PatientID): [
            finding.segment.label for finding in report.findings if finding.voxels
        ]
        for report in job.reports
    }
    assert found == {"A": ["Soft ball"], "B": ["Bone ball"]}
    results = summarise(job)["results"]
    objects = [item["sop_instance_uid"] for entry in results for item in entry["evidence"]]
    assert len(objects) == len(set(objects)) == 4  # SEG and SR each, none claimed twice


def test_a_damaged_end_slice_is_told_beside_the_result(tmp_path, threshold_models):
    paths = ball(tmp_path / "in", "A", 100)
    content = paths[-1].read_bytes()
    paths[-1].write_bytes(content[: len(content) // 2])

    job = analyse(tmp_path / "in", tmp_path / "out", RECORDED, models=threshold_models)

    assert len(job.volumes[0].array) == SHAPE_ZYX[0] - 1
    assert [flag.name for flag in job.volumes[0].quality] == ["files-refused"]
    assert outcome(job).state == "done" and "RL-01" in outcome(job).reason


def test_a_text_file_beside_the_images_is_no_lost_slice(tmp_path, threshold_models):
    ball(tmp_path / "in", "A", 100)
    (tmp_path / "in" / "README.TXT").write_text("burned by a workstation")

    job = analyse(tmp_path / "in", tmp_path / "out", RECORDED, models=threshold_models)

    assert job.volumes[0].quality == ()
    assert len(job.refused) == 1


def test_refused_files_are_a_failure_even_where_something_else_did_not_match():
    job = StudyJob(
        Path("in"),
        Path("out"),
        RECORDED,
        refused=(Refused("f", "RL-0104: cut"),),
        unmatched=(Refused("1.2", "modality SR is not CT"),),
    )
    assert outcome(job).state == "failed"
    assert outcome(replace(job, refused=())).state == "not applicable"


@pytest.mark.parametrize("where", ["in", "in/results", "file"])
def test_an_output_that_can_not_be_used_is_refused_before_the_work(tmp_path, where):
    ball(tmp_path / "in", "A", 100)
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(OutputUnusable, match="Choose another folder"):
        analyse_folder(tmp_path / "in", tmp_path / where)


@pytest.mark.parametrize("content", ["[]", "null", '{"recorded_at": "x"}', '{"recorded_at": 5}'])
def test_a_strange_result_file_gives_no_strange_time(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    assert len(recorded_at(tmp_path)) == 14 and recorded_at(tmp_path).isdigit()


def test_a_missing_folder_of_bundles_is_named(tmp_path):
    with pytest.raises(BundlesMissing, match="nowhere is no folder"):
        load_cards([tmp_path / "nowhere"])


def test_the_volume_of_a_study_is_not_that_of_another(tmp_path, threshold_models):
    """Values, not only labels: the mean under each mask is its own patient's."""
    ball(tmp_path / "in" / "a", "A", 100, edit=same_series)
    ball(tmp_path / "in" / "b", "B", 150, edit=same_series)

    job = analyse(tmp_path / "in", tmp_path / "out", RECORDED, models=threshold_models)

    means = sorted(round(f.mean) for report in job.reports for f in report.findings if f.voxels)
    assert means == [100, 150]
    assert np.isfinite(means).all()
