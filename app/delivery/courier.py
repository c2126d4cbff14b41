"""The courier: one delivery at a time, in its own thread: a slow PACS stops nothing else."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from app.delivery.destination import DeliveryRefusal, Destination, DestinationUnreachable

MAX_BACKOFF_SECONDS = 60.0


class ResultsGone(DeliveryRefusal):
    """Our own files can't be read any more."""

    code = "RL-0904"

    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f"results of {name} can't be read from the output folder ({why}). "
            "The study is analysed again."
        )


class DeliveryDefect(DeliveryRefusal):
    """A destination raised something that it should not."""

    code = "RL-0905"

    def __init__(self, where: str, error: Exception) -> None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        super().__init__(
            f"{where}: {type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}. "
            "This is a defect of radloop: report it with this line."
        )


class Courier:
    """Delivers to all destinations in turn; the caller polls.

    Parameters
    ----------
    destinations : sequence of Destination
        At least one.
    """

    def __init__(self, destinations: Sequence[Destination]) -> None:
        self.destinations = tuple(destinations)
        self._finished: queue.SimpleQueue[tuple[str, DeliveryRefusal | None]] = queue.SimpleQueue()
        self._carrying: str | None = None
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    @property
    def is_idle(self) -> bool:
        """Whether a delivery would be begun at once."""
        return self._carrying is None

    def may_try(self, name: str) -> bool:
        """Whether the time for another try of that delivery has come."""
        return time.monotonic() >= self._not_before.get(name, 0.0)

    def carry(self, name: str, files: Sequence[Path]) -> None:
        """Begin a delivery; only when `is_idle`.

        Parameters
        ----------
        name : str
            What `poll` will call it.
        files : sequence of Path
            Results; delivering them twice is harmless.
        """
        self._carrying = name
        threading.Thread(
            target=self._run, args=(name, tuple(files)), name="courier", daemon=True
        ).start()

    def poll(self) -> tuple[str, DeliveryRefusal | None] | None:
        """The delivery that has ended, with None for a success; None while there is none.

        After `DestinationUnreachable` the wait until `may_try` doubles, up to a minute.
        """
        try:
            name, refusal = self._finished.get_nowait()
        except queue.Empty:
            return None
        self._carrying = None
        if isinstance(refusal, DestinationUnreachable):
            self._failures[name] = self._failures.get(name, 0) + 1
            wait_s = min(2.0 ** self._failures[name], MAX_BACKOFF_SECONDS)
            self._not_before[name] = time.monotonic() + wait_s
        else:
            self._failures.pop(name, None)
            self._not_before.pop(name, None)
        return name, refusal

    def _run(self, name: str, files: tuple[Path, ...]) -> None:
        refusal: DeliveryRefusal | None = None
        where = ""
        try:
            for destination in self.destinations:
                where = destination.name
                destination.deliver(files)
        except DeliveryRefusal as error:
            refusal = error
        except OSError as error:
            refusal = ResultsGone(name, error.strerror or type(error).__name__)
        except Exception as error:  # noqa: BLE001  (the thread must report, whatever it was)
            refusal = DeliveryDefect(where, error)
        self._finished.put((name, refusal))
