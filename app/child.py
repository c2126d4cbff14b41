"""Starting a child process whose signals are its parent's."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

PARENTS_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})


def start_child(
    name: str, target: Callable[..., None], *arguments: Any
) -> tuple[BaseProcess, Connection]:
    """Spawn ``target(*arguments, connection)``; the process and our end of the connection.

    SIGINT and SIGTERM are blocked in the child from its first instruction on: a
    Ctrl-C reaches the whole process group, and what it means is the parent's to say.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(*arguments, theirs), name=name)
    # Where start() has to start the tracker first, that unblocks the two signals again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()  # or the end of the child would never show on our end
    return process, ours
