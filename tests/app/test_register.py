"""The register of what we wrote."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.register import (
    Register,
    ResultUndescribed,
    StateUnusable,
    TwoContents,
    Written,
    describe,
    objects_in,
)
from operators.evidence.result import write_result
from operators.evidence.write import write_evidence
from operators.job import StudyJob
from tests.operators.scene import RECORDED_AT, two_glands

SR = Written("1.2.3", "a" * 64, "SR", "1.2", "1.2.1", "", "b", "", "20260101000000")


def test_entering_again_changes_nothing_and_other_bytes_are_refused(tmp_path: Path) -> None:
    register = Register(tmp_path)
    register.enter([SR, replace(SR, sop_instance_uid="1.2.4", kind="SEG")])
    register.enter([SR])

    with pytest.raises(TwoContents, match=r"object 1\.2\.3 was written before .*aaaaaaaaaaaa…"):
        register.enter([replace(SR, sop_instance_uid="1.2.5"), replace(SR, sha256="b" * 64)])

    again = Register(tmp_path)
    assert again.find("1.2.3") == SR
    assert again.find("1.2.5") is None  # all or none
    assert again.in_study("1.2", "SR") == [SR]
    assert again.in_study("1.2.1", "SR") == []


def test_results_are_described_by_their_result_json(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    out = tmp_path / "out"
    evidence = write_evidence(report, out, RECORDED_AT)
    write_result(StudyJob(tmp_path, out, RECORDED_AT, reports=(report,), evidence=evidence))

    seg, sr = describe(out, [item.path.name for item in evidence])

    assert (seg.kind, sr.kind) == ("SEG", "SR")
    assert sr.sha256 == hashlib.sha256(evidence[1].path.read_bytes()).hexdigest()
    assert sr == Written(
        sop_instance_uid=evidence[1].sop_instance_uid,
        sha256=sr.sha256,
        kind="SR",
        study_instance_uid=evidence[1].source_study_uid,
        source_series_uid=report.segmentation.volume.series_instance_uid,
        part="",
        bundle="test_bundle",
        weights_sha256="0123456789abcdef" * 4,
        recorded_at=RECORDED_AT,
    )


def test_key_images_and_pdf_are_known_as_ours(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    out = tmp_path / "out"
    evidence = write_evidence(report, out, RECORDED_AT, ("key_images", "pdf"))
    write_result(StudyJob(tmp_path, out, RECORDED_AT, reports=(report,), evidence=evidence))

    written = describe(out, [item.path.name for item in evidence])

    assert [entry.kind for entry in written] == ["SEG", "SR", "KEY_IMAGE", "PDF"]
    Register(tmp_path / "state").enter(written)
    assert {entry.kind for _, entry in objects_in(out)} == {"SEG", "SR", "KEY_IMAGE", "PDF"}


@pytest.mark.parametrize("result", [{"results": []}, {"results": [{}]}, [], "no JSON"])
def test_a_result_that_nothing_describes_is_refused(result: object, tmp_path: Path) -> None:
    (tmp_path / "a.dcm").touch()
    text = result if isinstance(result, str) else json.dumps(result)
    (tmp_path / "result.json").write_text(text)

    with pytest.raises(ResultUndescribed, match=r"a\.dcm is not described"):
        describe(tmp_path, ["a.dcm"])


def test_a_state_folder_that_is_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "state").touch()

    with pytest.raises(StateUnusable, match="state can't be used"):
        Register(tmp_path / "state")
    (tmp_path / "register.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StateUnusable, match="RADLOOP_STATE_DIR"):
        Register(tmp_path)
