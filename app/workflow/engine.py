"""The workflows on DBOS Transact: durable, in a queue with priorities, taken over from the dead.

One `study` workflow for each attempt at a study version, one `deliver` workflow for
each destination of what came out. Their steps are `study.StudySteps`; a step that was
cut off by a crash runs again, one that has ended does not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.workflow.board import Board, with_driver
from app.workflow.refusals import StepBroke, WorkflowEnded
from app.workflow.study import Analysed, Carried, StudySteps, Task
from app.workflow.webhook import post

if TYPE_CHECKING:
    from operators.evidence.status import StatusKind

# Part of every workflow's id: DBOS leaves the workflows of another version pending for ever,
# so after an upgrade that changes their steps the ledger's unfinished studies get new ones.
VERSION = "1"
STUDIES = "studies"
DELIVERY = "delivery-"
POLL_SECONDS = 0.1
DELIVERIES_AT_ONCE = 2  # for each destination and process
NOTICES = "notices"
NOTICE_TRIES = 12  # some ten minutes; then only `radloop studies` tells it
MAX_RETRY_SECONDS = 60.0
MAX_RECOVERIES = 50  # a study whose analysis takes the whole service down this often is given up
SILENT_SECONDS = 15.0
SWEEP_SECONDS = 3.0
WITHDRAWAL = "-rejected"  # in the id of a workflow that withdraws
REJECTED_STAYS = "results whose images were rejected are still there: {}"
STEP_TRIES = 6  # where the database itself is in trouble: half a minute
CLEAN_SECONDS = 60.0
CLEAN_BATCH = 500
KEEP_SECONDS = 30 * 86400.0

log = logging.getLogger("radloop.workflow")


def sqlite_url(state_dir: Path) -> str:
    """Where the workflows are kept when no other database is set."""
    return f"sqlite:///{state_dir / 'workflows.sqlite'}"


class Engine:
    """Runs the workflows in this process; one for each process.

    Parameters
    ----------
    url : str
        The database.
    executor : str
        Stable name of this process: its own unfinished work comes back by it.
    steps : StudySteps
        What is done.
    board : Board
        In the same database.
    destinations : tuple of str
        Keys.
    max_attempts : int
        Analyses that may end badly.
    """

    def __init__(
        self,
        url: str,
        executor: str,
        steps: StudySteps,
        board: Board,
        destinations: tuple[str, ...],
        max_attempts: int,
    ) -> None:
        from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer

        logging.getLogger("dbos").setLevel(logging.ERROR)
        config: DBOSConfig = {
            "name": "radloop",
            "system_database_url": with_driver(url),
            "executor_id": executor,
            "application_version": VERSION,
            "serializer": DBOSPortableJSONSerializer(),  # readable, and nothing is unpickled
            "console_log_level": "ERROR",
            "log_level": "ERROR",
        }
        self._dbos = DBOS
        self._board, self._executor = board, executor
        self._max_attempts = max_attempts
        self._seen: dict[str, tuple[int, float]] = {}
        self._sweep_at = self._clean_at = 0.0
        self._steps = steps
        DBOS(config=config)
        self._define(steps)
        DBOS.launch()
        DBOS.register_queue(STUDIES, worker_concurrency=1, polling_interval_sec=POLL_SECONDS)
        DBOS.register_queue(NOTICES, worker_concurrency=1, polling_interval_sec=1.0)
        for key in destinations:
            DBOS.register_queue(
                DELIVERY + key,
                worker_concurrency=DELIVERIES_AT_ONCE,
                polling_interval_sec=POLL_SECONDS,
            )

    def enqueue(self, task: Task, delay_s: float = 0.0) -> None:
        """Begin the task's workflow once its turn has come; asking again changes nothing."""
        self._enqueue(STUDIES, "study", _study_id(task), task.priority, delay_s, task.values())

    def notify(self, identifier: str, url: str, body: dict[str, Any]) -> None:
        """Tell another system, as soon as it listens; once for each identifier."""
        self._enqueue(NOTICES, "notify", f"{identifier}-v{VERSION}", 1, 0.0, url, body)

    def waiting(self) -> tuple[set[tuple[str, int, int]], list[str]]:
        """Which studies have a workflow that will go on, and which workflows will not.

        Returns
        -------
        set of (str, int, int)
            Study Instance UID, version and trial.
        list of str
            Ids of workflows of another release: `end` them once nobody waits for them.
        """
        found = self._dbos.list_workflows(
            status=["PENDING", "ENQUEUED", "DELAYED"], name=["study", "deliver"], load_output=False
        )
        live, foreign = set(), []
        for workflow in found:
            if workflow.app_version != VERSION:
                foreign.append(workflow.workflow_id)
            elif workflow.input:
                task = Task.of(workflow.input["args"][0])
                live.add((task.study_uid, task.version, task.trial))
        return live, foreign

    def end(self, workflows: Sequence[str]) -> None:
        """They don't go on."""
        if workflows:
            self._dbos.cancel_workflows(list(workflows))

    def tend(self) -> list[str]:
        """Heartbeat, and what the dead left; lines for a person. Call it often."""
        now = time.monotonic()
        if now < self._sweep_at:
            return []
        self._sweep_at = now + SWEEP_SECONDS
        self._board.beat(self._executor)
        if now >= self._clean_at:
            self._clean_at = now + CLEAN_SECONDS
            self._give_up()
            self._clean()
        lines = []
        for executor, beat in self._board.beats().items():
            if executor == self._executor:
                continue
            known, since = self._seen.get(executor, (-1, now))
            if beat != known:
                self._seen[executor] = (beat, now)
            elif now - since > SILENT_SECONDS:
                taken = self._take_over(executor)
                self._board.forget(executor)
                self._seen.pop(executor, None)
                lines.append(f"worker {executor} is silent: {taken} workflows taken over from it")
        return lines

    def hand_back(self) -> None:
        """Before this process ends: what it has begun is for whoever lives, at once."""
        self._take_over(self._executor)
        self._board.forget(self._executor)

    def _give_up(self) -> None:
        """Studies whose workflow ended without saying so must not look as if it went on."""
        ended = self._dbos.list_workflows(
            status=["ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"],
            name=["study", "deliver"],
            limit=CLEAN_BATCH,
            sort_desc=True,
            load_output=False,
        )
        for workflow in ended:
            if workflow.input:
                task = Task.of(workflow.input["args"][0])
                self._steps.tell(task, "ended", WorkflowEnded(str(workflow.status)).reason)

    def _clean(self) -> None:
        """What ended long ago; DBOS itself never deletes a row."""
        old = self._dbos.list_workflows(
            completed_before=_ago(KEEP_SECONDS),
            status=["SUCCESS", "ERROR", "CANCELLED"],
            limit=CLEAN_BATCH,
            load_input=False,
            load_output=False,
        )
        if old:
            self._dbos.delete_workflows([workflow.workflow_id for workflow in old])

    def _take_over(self, executor: str) -> int:
        pending = self._dbos.list_workflows(
            status="PENDING", executor_id=executor, load_input=False, load_output=False
        )
        for workflow in pending:
            self._dbos.resume_workflow(workflow.workflow_id, queue_name=workflow.queue_name)
        return len(pending)

    def _enqueue(
        self,
        queue: str,
        workflow: str,
        identifier: str,
        priority: int,
        delay_s: float,
        *arguments: Any,
    ) -> None:
        from dbos import EnqueueOptions

        options: EnqueueOptions = {
            "workflow_name": workflow,
            "queue_name": queue,
            "workflow_id": identifier,
            "priority": priority,
            "app_version": VERSION,
        }
        if delay_s > 0:
            options["delay_seconds"] = delay_s
        self._dbos.enqueue_workflow_with_options(options, *arguments)

    def _define(self, steps: StudySteps) -> None:
        """Register the workflows by name, before the launch that recovers them."""
        dbos = self._dbos

        @dbos.step(name="analyse")
        def analyse(values: dict[str, Any]) -> dict[str, Any]:
            began = time.monotonic()
            came = steps.analyse(Task.of(values))
            return vars(replace(came, seconds=time.monotonic() - began))

        @dbos.step(name="tell", retries_allowed=True, max_attempts=STEP_TRIES)
        def tell(values: dict[str, Any], event: str, said: dict[str, Any]) -> None:
            steps.tell(Task.of(values), event, **said)

        @dbos.step(name="carry", retries_allowed=True, max_attempts=STEP_TRIES)
        def carry(values: dict[str, Any], key: str, results: list[str]) -> dict[str, Any]:
            began = time.monotonic()
            came = steps.carry(Task.of(values), key, results)
            return vars(replace(came, seconds=time.monotonic() - began))

        @dbos.step(name="write_status")
        def write_status(values: dict[str, Any], status: StatusKind, reason: str) -> str:
            return steps.status.write(Task.of(values), status, reason)

        @dbos.step(name="carry_status", retries_allowed=True, max_attempts=STEP_TRIES)
        def carry_status(values: dict[str, Any], key: str, name: str) -> dict[str, Any]:
            return vars(steps.status.carry(Task.of(values), key, name))

        def show(task: Task, status: StatusKind, reason: str = "") -> None:
            name = write_status(task.values(), status, reason) if task.status else ""
            for key in task.status if name else ():
                self._try("status", task, key, f"-{name}", 1, name, 1)

        @dbos.step(name="take_back", retries_allowed=True, max_attempts=STEP_TRIES)
        def take_back(values: dict[str, Any], key: str) -> dict[str, Any]:
            return vars(steps.take_back(Task.of(values), key))

        @dbos.workflow(name="withdraw", max_recovery_attempts=MAX_RECOVERIES)
        def withdraw(values: dict[str, Any], key: str, tries: int) -> None:
            task, came = Task.of(values), Carried(**take_back(values, key))
            if came.state == "later":
                self._try("withdraw", task, key, WITHDRAWAL, tries + 1, tries + 1)
            elif came.state == "refused":
                log.error("event=rejected_result_stays study=%s", task.study_uid)
                said = {"reason": REJECTED_STAYS.format(came.reason), "destinations": [key]}
                tell(values, "failed", said)

        @dbos.workflow(name="status", max_recovery_attempts=MAX_RECOVERIES)
        def status(values: dict[str, Any], key: str, name: str, tries: int) -> None:
            task, came = Task.of(values), Carried(**carry_status(values, key, name))
            if came.state == "later":
                self._try("status", task, key, f"-{name}", tries + 1, name, tries + 1)
            elif came.state in ("refused", "gone"):
                log.error("event=status_not_delivered why=%s", came.reason)

        @dbos.workflow(name="study", max_recovery_attempts=MAX_RECOVERIES)
        def study(values: dict[str, Any]) -> None:
            task = Task.of(values)
            show(task, "pending")
            try:
                came = Analysed(**analyse(values))
            except Exception as error:  # noqa: BLE001  (a full disk, a defect: never in silence)
                self._again(task, StepBroke("the analysis", error).reason, tell, show)
                return
            if came.state == "broken":
                self._again(task, came.reason, tell, show)
            elif came.state == "failed" or came.state == "not applicable":
                show(task, came.state, came.reason)
                tell(values, came.state, {"reason": came.reason, "seconds": came.seconds})
            elif came.state == "done":
                said = {
                    "reason": came.reason,
                    "results": list(came.results),
                    "destinations": list(task.deliver),
                    "seconds": came.seconds,
                }
                tell(values, "delivering", said)
                for key in task.deliver:
                    self._try("deliver", task, key, "", 1, list(came.results), 1, "")

        @dbos.workflow(name="deliver", max_recovery_attempts=MAX_RECOVERIES)
        def deliver(
            values: dict[str, Any], key: str, results: list[str], tries: int, told: str
        ) -> None:
            task, came = Task.of(values), Carried(**carry(values, key, results))
            if came.state == "later":
                if came.reason != told:  # once, not at every try
                    tell(values, "waiting", {"reason": came.reason, "destinations": [key]})
                # A workflow of its own: one that slept would hold the place of others.
                again = tries + 1
                self._try("deliver", task, key, "", again, results, again, came.reason)
            elif came.state == "gone":
                self._again(task, came.reason, tell, show)
            elif came.state == "refused":
                tell(values, "failed", {"reason": came.reason, "destinations": [key]})
            elif came.state == "delivered":
                said = {"reason": came.reason, "destinations": [key], "seconds": came.seconds}
                tell(values, "delivered", said)

        @dbos.step(name="post")
        def send(url: str, body: dict[str, Any]) -> str:
            return post(url, body)

        @dbos.workflow(name="notify", max_recovery_attempts=MAX_RECOVERIES)
        def notify(url: str, body: dict[str, Any]) -> None:
            for tries in range(1, NOTICE_TRIES + 1):
                if not (why := send(url, body)):
                    return
                if tries < NOTICE_TRIES:
                    dbos.sleep(min(2.0**tries, MAX_RETRY_SECONDS))
            log.error("event=notice_lost why=%s", why)

    def take_back(self, task: Task, keys: Sequence[str]) -> None:
        """Withdraw what earlier versions found, since images of theirs were rejected."""
        for key in keys:
            self._try("withdraw", task, key, WITHDRAWAL, 1, 1)

    def _try(
        self, workflow: str, task: Task, key: str, of: str, tries: int, *arguments: Any
    ) -> None:
        """The next try at one destination; longer after each one that did not reach it.

        `of` tells, in its id, from the other workflows of a task there.
        """
        wait_s = min(2.0 ** (tries - 1), MAX_RETRY_SECONDS) if tries > 1 else 0.0
        identifier = f"{_study_id(task)}-{key}{of}-n{tries}"
        queue = DELIVERY + key
        self._enqueue(
            queue, workflow, identifier, task.priority, wait_s, task.values(), key, *arguments
        )

    def _again(
        self, task: Task, reason: str, tell: Callable[..., None], show: Callable[..., None]
    ) -> None:
        """Another attempt after a failed one, later and behind others; or the end."""
        if task.attempt >= self._max_attempts:
            show(task, "failed", reason)
            given_up = f"{reason}; given up after {task.attempt} tries. The worker's log says more."
            tell(task.values(), "failed", {"reason": given_up, "attempts": task.attempt})
            return
        wait_s = min(2.0**task.attempt, MAX_RETRY_SECONDS)
        said = {"reason": f"{reason}; next try in {wait_s:g} s", "attempts": task.attempt}
        tell(task.values(), "again", said)
        self.enqueue(task.again(), wait_s)


def _ago(seconds: float) -> str:
    """A time before now, as DBOS takes it."""
    return datetime.fromtimestamp(time.time() - seconds, UTC).isoformat()


def _study_id(task: Task) -> str:
    return f"{task.journal}-{task.name}-v{VERSION}-t{task.trial}-a{task.attempt}"
