"""The API process's end of the pipe: hand in an upload, wait for its end, clear up.

A folder is removed once, by whoever knows that nobody uses it any more: at once where
the analysis was not asked for or has ended, else when its end comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from app.api.desk import STOPPING, WORD_BYTES, decode_end, encode
from app.api.refusals import CallerGone, Stopping, TooBusy, TookTooLong, WorkerLost
from app.worker.messages import Broken, Outcome

MOST_CALLERS = 8
LOOK_SECONDS = 0.5  # how soon we notice that a caller has hung up
TIME_LIMIT_CODE = "RL-0802"


@dataclass(frozen=True)
class Ticket:
    """One caller's private folder.

    Attributes
    ----------
    id : str
        32 hexadecimal digits.
    folder : Path
        Holds ``in`` (the upload) and ``out`` (results).
    """

    id: str
    folder: Path

    @property
    def input_dir(self) -> Path:
        """Uploaded instances."""
        return self.folder / "in"

    @property
    def output_dir(self) -> Path:
        """What the worker writes."""
        return self.folder / "out"


class Counter:
    """Where callers wait.

    Parameters
    ----------
    connection : Connection
        To the service.
    folder : Path
        `desk.api_folder`.
    patience_s : float
        Longest wait for one end, s: the study in work, then ours.
    on_stop : callable
        Called in the event loop when the service says stop, or is gone.
    """

    def __init__(
        self,
        connection: Connection,
        folder: Path,
        patience_s: float,
        on_stop: Callable[[], None],
    ) -> None:
        self._connection, self._folder = connection, folder
        self._patience_s, self._on_stop = patience_s, on_stop
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._ends: dict[str, asyncio.Future[Outcome | Broken]] = {}
        self._inside = 0
        self._closing: set[asyncio.Task[None]] = set()
        threading.Thread(target=self._listen, name="service", daemon=True).start()

    @asynccontextmanager
    async def ticket(self) -> AsyncIterator[Ticket]:
        """A folder for one caller; gone after the block, or when the worker is done with it.

        Raises
        ------
        TooBusy
            `MOST_CALLERS` are inside.
        """
        if self._inside >= MOST_CALLERS:
            raise TooBusy(MOST_CALLERS)
        self._inside += 1
        identity = uuid.uuid4().hex
        ticket = Ticket(identity, self._folder / identity)
        try:
            for folder in (ticket.folder, ticket.input_dir, ticket.output_dir):
                folder.mkdir(mode=0o700)
            yield ticket
        finally:
            # A task of its own: the caller's may be on its way out, cancelled.
            task = asyncio.create_task(self._close(ticket))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def analyse(self, ticket: Ticket, hung_up: Callable[[], Awaitable[bool]]) -> Outcome:
        """Have the worker analyse what lies in the ticket's folder.

        Parameters
        ----------
        ticket : Ticket
            From `ticket`.
        hung_up : callable
            Whether the caller has gone.

        Raises
        ------
        WorkerLost, TookTooLong, Stopping
            There is no result.
        CallerGone
            Nobody waits for one.
        """
        end = self._ends[ticket.id] = self._loop.create_future()
        await self._say({"do": "analyse", "id": ticket.id})
        deadline = self._loop.time() + self._patience_s
        while not end.done():
            await asyncio.wait({end}, timeout=LOOK_SECONDS)
            if not end.done() and await hung_up():
                raise CallerGone
            if not end.done() and self._loop.time() > deadline:
                raise TookTooLong(f"waited {self._patience_s:g} s")
        message = end.result()
        if isinstance(message, Outcome):
            return message
        if message.reason == STOPPING:
            raise Stopping
        if message.reason.startswith(TIME_LIMIT_CODE):
            raise TookTooLong(message.reason)
        raise WorkerLost(message.reason)

    async def settled(self) -> None:
        """Until every folder that could be removed is."""
        while self._closing:
            await asyncio.wait(self._closing)

    async def _close(self, ticket: Ticket) -> None:
        end = self._ends.get(ticket.id)
        try:
            if end is not None and not end.done():
                with contextlib.suppress(OSError):
                    await self._say({"do": "forget", "id": ticket.id})
                await asyncio.wait({end})
            await asyncio.to_thread(shutil.rmtree, ticket.folder, ignore_errors=True)
        finally:
            self._ends.pop(ticket.id, None)
            self._inside -= 1

    async def _say(self, word: dict[str, str]) -> None:
        async with self._sending:  # a full pipe would stop the loop: send from a thread
            await asyncio.to_thread(self._connection.send_bytes, encode(word))

    def _listen(self) -> None:
        """Thread: words of the service, until it is gone."""
        try:
            while True:
                word = json.loads(self._connection.recv_bytes(WORD_BYTES))
                if word.get("do") == "stop":
                    self._loop.call_soon_threadsafe(self._on_stop)
                else:
                    self._loop.call_soon_threadsafe(self._on_end, word["id"], decode_end(word))
        except (EOFError, OSError, RuntimeError):
            os._exit(1)  # without the service there is nobody to ask; it sweeps at its start

    def _on_end(self, ticket_id: str, message: Outcome | Broken) -> None:
        end = self._ends.get(ticket_id)
        if end is not None and not end.done():
            end.set_result(message)
