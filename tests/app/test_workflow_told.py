"""From the workflows' words to the ledger's states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.intake import journal
from app.intake.ledger import Ledger, State, StudyVersion
from app.intake.spool import Spool
from app.workflow.board import Progress
from app.workflow.told import take_in

UID, JOURNAL = "1.2.3", "0a0b0c0d"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    spool = Spool(tmp_path)
    made = Ledger(journal.prepare(spool.journal_file), spool)
    made.connection.execute("UPDATE identity SET journal = ?", (JOURNAL,))
    made.move(made._open(UID, 1, State.READY), State.QUEUED)
    return made


def progress(event: str, reason: str = "", **values: object) -> Progress:
    return replace(Progress(JOURNAL, UID, 1, 1, event, reason), **values)


def state(ledger: Ledger) -> tuple[State, str]:
    study = ledger.find(UID, 1)
    assert study is not None
    return study.state, study.reason


def test_done_is_said_only_when_every_destination_has_it(ledger: Ledger) -> None:
    take_in(ledger, progress("running"))
    take_in(
        ledger,
        progress("delivering", "x: too short", results=("a.dcm",), destinations=("pacs", "disk")),
    )
    assert state(ledger) == (State.DELIVERING, " (left out: x: too short)")

    take_in(ledger, progress("delivered", "folder /d", destinations=("disk",)))
    assert state(ledger) == (
        State.DELIVERING,
        "delivered to folder /d (left out: x: too short)",
    )
    again = take_in(ledger, progress("delivered", "folder /d", destinations=("disk",)))
    assert again is None  # a repeated step counts once

    take_in(ledger, progress("delivered", "PACS", destinations=("pacs",)))
    assert state(ledger) == (State.DONE, "delivered to folder /d, PACS (left out: x: too short)")


def test_one_refusal_is_a_failure_that_a_later_success_does_not_hide(ledger: Ledger) -> None:
    take_in(ledger, progress("delivering", results=("a",), destinations=("pacs", "disk")))
    take_in(ledger, progress("failed", "RL-0902: no"))
    take_in(ledger, progress("delivered", "folder /d", destinations=("disk",)))

    assert state(ledger) == (State.FAILED, "RL-0902: no")
    study = ledger.find(UID, 1)
    assert study is not None and study.undelivered == ("pacs",)


def test_a_workflow_that_ended_in_silence_fails_its_study_but_not_a_later_attempt(
    ledger: Ledger,
) -> None:
    take_in(ledger, progress("again", "crash", attempts=1))
    assert take_in(ledger, progress("ended", "RL-0675: over", attempts=0)) is None
    assert state(ledger)[0] is State.QUEUED

    take_in(ledger, progress("ended", "RL-0675: over", attempts=1))
    assert state(ledger) == (State.FAILED, "RL-0675: over")


def test_an_unreachable_destination_is_named_and_then_forgotten(ledger: Ledger) -> None:
    take_in(ledger, progress("delivering", results=("a",), destinations=("pacs",)))
    take_in(ledger, progress("waiting", "RL-0901: off", destinations=("pacs",)))
    assert state(ledger) == (State.DELIVERING, "RL-0901: off")

    take_in(ledger, progress("delivered", "PACS", destinations=("pacs",)))
    assert state(ledger) == (State.DONE, "delivered to PACS")


@pytest.mark.parametrize(
    "stale",
    [
        progress("failed", "old", trial=2),
        progress("failed", "old", journal="ffffffff"),
        progress("failed", "old", version=2),
        progress("failed", "old", study_uid="1.2.9"),
    ],
)
def test_what_is_told_about_another_trial_or_version_changes_nothing(
    ledger: Ledger, stale: Progress
) -> None:
    assert take_in(ledger, stale) is None
    assert state(ledger)[0] is State.QUEUED


def test_a_superseded_version_stays_superseded(ledger: Ledger) -> None:
    study = ledger.find(UID, 1)
    assert isinstance(study, StudyVersion)
    ledger.move(study, State.SUPERSEDED)

    assert take_in(ledger, progress("delivering", results=("a",), destinations=("x",))) is None


def test_attempts_are_counted_and_kept(ledger: Ledger) -> None:
    again = take_in(ledger, progress("again", "crash", attempts=1))
    assert again is not None and (again.state, again.attempts) == (State.QUEUED, 1)
    failed = take_in(ledger, progress("failed", "crash", attempts=2))
    assert failed is not None and (failed.state, failed.attempts) == (State.FAILED, 2)
