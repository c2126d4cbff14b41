"""The supervisor's side of the worker: start, hand over a study, watch, kill, start again.

Nothing here waits: the caller polls. A worker that crashes, hangs beyond the time
limit, takes more memory than it may or ends is replaced; what it was working on comes
back as `Broken`. One that keeps too much after a study is replaced before the next.
"""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import psutil

from app.child import start_child
from app.worker.messages import Broken, JobFactory, Message, Outcome, Ready, Request, Unfit
from app.worker.process import run_worker

START_SECONDS = 300.0  # importing monai and loading weights on a cold, busy disk
MAX_BACKOFF_SECONDS = 60.0
KILL_SECONDS = 5.0
MEMORY_SECONDS = 0.2  # how often its memory is looked at
KEPT_SHARE = 0.5  # of the limit; one that keeps more between studies is started anew


@dataclass
class _Child:
    process: BaseProcess
    connection: Connection
    seen: psutil.Process
    ready: bool = False
    deadline: float = float("inf")


class Supervisor:
    """Keeps one worker process alive.

    Parameters
    ----------
    factory : JobFactory
        Picklable; called once in each worker process.
    study_timeout_s : float
        Longest time for one request, s.
    max_bytes : int
        Largest resident memory of the worker and its children, bytes; 0: no limit.
    start_timeout_s : float
        Longest time from start to Ready, s.
    """

    def __init__(
        self,
        factory: JobFactory,
        study_timeout_s: float,
        max_bytes: int = 0,
        start_timeout_s: float = START_SECONDS,
    ) -> None:
        self._factory = factory
        self._study_timeout_s = study_timeout_s
        self._max_bytes = max_bytes
        self._start_timeout_s = start_timeout_s
        self._look_at = 0.0
        self._child: _Child | None = None
        self._request: Request | None = None
        self._start_at = 0.0
        self._failed_starts = 0

    @property
    def is_idle(self) -> bool:
        """Whether a request would be begun at once."""
        return self._child is not None and self._child.ready and self._request is None

    @property
    def is_busy(self) -> bool:
        """Whether a request is in work."""
        return self._request is not None

    @property
    def pid(self) -> int | None:
        """Process id of the worker, or None between two of them."""
        return self._child.process.pid if self._child else None

    def submit(self, request: Request) -> None:
        """Hand over one request; only when `is_idle`."""
        assert self._child is not None and self.is_idle
        self._request = request
        self._child.deadline = time.monotonic() + self._study_timeout_s
        with contextlib.suppress(OSError):  # it died this moment: the next poll says so
            self._child.connection.send(request)

    def poll(self) -> list[Message]:
        """What happened since the last call; starts the worker where there is none."""
        if self._child is None:
            if time.monotonic() >= self._start_at:
                self._start()
            return []
        messages = self._received(self._child)
        if any(isinstance(message, Unfit) for message in messages):
            self._end(failed_start=True)
        elif time.monotonic() > self._child.deadline:
            messages.append(self._overdue())
        elif (used := self._too_much()) is not None:
            messages += self._heavy(used)
        elif not self._child.process.is_alive():
            # What it sent just before its death is still in the pipe.
            messages += self._received(self._child)
            messages += self._died(self._child)
        return messages

    def stop(self, seconds: float = KILL_SECONDS) -> None:
        """End the worker: it is asked, and after `seconds` killed."""
        if self._child is None:
            return
        with contextlib.suppress(OSError):
            self._child.connection.send(None)
        self._child.process.join(0 if self._request else seconds)
        self._end()

    def _start(self) -> None:
        process, connection = start_child("radloop-worker", run_worker, self._factory)
        deadline = time.monotonic() + self._start_timeout_s
        self._child = _Child(process, connection, psutil.Process(process.pid), deadline=deadline)

    def _received(self, child: _Child) -> list[Message]:
        messages: list[Message] = []
        try:
            while child.connection.poll():
                message: Message = child.connection.recv()
                messages.append(message)
                child.deadline = float("inf")
                if isinstance(message, Ready):
                    child.ready = True
                    self._failed_starts = 0
                elif isinstance(message, Outcome | Broken):
                    self._request = None
        except (EOFError, OSError):
            pass  # it is dying; `is_alive` will say so
        return messages

    def _overdue(self) -> Message:
        assert self._child is not None
        if self._child.ready:
            message: Message = Broken(
                f"RL-0802: analysis took longer than {self._study_timeout_s:g} s "
                "(study_timeout_s) and was stopped"
            )
        else:
            message = Unfit(f"RL-0804: worker not ready after {self._start_timeout_s:g} s")
        self._end(failed_start=not self._child.ready)
        return message

    def _too_much(self) -> int | None:
        """Bytes that the worker holds, where that is more than it may; looked at now and then."""
        assert self._child is not None
        if not self._max_bytes or time.monotonic() < self._look_at:
            return None
        self._look_at = time.monotonic() + MEMORY_SECONDS
        allowed = self._max_bytes if self._request else self._max_bytes * KEPT_SHARE
        try:
            tree = [self._child.seen, *self._child.seen.children(recursive=True)]
            used = sum(process.memory_info().rss for process in tree)
        except psutil.Error:
            return None  # it is ending: `is_alive` will say so
        return used if used > allowed else None

    def _heavy(self, used: int) -> list[Message]:
        assert self._child is not None
        busy, ready = self._request is not None, self._child.ready
        self._end(failed_start=not ready)
        held = f"{used / 2**30:.1f} GiB"
        if busy:
            limit = f"{self._max_bytes / 2**30:.1f} GiB"
            return [
                Broken(
                    f"RL-0806: the analysis took {held} of memory, more than {limit} "
                    "(worker_max_bytes), and was stopped"
                )
            ]
        return [Unfit(f"RL-0807: the worker still held {held} between two studies")]

    def _died(self, child: _Child) -> list[Message]:
        code = child.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        busy = self._request is not None
        self._end(failed_start=not child.ready)
        if busy:
            return [Broken(f"RL-0803: the worker died during the analysis ({how})")]
        return [Unfit(f"RL-0805: the worker ended by itself ({how})")]

    def _end(self, *, failed_start: bool = False) -> None:
        child, self._child, self._request = self._child, None, None
        assert child is not None
        if child.process.is_alive():
            child.process.kill()
        child.process.join(KILL_SECONDS)
        child.connection.close()
        if failed_start:
            self._failed_starts += 1
        backoff = min(2.0**self._failed_starts, MAX_BACKOFF_SECONDS) if self._failed_starts else 0
        self._start_at = time.monotonic() + backoff
