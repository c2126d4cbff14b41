"""A host without a listener: one more worker on the queue."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType

from sqlalchemy.exc import SQLAlchemyError

from app.delivery.destination import Destination
from app.settings import Settings
from app.worker.messages import JobFactory
from app.workflow.host import ALONE, Host

TURN_SECONDS = 0.1
TROUBLE_SECONDS = 1.0


def run_alone(
    settings: Settings,
    *,
    factory: JobFactory,
    destinations: Sequence[Destination],
    slot: str,
    say: Callable[[str], None],
) -> None:
    """Work until SIGINT or SIGTERM; a second one ends at once.

    Raises
    ------
    SlotTaken, DatabaseUnusable
        It can't start.
    """
    stop_at: list[float] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop_at.append(time.monotonic() + (0.0 if stop_at else settings.stop_seconds))

    host = Host(settings, factory=factory, destinations=destinations, slot=f"{ALONE}{slot}")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    say(f"worker '{slot}' on the queue of {settings.spool}: loading models")
    while not stop_at or (host.is_busy and time.monotonic() < stop_at[-1]):
        if len(stop_at) == 1:
            host.drain()
        try:
            for line in host.poll():
                say(line)
        except SQLAlchemyError as error:
            say(f"trouble with the database, trying again: {type(error).__name__}")
            time.sleep(TROUBLE_SECONDS)
        time.sleep(TURN_SECONDS)
    if (name := host.stop()) is not None:
        say(f"study {name} is handed back by a stop")
    say("stopped")
