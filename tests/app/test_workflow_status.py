"""Statuses at a destination: never beside the result of the same version, one at a time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest

from app.delivery.destination import DestinationUnreachable
from app.intake.ledger import study_key
from app.intake.spool import Spool
from app.register import Register, describe
from app.settings import load_settings
from app.worker.messages import Request
from app.workflow.board import Board
from app.workflow.manifest import write_manifest
from app.workflow.status import FILE, StatusSteps
from app.workflow.study import Task
from tests.app.instances import STUDY, instance, write
from tests.app.jobs import write_evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from operators.evidence.status import StatusKind

TASK = Task(
    "0a", f"{study_key(STUDY)}-v1", STUDY, 1, 1, "20260101000000", {"pacs": None}, None, 100,
    status=("pacs",),
)  # fmt: skip
NEWER = replace(TASK, name=f"{study_key(STUDY)}-v2", version=2, recorded_at="20260102000000")


@dataclass
class Pacs:
    """A destination that keeps the lines of statuses."""

    key: str = "pacs"
    name: str = "pacs"
    held: set[str] = field(default_factory=set)
    says: list[Exception] = field(default_factory=list)
    while_storing: Callable[[], object] = int

    def deliver(self, files: Sequence[Path]) -> None:
        if self.says:
            raise self.says.pop(0)
        self.held |= set(map(line, files))
        self.while_storing()

    def withdraw(self, files: Sequence[Path], because: str, recorded_at: str) -> None:
        self.held -= set(map(line, files))

    def self_test(self) -> str:
        return "here"


def line(file: Path) -> str:
    return str(pydicom.dcmread(file).ContentSequence[0].TextValue)


class Site:
    """A spool with one instance, and the steps over one destination."""

    def __init__(self, root: Path) -> None:
        settings = load_settings(
            spool=root / "spool",
            output_dir=root / "out",
            state_dir=root / "state",
            min_free_bytes=0,
        )
        self.output, self.pacs = settings.output_dir, Pacs()
        self.spool = Spool(settings.spool, 0)
        self.register = Register(settings.state_dir)
        self.board = Board(f"sqlite:///{root / 'w.sqlite'}")
        self.steps = StatusSteps(settings, {"pacs": self.pacs}, self.register, self.board)
        (path,) = write(root / "in", instance(1))
        self.inputs = path.parent
        path_in_spool = self.spool.path("aa/1.dcm")
        path_in_spool.parent.mkdir(exist_ok=True)
        path_in_spool.write_bytes(path.read_bytes())
        for task in (TASK, NEWER):
            write_manifest(self.spool, task.name, ["aa/1.dcm"])

    def write(self, status: StatusKind, task: Task = TASK, reason: str = "") -> str:
        return self.steps.write(task, status, reason)

    def result(self, task: Task = TASK) -> None:
        """Analysed: in the output folder and in the register, delivered nowhere yet."""
        folder = self.output / task.name
        folder.mkdir(parents=True)
        done = write_evidence(Request(self.inputs, folder, task.recorded_at))
        self.register.enter(describe(folder, done.results))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_it_is_ours_before_it_goes_anywhere(site: Site) -> None:
    name = site.write("pending")
    uid = str(pydicom.dcmread(site.output / name / FILE).SOPInstanceUID)

    entry = site.register.find(uid)
    assert entry is not None and entry.kind == "STATUS"
    assert site.write("pending") == name  # a repeated step writes the same bytes again


def test_once_there_is_a_result_no_status_is_stored(site: Site) -> None:
    name = site.write("pending")
    site.result()

    assert site.steps.carry(TASK, "pacs", name).state == "superseded"
    assert site.pacs.held == set()


def test_a_result_that_came_while_the_status_was_stored_takes_it_back(site: Site) -> None:
    """The result's own delivery may have looked before the status was there."""
    name = site.write("pending")
    site.pacs.while_storing = site.result

    assert site.steps.carry(TASK, "pacs", name).state == "superseded"
    assert site.pacs.held == set()


def test_the_end_replaces_the_beginning_also_where_they_come_in_the_wrong_order(
    site: Site,
) -> None:
    began = site.write("pending")
    ended = site.write("failed", reason="RL-0203: uneven")
    assert site.steps.carry(TASK, "pacs", ended).state == "delivered"
    assert site.steps.carry(TASK, "pacs", began).state == "superseded"
    assert site.pacs.held == {"radloop: analysis failed, no result: RL-0203: uneven"}


def test_a_newer_version_replaces_the_status_of_an_older_one(site: Site) -> None:
    old = site.write("failed", reason="RL-0203: uneven")
    site.steps.carry(TASK, "pacs", old)
    site.board.set_current(NEWER.study, NEWER.generation)
    new = site.write("pending", NEWER)

    assert site.steps.carry(NEWER, "pacs", new).state == "delivered"
    assert site.steps.carry(TASK, "pacs", old).state == "superseded"
    assert site.pacs.held == {"radloop: analysis pending since 2026-01-02 00:00; no result yet"}


def test_a_destination_that_is_away_gets_it_later(site: Site) -> None:
    name = site.write("pending")
    site.pacs.says = [DestinationUnreachable("pacs", "down")]

    assert site.steps.carry(TASK, "pacs", name).state == "later"
    assert site.steps.carry(TASK, "pacs", name).state == "delivered"


def test_where_it_can_not_be_written_there_is_none_and_nothing_stops(site: Site) -> None:
    assert site.write("pending", replace(TASK, name="unknown-v1")) == ""
