"""The ledger: right grouping, right version, nothing analysed too early or in part."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from app.intake import journal, ledger
from app.intake.conflicts import conflicts, exclude
from app.intake.journal import Received
from app.intake.ledger import Ledger, State, StudyVersion
from app.intake.spool import Spool
from tests.app.conftest import receive, until
from tests.app.instances import STUDY, encoded, instance

OTHER = "1.2.826.0.1.3680043.8.498.2"
QUIET_S = 5.0


@dataclass
class Site:
    """A ledger whose clock the test moves, and a way to receive."""

    root: Path
    now: float = 1000.0
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        spool = Spool(self.root)
        connection = journal.prepare(spool.journal_file)
        self.ledger = Ledger(connection, spool, clock=lambda: self.now, patience_s=60.0)

    def receive(self, *datasets: Dataset) -> None:
        receive(self.ledger, *datasets)

    def settle(self) -> list[tuple[int, State]]:
        """Group, wait the quiet time, complete; what changed."""
        changes = self.ledger.group()
        self.now += QUIET_S
        changes += self.ledger.complete(QUIET_S)
        return [(change.version, change.state) for change in changes]

    def only(self, state: State) -> StudyVersion:
        (study,) = self.ledger.in_state(state)
        return study


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_study_is_ready_after_the_quiet_time_and_not_before(site: Site) -> None:
    site.receive(instance(1))
    site.ledger.group()
    site.now += QUIET_S - 0.1
    assert site.ledger.complete(QUIET_S) == []

    site.receive(instance(2))  # begins the quiet time again
    site.ledger.group()
    site.now += QUIET_S - 0.1
    assert site.ledger.complete(QUIET_S) == []
    site.now += 0.1

    (ready,) = site.ledger.complete(QUIET_S)
    assert (ready.study_uid, ready.version, ready.state) == (STUDY, 1, State.READY)
    assert len(site.ledger.inputs(ready)) == 2
    assert len(ready.recorded_at) == 14


def test_no_study_is_complete_while_an_instance_waits_to_be_grouped(site: Site) -> None:
    site.receive(instance(1))
    site.ledger.group()
    site.receive(instance(2))
    site.now += 10 * QUIET_S

    assert site.ledger.complete(QUIET_S) == []


def test_interleaved_studies_are_kept_apart(site: Site) -> None:
    for number in range(3):
        site.receive(instance(number), instance(number, study=OTHER))
    site.settle()

    inputs = {s.study_uid: site.ledger.inputs(s) for s in site.ledger.in_state(State.READY)}
    assert {uid: len(names) for uid, names in inputs.items()} == {STUDY: 3, OTHER: 3}
    assert not set(inputs[STUDY]) & set(inputs[OTHER])


def test_the_same_study_sent_twice_is_one_version(site: Site) -> None:
    site.receive(instance(1), instance(2))
    site.settle()
    site.receive(instance(1), instance(2))

    assert site.settle() == []


@pytest.mark.parametrize(
    ("state", "changes"),
    [
        (State.READY, [(1, State.RECEIVING), (1, State.READY)]),
        (State.QUEUED, [(1, State.SUPERSEDED), (2, State.RECEIVING), (2, State.READY)]),
        (State.RUNNING, [(1, State.SUPERSEDED), (2, State.RECEIVING), (2, State.READY)]),
        (
            State.DELIVERING,
            [(1, State.SUPERSEDED), (2, State.RECEIVING), (2, State.READY)],
        ),
        (State.DONE, [(2, State.RECEIVING), (2, State.READY)]),
        (State.FAILED, [(2, State.RECEIVING), (2, State.READY)]),
        (State.NOT_APPLICABLE, [(2, State.RECEIVING), (2, State.READY)]),
    ],
)
def test_a_late_instance_is_never_left_out(
    site: Site, state: State, changes: list[tuple[int, State]]
) -> None:
    site.receive(instance(1))
    site.settle()
    site.ledger.move(site.only(State.READY), state)
    site.receive(instance(2))

    assert site.settle() == changes
    latest = site.ledger.latest(STUDY)
    assert latest is not None
    assert len(site.ledger.inputs(latest)) == 2
    assert latest.version == changes[-1][0]


def test_our_own_results_start_nothing(site: Site) -> None:
    site.receive(instance(1))
    site.settle()
    site.ledger.move(site.only(State.READY), State.DONE)

    site.receive(instance(50, manufacturer="radloop", modality="SEG"))
    assert site.settle() == []
    site.receive(instance(51, study=OTHER, manufacturer="radloop", modality="SR"))
    assert site.settle() == [(1, State.NOT_APPLICABLE)]
    assert site.only(State.NOT_APPLICABLE).reason == "holds only results that radloop wrote"

    site.receive(instance(1, study=OTHER))
    site.settle()
    assert len(site.ledger.inputs(site.only(State.READY))) == 1  # the SR is no input


def test_one_uid_with_two_contents_fails_the_study_and_names_both(site: Site) -> None:
    site.receive(instance(1, comment="a"), instance(2))
    site.receive(instance(1, comment="b"))
    site.settle()

    failed = site.only(State.FAILED)
    digests = site.ledger.connection.execute(
        "SELECT digest FROM instances WHERE sop_instance_uid = ?", (f"{STUDY}.9.1",)
    ).fetchall()
    assert len(digests) == 2
    assert all(row["digest"][:12] in failed.reason for row in digests)
    assert "Test^Patient" not in failed.reason


def test_an_unreadable_instance_is_reported_and_stops_nothing(site: Site) -> None:
    kept = site.ledger.spool.keep("1.2.3", b"", b"no DICOM at all")
    row = Received("1.2.3", kept.digest, "", "", kept.name, kept.size, "PACS", time.time())
    journal.insert(site.ledger.connection, [row])
    site.receive(instance(1))

    (report, receiving) = site.ledger.group()

    assert report.state is State.FAILED
    assert report.reason.startswith("RL-0702: instance 1.2.3 is kept")
    assert receiving.state is State.RECEIVING
    assert site.ledger.group() == []


def test_a_restart_leaves_to_the_workflows_what_is_theirs_and_waits_again(site: Site) -> None:
    site.receive(instance(1), instance(1, study=OTHER))
    site.settle()
    ready = {study.study_uid: study for study in site.ledger.in_state(State.READY)}
    site.ledger.move(ready[STUDY], State.RUNNING)
    site.ledger.move(ready[OTHER], State.RUNNING)
    site.receive(instance(2, study=OTHER))
    site.ledger.group()

    site.start()
    site.ledger.recover()

    assert site.only(State.RUNNING).study_uid == STUDY
    assert site.ledger.complete(QUIET_S) == []  # the second version's quiet time begins now
    site.now += QUIET_S
    assert [study.version for study in site.ledger.complete(QUIET_S)] == [2]


def test_a_journal_of_the_first_release_is_taken_over(site: Site) -> None:
    site.receive(instance(1))
    site.settle()
    site.ledger.move(site.only(State.READY), State.RUNNING)
    for column in ("trial", "undelivered", "remark"):
        site.ledger.connection.execute(f"ALTER TABLE studies DROP COLUMN {column}")
    for column in ("differs", "excluded", "called_aet", "source"):
        site.ledger.connection.execute(f"ALTER TABLE instances DROP COLUMN {column}")
    site.ledger.connection.execute("PRAGMA user_version = 1")

    site.start()

    assert site.only(State.READY).trial == 1  # nobody else has it: it is dispatched again
    assert len(site.ledger.inputs(site.only(State.READY))) == 1


def test_a_journal_of_the_second_release_is_taken_over_once(site: Site) -> None:
    site.receive(instance(1))
    site.ledger.connection.execute("ALTER TABLE instances DROP COLUMN differs")
    site.ledger.connection.execute("PRAGMA user_version = 2")
    site.start()
    site.start()
    site.receive(compressed(instance(1)))
    site.settle()

    assert len(site.ledger.inputs(site.only(State.READY))) == 1


def test_an_instance_that_the_journal_lost_is_adopted_from_the_spool(site: Site) -> None:
    site.receive(instance(1), instance(2))
    site.settle()
    site.ledger.connection.close()
    for leftover in site.root.glob("journal.db*"):
        leftover.unlink()

    site.start()
    site.ledger.recover()
    site.settle()

    assert len(site.ledger.inputs(site.only(State.READY))) == 2


def test_a_passing_trouble_with_the_disk_leaves_no_instance_out(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.receive(instance(1), instance(2))
    real = ledger.peek

    def fails(path: Path) -> ledger.Peek:
        raise OSError(24, "Too many open files", str(path))

    monkeypatch.setattr(ledger, "peek", fails)
    with pytest.raises(OSError, match="Too many open files"):
        site.ledger.group()
    monkeypatch.setattr(ledger, "peek", real)
    site.settle()

    assert len(site.ledger.inputs(site.only(State.READY))) == 2


def ungrouped(site: Site) -> int:
    (count,) = site.ledger.connection.execute(
        "SELECT COUNT(*) FROM instances WHERE grouped = 0"
    ).fetchone()
    return int(count)


def compressed(dataset: Dataset) -> Dataset:
    """The same instance in another transfer syntax."""
    copy = dcmread(io.BytesIO(encoded(dataset)))
    copy.compress(RLELossless, generate_instance_uid=False)
    return copy


def test_an_instance_in_another_encoding_is_a_duplicate_and_costs_nothing(site: Site) -> None:
    site.receive(instance(1), compressed(instance(1)))  # in one batch
    site.settle()
    ready = site.only(State.READY)
    (kept,) = site.ledger.inputs(ready)
    site.ledger.move(ready, State.DONE)

    site.receive(compressed(instance(1)))  # the same bytes
    implicit = instance(1, syntax=ImplicitVRLittleEndian)
    site.receive(implicit)
    assert site.settle() == []
    done = site.only(State.DONE)
    assert site.ledger.inputs(done) == [kept] and not conflicts(site.ledger.connection, STUDY)


def test_a_duplicate_of_an_unused_content_stays_unused(site: Site) -> None:
    site.receive(instance(1, comment="a"), instance(1, comment="b"))
    site.settle()
    (found,) = conflicts(site.ledger.connection, STUDY)
    assert "they differ in (0020,4000)" in site.only(State.FAILED).reason
    exclude(site.ledger.connection, STUDY, found.uid, all_but=found.digests[1])

    site.receive(compressed(instance(1, comment="a")), compressed(instance(1, comment="b")))

    assert site.settle() == [] and not conflicts(site.ledger.connection, STUDY)


def test_a_comparison_that_takes_long_holds_nobody_up_and_loses_nothing(site: Site) -> None:
    site.ledger = Ledger(site.ledger.connection, site.ledger.spool, lambda: site.now, 0.0)
    site.receive(instance(1), compressed(instance(1)), instance(2))
    changed = site.ledger.group()
    assert [study.state for study in changed] == [State.RECEIVING]
    site.now += QUIET_S
    assert site.ledger.complete(QUIET_S) == []  # it may belong to the study

    until(lambda: not site.ledger.group() and not ungrouped(site))
    site.now += QUIET_S
    site.ledger.complete(QUIET_S)
    assert len(site.ledger.inputs(site.only(State.READY))) == 2
