"""The parent's side of the listener processes: bind once, keep them running, end them."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from app.child import start_child
from app.intake.listener import GRACE_SECONDS, ListenerConfig, bind, run_listener
from app.intake.slots import shared_table

# A predecessor that was killed gives its port back when its listener notices, at once or nearly.
PORT_SECONDS = 3.0
RESTART_SECONDS = 1.0


def bind_patiently(host: str, port: int, seconds: float = PORT_SECONDS) -> socket.socket:
    """`listener.bind`, tried again for a moment while the port is taken.

    Raises
    ------
    OSError
        Still taken, or no such address.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return bind(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


class IntakeProcess:
    """Keeps the listener processes alive on a socket that outlives them.

    Parameters
    ----------
    config : ListenerConfig
        For the listeners, and how many.
    listening : socket.socket
        From `bind_patiently`; closed by `stop`.
    """

    def __init__(self, config: ListenerConfig, listening: socket.socket) -> None:
        self._listening = listening
        table = shared_table(config.listeners, config.max_associations)
        self._listeners = [
            _Listener((config, listening, table, row)) for row in range(config.listeners)
        ]

    @property
    def pids(self) -> list[int]:
        """Process ids of the listeners that run."""
        return [pid for listener in self._listeners if (pid := listener.pid) is not None]

    @property
    def is_complete(self) -> bool:
        """Whether all of them accept."""
        return all(listener.is_ready for listener in self._listeners)

    def poll(self) -> str | None:
        """Start listeners where there are none; a sentence when some have died."""
        died = [said for listener in self._listeners if (said := listener.poll()) is not None]
        return "; ".join(died) or None

    def stop(self) -> None:
        """No new associations; running ones may end within `GRACE_SECONDS`."""
        self._listening.close()
        for listener in self._listeners:
            listener.ask_to_stop()
        deadline = time.monotonic() + GRACE_SECONDS + 3.0
        for listener in self._listeners:
            listener.end(deadline)


class _Listener:
    """One of them; a new one a moment after the last has died."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self._arguments = arguments
        self._process: BaseProcess | None = None
        self._control: Connection | None = None
        self._start_at = 0.0
        self._said_ready = False

    @property
    def is_ready(self) -> bool:
        if self._control is not None and not self._said_ready:
            with contextlib.suppress(EOFError, OSError):
                self._said_ready = self._control.poll() and self._control.recv() == "ready"
        return self._said_ready

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def poll(self) -> str | None:
        if self._process is None:
            if time.monotonic() >= self._start_at:
                self._process, self._control = start_child(
                    "radloop-intake", run_listener, *self._arguments
                )
            return None
        if self._process.is_alive():
            return None
        code = self._process.exitcode
        self._forget()
        self._start_at = time.monotonic() + RESTART_SECONDS
        return f"listener ended by itself (status {code}); a new one takes over, peers wait"

    def ask_to_stop(self) -> None:
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.send("stop")

    def end(self, deadline: float) -> None:
        if self._process is None:
            return
        self._process.join(max(0.0, deadline - time.monotonic()))
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._forget()

    def _forget(self) -> None:
        if self._control is not None:
            self._control.close()
        self._process = self._control = None
        self._said_ready = False
