"""Hand-over: workflow threads ask, the loop that owns the worker answers.

A thread waits as long as it takes; that an analysis ends is the supervisor's care.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future

from app.worker.messages import Broken, Outcome, Request


class Analyses:
    """Requests of workflows, one in work at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Request, Future[Outcome | Broken]]] = deque()
        self._in_work: tuple[Request, Future[Outcome | Broken]] | None = None

    def ask(self, request: Request) -> Outcome | Broken:
        """What became of it; called by a workflow's thread, blocks."""
        answer: Future[Outcome | Broken] = Future()
        with self._lock:
            self._waiting.append((request, answer))
        return answer.result()

    def next(self) -> Request | None:
        """The longest waiting request, which is in work from now on; None where none waits."""
        with self._lock:
            if not self._waiting:
                return None
            self._in_work = self._waiting.popleft()
            return self._in_work[0]

    def answer(self, message: Outcome | Broken) -> None:
        """The end of the one in work."""
        with self._lock:
            in_work, self._in_work = self._in_work, None
        assert in_work is not None
        in_work[1].set_result(message)

    @property
    def in_work(self) -> Request | None:
        """What the worker is at."""
        return self._in_work[0] if self._in_work else None
