"""One process's part in the workflows: its engine, and the worker that it supervises.

`radloop serve` holds one beside its listener, `radloop worker` is one alone; all that
share a database share the queue. Nothing here waits: the caller polls.
"""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from app.delivery.destination import Destination
from app.register import Register
from app.settings import Settings
from app.worker.messages import JobFactory, Message, Ready, Unfit
from app.worker.supervisor import Supervisor
from app.workflow.analyses import Analyses
from app.workflow.board import Board
from app.workflow.engine import Engine, sqlite_url
from app.workflow.refusals import DatabaseUnusable, SlotTaken
from app.workflow.study import StudySteps

if TYPE_CHECKING:
    from app.api.desk import Desk


ALONE = "worker-"  # begins the slots of `radloop worker`


class Host:
    """See the module's head.

    Parameters
    ----------
    settings : Settings
        What the site decided.
    factory : JobFactory
        What the worker loads; picklable.
    destinations : sequence of Destination
        Where results may go.
    slot : str
        Name of this process on this machine; no two living ones share it.
    desk : Desk or None
        Callers who wait for the same worker; they go first.

    Raises
    ------
    SlotTaken
        A living process has that slot.
    DatabaseUnusable
        The workflows' database can't be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        factory: JobFactory,
        destinations: Sequence[Destination],
        slot: str,
        desk: Desk | None = None,
    ) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        self._lock = _lock_slot(settings.spool, slot)
        register = Register(settings.state_dir)  # makes the folder
        secret = settings.database_url
        url = secret.get_secret_value() if secret else sqlite_url(settings.state_dir)
        self._analyses, self._desk = Analyses(), desk
        try:
            # One after the other: two that make the same tables at once get in each other's way.
            with (settings.spool / "database.lock").open("a") as alone:
                fcntl.flock(alone, fcntl.LOCK_EX)
                self.board = Board(url)
                self._engine = Engine(
                    url,
                    f"{socket.gethostname()}/{slot}",
                    StudySteps(settings, self._analyses, destinations, register, self.board),
                    self.board,
                    tuple(destination.key for destination in destinations),
                    settings.max_attempts,
                )
        except SQLAlchemyError as error:
            raise DatabaseUnusable(url, type(error).__name__) from error
        self.enqueue, self.take_back = self._engine.enqueue, self._engine.take_back
        self.waiting, self.end = self._engine.waiting, self._engine.end
        self.notify = self._engine.notify
        self._worker = Supervisor(factory, settings.study_timeout_s, settings.worker_max_bytes)
        self._draining = False

    @property
    def is_busy(self) -> bool:
        """Whether the worker is at something."""
        return self._worker.is_busy

    def poll(self) -> list[str]:
        """Hear the worker, give it the next request; lines for a person."""
        lines = self._engine.tend()
        for message in self._worker.poll():
            lines += self._hear(message)
        if self._worker.is_idle and not self._draining:
            # A caller waits; a routine study does not. One that has begun is never interrupted.
            asked = self._desk.next_request() if self._desk is not None else None
            request = asked or self._analyses.next()
            if request is not None:
                self._worker.submit(request)
        return lines

    def drain(self) -> None:
        """Begin nothing more; what is in work may end."""
        self._draining = True

    def stop(self) -> str | None:
        """End the worker and hand back; the name of the study that was in work.

        Threads of workflows may still sleep or wait: the process must end by `os._exit`.
        """
        in_work = self._analyses.in_work
        self._worker.stop()
        self._engine.hand_back()
        self._lock.close()
        return in_work.output_dir.name if in_work is not None else None

    def _hear(self, message: Message) -> list[str]:
        if self._desk is not None and self._desk.hear(message):
            return []
        if isinstance(message, Ready):
            return [f"worker: ready after {message.seconds:.1f} s"]
        if isinstance(message, Unfit):
            return [f"worker: {message.reason}; it is started again"]
        self._analyses.answer(message)
        return []


def others_live(spool: Path) -> bool:
    """Whether any `radloop worker` of this machine works on the spool."""
    for path in spool.glob(f"{ALONE}*.lock"):
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False


def _lock_slot(spool: Path, slot: str) -> IO[str]:
    """An open, locked file: the kernel drops the lock with this process, however it ends."""
    path = spool / f"{slot}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SlotTaken(slot, spool) from error
    return file
