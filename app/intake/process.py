"""The parent's side of the listener process: bind once, keep it running, end it."""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from app.child import start_child
from app.intake.listener import GRACE_SECONDS, ListenerConfig, bind, run_listener

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
    """Keeps one listener process on a socket that outlives it.

    Parameters
    ----------
    config : ListenerConfig
        For the listener.
    listening : socket.socket
        From `bind_patiently`; closed by `stop`.
    """

    def __init__(self, config: ListenerConfig, listening: socket.socket) -> None:
        self._config, self._listening = config, listening
        self._process: BaseProcess | None = None
        self._control: Connection | None = None
        self._start_at = 0.0

    @property
    def pid(self) -> int | None:
        """Process id of the listener, or None between two of them."""
        return self._process.pid if self._process else None

    def poll(self) -> str | None:
        """Start the listener where there is none; a sentence when one has died."""
        if self._process is None:
            if time.monotonic() >= self._start_at:
                self._start()
            return None
        if self._process.is_alive():
            return None
        code = self._process.exitcode
        self._forget()
        self._start_at = time.monotonic() + RESTART_SECONDS
        return f"listener ended by itself (status {code}); a new one takes over, peers wait"

    def stop(self) -> None:
        """No new associations; running ones may end within `GRACE_SECONDS`."""
        self._listening.close()
        if self._process is None or self._control is None:
            return
        with contextlib.suppress(OSError):
            self._control.send("stop")
        self._process.join(GRACE_SECONDS + 3.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._forget()

    def _start(self) -> None:
        self._process, self._control = start_child(
            "radloop-intake", run_listener, self._config, self._listening
        )

    def _forget(self) -> None:
        if self._control is not None:
            self._control.close()
        self._process = self._control = None
