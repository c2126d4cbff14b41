"""What the steps of a study's workflows do; `engine` makes them durable.

Every step may run twice (after a crash it is repeated), so each is harmless the
second time: inputs are laid out anew, results have the same UIDs and bytes, the
register and every destination take the same object again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from app.delivery.destination import Destination, DestinationUnreachable
from app.intake.ledger import generation, study_key
from app.intake.spool import Spool, sync_folder
from app.register import Kind, Register, RegisterRefusal, Written, describe, objects_in
from app.settings import Settings
from app.verdicts.record import read_verdicts
from app.verdicts.unfinished import begun_on
from app.worker.messages import Broken, Outcome, Request
from app.workflow.analyses import Analyses
from app.workflow.board import Board, Progress
from app.workflow.manifest import read_manifest
from app.workflow.refusals import (
    DeliveryDefect,
    DestinationUnknown,
    OlderResultGone,
    ResultsGone,
    VerdictUnderWay,
)
from app.workflow.replaced import not_confirmed, replaced_by
from app.workflow.status import StatusSteps
from app.workflow.told import NOTHING_FOR_IT
from operators.errors import Refusal

SPOOL_INCOMPLETE = (
    "RL-0614: an acknowledged instance is missing from the spool. "
    "Restore the spool from its backup, then `radloop studies retry`."
)
SUPERSEDED: Literal["superseded"] = "superseded"
REJECTED = "its images were rejected by their source"
RESULT_KINDS: tuple[Kind, ...] = ("SEG", "SR", "RTSTRUCT", "KEY_IMAGE", "PDF", "STATUS")


@dataclass(frozen=True)
class Task:
    """One attempt at one study version; what a workflow is given, as JSON.

    Attributes
    ----------
    journal : str
        Of which journal (`Ledger.journal_id`).
    name : str
        Folder name of the version.
    study_uid, version, trial : str, int, int
        Which; `trial` counts how often a person asked for it again.
    recorded_at : str
        ``YYYYMMDDHHMMSS`` that results bear.
    deliver : mapping
        Key of a destination → bundles whose results it gets; None: all.
    routed : tuple or None
        What the routes want analysed; see `app.worker.messages.Request`.
    priority : int
        Smaller is earlier.
    attempt : int
        From 1; analyses that ended badly before it, plus one.
    status : sequence of str
        Keys of the destinations that get a status SR while there is no result.
    """

    journal: str
    name: str
    study_uid: str
    version: int
    trial: int
    recorded_at: str
    deliver: Mapping[str, Sequence[str] | None]
    routed: Sequence[Sequence[Any]] | None
    priority: int
    attempt: int = 1
    status: Sequence[str] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Task:
        """From what a database holds."""
        return cls(**values)

    @property
    def study(self) -> str:
        """Which study of which journal."""
        return f"{self.journal}:{self.study_uid}"

    @property
    def generation(self) -> int:
        """As `StudyVersion.generation`."""
        return generation(self.version, self.trial)

    def again(self) -> Task:
        """The next attempt."""
        return replace(self, attempt=self.attempt + 1)

    def values(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Analysed:
    """What an attempt came to; `state` is that of `Outcome`, or broken, or superseded."""

    state: Literal["done", "not applicable", "failed", "broken", "superseded"]
    reason: str = ""
    results: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Carried:
    """What a try at one destination came to."""

    state: Literal["delivered", "later", "refused", "gone", "superseded"]
    reason: str = ""
    seconds: float = 0.0


class StudySteps:
    """The steps, with what they need of this process.

    Parameters
    ----------
    settings : Settings
        Folders.
    analyses : Analyses
        Where the worker is asked.
    destinations : sequence of Destination
        All that are configured.
    register : Register
        Of what we wrote.
    board : Board
        Where progress is told.
    """

    def __init__(
        self,
        settings: Settings,
        analyses: Analyses,
        destinations: Sequence[Destination],
        register: Register,
        board: Board,
    ) -> None:
        self._settings, self._analyses, self._board = settings, analyses, board
        self._destinations = {destination.key: destination for destination in destinations}
        self._spool = Spool(settings.spool, settings.min_free_bytes)
        self._register = register
        self.status = StatusSteps(settings, self._destinations, register, board)

    def analyse(self, task: Task) -> Analysed:
        """Lay the inputs out, ask the worker, enter results into the register."""
        if not self._is_current(task):
            return Analysed(SUPERSEDED)
        request = Request(
            self._spool.work / task.name,
            self._settings.output_dir / task.name,
            task.recorded_at,
            None if task.routed is None else tuple((b, s, p) for b, s, p in task.routed),
        )
        self.tell(task, "running")
        try:
            self._lay_out(task, request)
        except FileNotFoundError:
            return Analysed("failed", SPOOL_INCOMPLETE)
        answer = self._analyses.ask(request)
        shutil.rmtree(request.input_dir, ignore_errors=True)
        if isinstance(answer, Broken):
            return Analysed("broken", answer.reason)
        if answer.state != "done":
            return Analysed(answer.state, answer.reason)
        return self._keep(request.output_dir, answer)

    def tell(
        self,
        task: Task,
        event: str,
        reason: str = "",
        results: Sequence[str] = (),
        destinations: Sequence[str] = (),
        attempts: int | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Put what happened on the board."""
        self._board.report(
            Progress(
                task.journal,
                task.study_uid,
                task.version,
                task.trial,
                event,
                reason,
                tuple(results),
                tuple(destinations),
                task.attempt - 1 if attempts is None else attempts,
                seconds,
            )
        )

    def carry(self, task: Task, key: str, results: Sequence[str]) -> Carried:
        """Deliver to one destination; what was superseded meanwhile is taken back."""
        return self._at(key, lambda destination: self._carry(task, destination, results))

    def take_back(self, task: Task, key: str) -> Carried:
        """Withdraw from one destination what an earlier version found: its images were rejected.

        Not what this version found, and never what a reader confirmed.
        """
        return self._at(key, lambda destination: self._take_back(task, destination))

    def _at(self, key: str, act: Callable[[Destination], Carried]) -> Carried:
        """Act at one destination; what goes wrong there is what it came to."""
        destination = self._destinations.get(key)
        if destination is None:
            return Carried("refused", DestinationUnknown(key, sorted(self._destinations)).reason)
        try:
            return act(destination)
        except DestinationUnreachable as refusal:
            return Carried("later", refusal.reason)
        except Refusal as refusal:
            return Carried("refused", refusal.reason)
        except Exception as error:  # noqa: BLE001  (a destination's defect is this study's end)
            return Carried("refused", DeliveryDefect(destination.name, error).reason)

    def _carry(self, task: Task, destination: Destination, results: Sequence[str]) -> Carried:
        folder = self._settings.output_dir / task.name
        bundles = task.deliver[destination.key]
        try:
            new = dict(zip(results, describe(folder, results), strict=True))
            if self._is_current(task):
                mine = [n for n, w in new.items() if bundles is None or w.bundle in bundles]
                if mine:
                    destination.deliver([folder / name for name in mine])
                where = destination.name + ("" if mine else NOTHING_FOR_IT)
            # It may have become old while it was stored, and at an earlier try as well.
            if not self._is_current(task):
                own = self._not_confirmed(list(new.values()))
                if left := self._withdraw(destination, task, own):
                    raise OlderResultGone(destination.name, left)
                return Carried(SUPERSEDED)
            old = self._replaced(task, list(new.values()))
            if left := self._withdraw(destination, task, old):
                # The new result is there, and a failure would not take the old one away.
                where += f" ({OlderResultGone(destination.name, left).reason})"
        except OSError as error:
            gone = ResultsGone(task.name, error.strerror or type(error).__name__)
            return Carried("gone", gone.reason)
        return Carried("delivered", where)

    def _take_back(self, task: Task, destination: Destination) -> Carried:
        if not self._is_current(task):
            return Carried(SUPERSEDED)
        mine = [written for _, written in objects_in(self._settings.output_dir / task.name)]
        old = [one for one in self._replaced(task, mine) if one.kind != "STATUS"]
        if left := self._withdraw(destination, task, old, REJECTED):
            raise OlderResultGone(destination.name, left)
        return Carried("delivered", destination.name)

    def _withdraw(
        self,
        destination: Destination,
        task: Task,
        old: Sequence[Written],
        because: str = SUPERSEDED,
    ) -> list[str]:
        """Take back what has a file yet; SOP Instance UIDs of what has none."""
        if not old:
            return []
        for entry in old:
            if begun_on(self._settings.state_dir, entry.sop_instance_uid) is not None:
                raise VerdictUnderWay(entry.sop_instance_uid)
        files = {}
        for folder in self._settings.output_dir.glob(f"{study_key(task.study_uid)}-v*"):
            for path, written in objects_in(folder):
                files[written.sop_instance_uid, written.sha256] = path
        found = {e.sop_instance_uid: files.get((e.sop_instance_uid, e.sha256)) for e in old}
        paths = [path for path in found.values() if path is not None]
        if paths:
            destination.withdraw(paths, because, task.recorded_at)
        return [uid for uid, path in found.items() if path is None]

    def _replaced(self, task: Task, new: Sequence[Written]) -> list[Written]:
        written = [
            entry
            for kind in RESULT_KINDS
            for entry in self._register.in_study(task.study_uid, kind)
        ]
        return replaced_by(new, written, read_verdicts(self._settings.state_dir))

    def _not_confirmed(self, new: Sequence[Written]) -> list[Written]:
        return not_confirmed(new, read_verdicts(self._settings.state_dir))

    def _is_current(self, task: Task) -> bool:
        return self._board.is_current(task.study, task.generation)

    def _lay_out(self, task: Task, request: Request) -> None:
        for folder in (request.input_dir, request.output_dir):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        for number, name in enumerate(read_manifest(self._spool, task.name)):
            os.link(self._spool.path(name), request.input_dir / f"{number:06d}.dcm")

    def _keep(self, folder: Path, outcome: Outcome) -> Analysed:
        """Results are durable, and known as ours, before anything says that there are any."""
        try:
            for name in outcome.results:
                with (folder / name).open("rb") as file:
                    os.fsync(file.fileno())
            sync_folder(folder)
            sync_folder(folder.parent)
            self._register.enter(describe(folder, outcome.results))
        except FileNotFoundError:
            return Analysed("broken", "RL-0615: a result that was reported is not there")
        except RegisterRefusal as refusal:
            return Analysed("failed", refusal.reason)
        return Analysed("done", outcome.reason, outcome.results)
