"""The worker's own side: load once, then one study after the other."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
import traceback
from multiprocessing.connection import Connection

from app.quiet import silence_libraries
from app.worker.messages import Broken, JobFactory, Message, Outcome, Ready, Unfit
from operators.errors import Refusal

log = logging.getLogger("radloop.worker")


def run_worker(factory: JobFactory, connection: Connection) -> None:
    """Main function of the worker process.

    SIGINT and SIGTERM are blocked (`app.child`): holoscan's `run()` installs handlers
    in C++ that would end the process hard. The process ends on None from the
    connection, or at once when the parent is gone.

    Parameters
    ----------
    factory : JobFactory
        Called once; what it returns is called with every `Request`.
    connection : Connection
        Receives Request or None, sends Ready, Unfit, Outcome, Broken.
    """
    threading.Thread(target=_follow_parent, name="parent", daemon=True).start()
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s", level=logging.WARNING)
    silence_libraries()
    began = time.monotonic()
    try:
        job = factory()
    except Exception as error:
        log.exception("event=unfit")
        _send(connection, Unfit(_reason(error)))
        return
    _send(connection, Ready(time.monotonic() - began))
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):  # reset, where the parent was killed with something unread
            return
        if request is None:
            return
        try:
            answer: Outcome | Broken = job(request)
        except Refusal as refusal:
            answer = Outcome("failed", refusal.reason)
        except Exception as error:  # noqa: BLE001  (whatever it is, the worker goes on)
            # Frames only: the message of a foreign exception may quote a patient's data.
            log.error("event=broken\n%s", "".join(traceback.format_tb(error.__traceback__)))
            answer = Broken(_reason(error))
        _send(connection, answer)


def _send(connection: Connection, message: Message) -> None:
    try:
        connection.send(message)
    except OSError:
        os._exit(1)  # the parent is gone; what it had in work is begun anew


def _reason(error: Exception) -> str:
    if isinstance(error, Refusal):
        return error.reason
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = "/".join(frame.filename.split("/")[-3:])
    return f"RL-0801: {type(error).__name__} at {place}:{frame.lineno}"


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
