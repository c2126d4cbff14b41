"""The status SR: valid by other people's programs, one line, the same bytes each time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pydicom import dcmread

from app.intake.peek import peek
from operators.evidence.status import StatusKind, build_status
from tests.app.instances import STUDY, instance
from tests.validators import dciodvfy_errors, dsrdump

RECORD = "20260102030405"


def saved(folder: Path, status: StatusKind, reason: str = "", generation: int = 1001) -> Path:
    path = folder / f"{status}.dcm"
    document = build_status(instance(1), status, reason, RECORD, generation)
    document.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    ("status", "completion", "line"),
    [
        ("pending", "PARTIAL", "radloop: analysis pending since 2026-01-02 03:04; no result yet"),
        ("failed", "COMPLETE", "radloop: analysis failed, no result: RL-0203: a slice is missing"),
        ("not applicable", "COMPLETE", "radloop: analysis not applicable, no result: RL-0203: a"),
    ],
)
def test_it_is_valid_and_says_one_line(
    tmp_path: Path, status: StatusKind, completion: str, line: str
) -> None:
    path = saved(tmp_path, status, "RL-0203: a slice is missing")

    assert not dciodvfy_errors(path)
    dumped = dsrdump(path)
    assert line in dumped
    header = dcmread(path)
    assert (header.CompletionFlag, header.VerificationFlag) == (completion, "UNVERIFIED")
    assert header.StudyInstanceUID == STUDY and header.SeriesInstanceUID not in (
        str(instance(1).SeriesInstanceUID),
    )
    assert peek(path).ours


def test_the_same_status_is_the_same_object_and_another_is_another(tmp_path: Path) -> None:
    first = saved(tmp_path, "failed", "RL-0203").read_bytes()
    time.sleep(1.1)  # nothing in it may be of the present
    assert saved(tmp_path, "failed", "RL-0203").read_bytes() == first

    others: list[tuple[StatusKind, str, int]] = [
        ("pending", "", 1001),
        ("failed", "", 1001),
        ("failed", "RL-0203", 1001),
        ("failed", "RL-0203", 1002),
    ]
    uids = {
        str(build_status(instance(1), status, reason, RECORD, generation).SOPInstanceUID)
        for status, reason, generation in others
    }
    assert len(uids) == 4


def test_a_long_reason_is_cut_off() -> None:
    document = build_status(instance(1), "failed", "x" * 1000, RECORD, 1)
    assert len(document.ContentSequence[0].TextValue) < 260
