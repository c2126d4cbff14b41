"""Files: complete or not there, named by nobody's data, several volumes side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operators.core import (
    Application,
    CountCondition,
    ExecutionContext,
    InputContext,
    Operator,
    OutputContext,
)
from operators.evidence import write
from operators.evidence.operator import EvidenceWriter
from operators.evidence.write import write_evidence, write_job
from operators.findings.measure import measure
from operators.findings.operator import Findings
from operators.job import StudyJob
from tests.operators.scene import MODEL, RECORDED_AT, two_glands


def test_seg_comes_first_and_both_files_are_there(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"

    evidence = write_evidence(two_glands(tmp_path / "in"), out, RECORDED_AT)

    assert [e.kind for e in evidence] == ["SEG", "SR"]
    assert sorted(out.iterdir()) == sorted(e.path for e in evidence)


def test_file_names_hold_no_received_uid_and_no_path(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    model = replace(MODEL, name="../../odd name^é")
    report = replace(report, segmentation=replace(report.segmentation, model=model))

    for evidence in write_evidence(report, tmp_path / "out", RECORDED_AT):
        assert evidence.path.parent == tmp_path / "out"
        assert evidence.path.name.startswith("-odd-name-")
        volume = report.segmentation.volume
        for uid in (volume.series_instance_uid, volume.headers[0].StudyInstanceUID):
            assert uid not in evidence.path.name


def test_two_volumes_of_one_series_do_not_collide(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    segmentation = report.segmentation
    volume = replace(segmentation.volume, part="acquisition 2")
    second = measure(replace(segmentation, volume=volume))
    job = StudyJob(tmp_path, tmp_path / "out", RECORDED_AT, reports=(report, second))

    evidence = write_job(job).evidence

    assert len({e.path for e in evidence}) == len(list((tmp_path / "out").iterdir())) == 4
    assert len({e.series_instance_uid for e in evidence}) == 4


def test_nothing_is_written_if_the_sr_cannot_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no SR")

    monkeypatch.setattr(write, "build_sr", fail)

    with pytest.raises(RuntimeError, match="no SR"):
        write_evidence(two_glands(tmp_path / "in"), tmp_path / "out", RECORDED_AT)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_file_leaves_no_trace_and_no_final_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(_dataset: Any, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    report = two_glands(tmp_path / "in")
    monkeypatch.setattr("pydicom.dataset.Dataset.save_as", half)

    with pytest.raises(OSError, match="no space"):
        write_evidence(report, tmp_path / "out", RECORDED_AT)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_refused_report_does_not_stop_the_next(tmp_path: Path) -> None:
    good = two_glands(tmp_path / "in")
    odd = np.full_like(good.segmentation.labels, 99)
    bad = replace(good, segmentation=replace(good.segmentation, labels=odd))
    job = StudyJob(tmp_path, tmp_path / "out", RECORDED_AT, reports=(bad, good))

    done = write_job(job)

    assert [e.kind for e in done.evidence] == ["SEG", "SR"]
    assert [refused.reason[:7] for refused in done.refused] == ["RL-0460"]


class Start(Operator):
    """Emits one job."""

    def __init__(self, fragment: Any, *args: Any, job: StudyJob, **kwargs: Any) -> None:
        self.job = job
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: Any) -> None:
        spec.output("job")

    def compute(
        self,
        op_input: InputContext,
        op_output: OutputContext,
        context: ExecutionContext,
    ) -> None:
        op_output.emit(self.job, "job")


def test_graph_hands_the_finished_job_to_its_sink(tmp_path: Path) -> None:
    segmentation = two_glands(tmp_path / "in").segmentation
    job = StudyJob(tmp_path, tmp_path / "out", RECORDED_AT, segmentations=(segmentation,))
    finished: list[StudyJob] = []

    class Graph(Application):
        def compose(self) -> None:
            start = Start(self, CountCondition(self, 1), job=job, name="start")
            findings = Findings(self, name="findings")
            writer = EvidenceWriter(
                self, sink=finished.append, extra=("key_images", "pdf"), name="writer"
            )
            self.add_flow(start, findings, {("job", "job")})
            self.add_flow(findings, writer, {("measured", "job")})

    Graph([]).run()

    (done,) = finished
    assert [e.kind for e in done.evidence] == ["SEG", "SR", "KEY_IMAGE", "PDF"]
    assert all(e.path.exists() for e in done.evidence)
