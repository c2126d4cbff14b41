"""The steps of a study: what each says, and that nothing stale stays or is taken wrongly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from app.delivery.destination import DestinationRefused, DestinationUnreachable
from app.intake.ledger import study_key
from app.register import Register, Written
from app.settings import load_settings
from app.verdicts.record import ObjectRef, append_verdict
from app.verdicts.unfinished import Begun, begin, finish
from app.workflow.analyses import Analyses
from app.workflow.board import Board
from app.workflow.study import StudySteps, Task
from tests.app.verdicts import verdict

UID = "1.2"
TASK = Task("0a", f"{study_key(UID)}-v1", UID, 1, 1, "20260101000000", {"pacs": None}, None, 100)
NEWER = replace(TASK, name=f"{study_key(UID)}-v2", version=2, recorded_at="20260102000000")


@dataclass
class Recorder:
    """A destination that remembers, and that says no as it is told."""

    key: str = "pacs"
    name: str = "recorder"
    says: list[Exception] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    on_deliver: list[object] = field(default_factory=list)

    def deliver(self, files: Sequence[Path]) -> None:
        if self.says:
            raise self.says.pop(0)
        self.held |= {file.read_text() for file in files}
        for action in self.on_deliver:
            action()  # type: ignore[operator]

    def withdraw(self, files: Sequence[Path], because: str, recorded_at: str) -> None:
        self.calls.append(f"{because} {recorded_at}")
        self.held -= {file.read_text() for file in files}

    def self_test(self) -> str:
        return "here"


@dataclass
class Site:
    """A state folder, results of two versions, and the steps over one recorder."""

    root: Path
    pacs: Recorder

    def __post_init__(self) -> None:
        self.settings = load_settings(
            spool=self.root / "spool", output_dir=self.root / "out", state_dir=self.root / "state"
        )
        self.register = Register(self.settings.state_dir)
        self.board = Board(f"sqlite:///{self.root / 'w.sqlite'}")
        self.steps = StudySteps(self.settings, Analyses(), [self.pacs], self.register, self.board)

    def results(self, task: Task) -> list[str]:
        """A SEG and an SR of one version, in the output folder and in the register."""
        folder = self.settings.output_dir / task.name
        folder.mkdir(parents=True)
        evidence = []
        for kind in ("SEG", "SR"):
            (folder / f"{kind}.dcm").write_text(f"{kind} v{task.version}")
            uid = f"1.9.{task.version}.{len(kind)}"
            evidence.append({"path": f"{kind}.dcm", "kind": kind, "sop_instance_uid": uid})
        result = {
            "study_instance_uid": UID,
            "series_instance_uid": "1.2.1",
            "part": "",
            "bundle": "b",
            "weights_sha256": "",
            "evidence": evidence,
        }
        (folder / "result.json").write_text(
            json.dumps({"recorded_at": task.recorded_at, "results": [result]})
        )
        from app.register import describe

        names = ["SEG.dcm", "SR.dcm"]
        self.register.enter(describe(folder, names))
        return names

    def written(self, task: Task, kind: str) -> Written:
        found = self.register.find(f"1.9.{task.version}.{len(kind)}")
        assert found is not None
        return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, Recorder())


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (DestinationUnreachable("x", "down"), "later"),
        (DestinationRefused("x", "0xC000", "a result", "No."), "refused"),
        (OSError(2, "No such file"), "gone"),
        (KeyError("Doe^John"), "refused"),
    ],
)
def test_every_no_of_a_destination_has_its_answer(site: Site, error: Exception, state: str) -> None:
    names = site.results(TASK)
    site.pacs.says = [error]

    came = site.steps.carry(TASK, "pacs", names)

    assert came.state == state and came.reason.startswith("RL-09") and "Doe" not in came.reason
    assert site.steps.carry(TASK, "pacs", names).state == "delivered"


def test_a_destination_that_is_gone_from_the_settings_is_named(site: Site) -> None:
    came = site.steps.carry(replace(TASK, deliver={"old": None}), "old", site.results(TASK))
    assert came.state == "refused"
    assert "RL-0670: no destination 'old' is configured (there are: pacs)" in came.reason


def test_the_new_result_replaces_the_old_one(site: Site) -> None:
    site.steps.carry(TASK, "pacs", site.results(TASK))
    assert site.pacs.held == {"SEG v1", "SR v1"} and site.pacs.calls == []

    site.board.set_current(NEWER.study, NEWER.generation)
    assert site.steps.carry(NEWER, "pacs", site.results(NEWER)).state == "delivered"

    assert site.pacs.held == {"SEG v2", "SR v2"}
    assert site.pacs.calls == ["superseded 20260102000000"]


def test_a_confirmed_result_stays_beside_the_new_one(site: Site) -> None:
    site.steps.carry(TASK, "pacs", site.results(TASK))
    given = replace(
        verdict(1),
        sr=ObjectRef(site.written(TASK, "SR").sop_instance_uid, "a" * 64),
        seg=ObjectRef(site.written(TASK, "SEG").sop_instance_uid, "b" * 64),
    )
    append_verdict(site.settings.state_dir, given)

    site.steps.carry(NEWER, "pacs", site.results(NEWER))

    assert site.pacs.held == {"SEG v1", "SR v1", "SEG v2", "SR v2"}


def test_a_superseded_version_is_neither_analysed_nor_delivered(site: Site) -> None:
    names = site.results(TASK)
    site.board.set_current(NEWER.study, NEWER.generation)

    assert site.steps.analyse(TASK).state == "superseded"
    assert site.steps.carry(TASK, "pacs", names).state == "superseded"
    assert site.pacs.held == set()


def test_what_was_superseded_while_it_was_stored_is_taken_back(site: Site) -> None:
    names = site.results(TASK)
    site.pacs.on_deliver = [lambda: site.board.set_current(NEWER.study, NEWER.generation)]

    assert site.steps.carry(TASK, "pacs", names).state == "superseded"
    assert site.pacs.held == set()


def test_a_repeated_step_of_a_superseded_version_takes_back_what_it_had_stored(site: Site) -> None:
    names = site.results(TASK)
    site.steps.carry(TASK, "pacs", names)  # stored; killed before it was told
    site.board.set_current(NEWER.study, NEWER.generation)

    assert site.steps.carry(TASK, "pacs", names).state == "superseded"
    assert site.pacs.held == set()


def test_an_earlier_trial_that_waited_is_not_delivered_any_more(site: Site) -> None:
    names = site.results(TASK)
    site.board.set_current(TASK.study, replace(TASK, trial=2).generation)

    assert site.steps.carry(TASK, "pacs", names).state == "superseded"
    assert site.pacs.held == set()


def test_a_route_gives_a_destination_its_bundles_only_and_takes_the_old_ones_back(
    site: Site,
) -> None:
    site.steps.carry(TASK, "pacs", site.results(TASK))
    others = replace(NEWER, deliver={"pacs": ["another bundle"]})

    came = site.steps.carry(others, "pacs", site.results(others))

    assert (came.state, came.reason) == ("delivered", "recorder (nothing for it)")
    assert site.pacs.held == set()


def test_what_a_reader_is_judging_is_not_taken_away(site: Site) -> None:
    site.steps.carry(TASK, "pacs", site.results(TASK))
    uid = site.written(TASK, "SR").sop_instance_uid
    begun = Begun(uid, "confirmed", "ada", None, "2026-01-02T03:04:05+00:00")
    begin(site.settings.state_dir, begun)
    names = site.results(NEWER)

    came = site.steps.carry(NEWER, "pacs", names)
    assert came.state == "later" and came.reason.startswith("RL-0676")
    assert {"SEG v1", "SR v1"} <= site.pacs.held

    finish(site.settings.state_dir, begun)
    assert site.steps.carry(NEWER, "pacs", names).state == "delivered"
    assert site.pacs.held == {"SEG v2", "SR v2"}


def test_a_superseded_result_that_was_confirmed_is_not_taken_back(site: Site) -> None:
    names = site.results(TASK)
    given = replace(
        verdict(1),
        sr=ObjectRef(site.written(TASK, "SR").sop_instance_uid, "a" * 64),
        seg=ObjectRef(site.written(TASK, "SEG").sop_instance_uid, "b" * 64),
    )
    append_verdict(site.settings.state_dir, given)
    site.steps.carry(TASK, "pacs", names)
    site.board.set_current(NEWER.study, NEWER.generation)

    assert site.steps.carry(TASK, "pacs", names).state == "superseded"
    assert site.pacs.held == {"SEG v1", "SR v1"}


def test_an_old_result_whose_file_is_gone_is_named_and_holds_the_new_one_up_no_more(
    site: Site,
) -> None:
    site.steps.carry(TASK, "pacs", site.results(TASK))
    site.board.set_current(NEWER.study, NEWER.generation)
    (site.settings.output_dir / TASK.name / "SEG.dcm").unlink()
    names = site.results(NEWER)

    for _ in range(2):  # and so at each retry
        came = site.steps.carry(NEWER, "pacs", names)

        assert came.state == "delivered"
        assert "RL-0673: of what was superseded, 1.9.1.3 may still stand" in came.reason
        assert site.pacs.held == {"SEG v1", "SEG v2", "SR v2"}  # what has its file was withdrawn


def test_a_superseded_result_that_nothing_replaces_yet_is_never_left_in_silence(
    site: Site,
) -> None:
    names = site.results(TASK)
    site.pacs.on_deliver = [
        lambda: site.board.set_current(NEWER.study, NEWER.generation),
        (site.settings.output_dir / TASK.name / "SR.dcm").unlink,
    ]

    came = site.steps.carry(TASK, "pacs", names)

    assert came.state == "refused" and "RL-0673" in came.reason and "1.9.1.2 may" in came.reason


def test_an_instance_missing_from_the_spool_fails_the_study_by_name(site: Site) -> None:
    came = site.steps.analyse(TASK)  # no manifest
    assert came.state == "failed" and came.reason.startswith("RL-0614")
    assert [entry.event for entry in site.board.read()] == ["running"]
