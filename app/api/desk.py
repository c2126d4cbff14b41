"""The parent's side of the API process, and the words that pass between the two.

The API process parses what strangers send, so what it says is not unpickled: words
are JSON with three short fields, and folders are derived here from an identifier of
32 hexadecimal digits.

    API → service   {"do": "analyse", "id": …}   the upload lies in spool/api/ID/in
                    {"do": "forget", "id": …}    its caller went away
    service → API   {"id": …, "end": "outcome", "state": …, "reason": …, "results": […]}
                    {"id": …, "end": "broken", "reason": …}
                    {"do": "stop"}               no new callers; end when all are answered

Every "analyse" gets exactly one end, so a caller never waits for nothing. An upload's
folder belongs to the API process; what a dead one leaves is swept here.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from app.api.refusals import ApiFolderUnusable, ApiNeedsToken, ApiPortTaken
from app.child import start_child
from app.intake.process import bind_patiently
from app.settings import Settings
from app.worker.messages import Broken, Message, Outcome, Ready, Request, Unfit

WORD_BYTES = 1 << 16
RESTART_SECONDS = 1.0
STOP_SECONDS = 5.0
STOPPING = "radloop is stopping"
_TICKET = re.compile(r"[0-9a-f]{32}")


def api_folder(spool: Path) -> Path:
    """Where uploads and their results lie until they are answered."""
    return spool / "api"


def encode(word: dict[str, Any]) -> bytes:
    """A word as it goes through the pipe."""
    return json.dumps(word).encode()


def encode_end(ticket: str, message: Outcome | Broken) -> bytes:
    """What became of a ticket, as it goes through the pipe."""
    if isinstance(message, Broken):
        return encode({"id": ticket, "end": "broken", "reason": message.reason})
    return encode(
        {
            "id": ticket,
            "end": "outcome",
            "state": message.state,
            "reason": message.reason,
            "results": message.results,
        }
    )


def decode_end(word: dict[str, Any]) -> Outcome | Broken:
    """The reverse of `encode_end`."""
    if word["end"] == "broken":
        return Broken(word["reason"])
    return Outcome(word["state"], word["reason"], tuple(word["results"]))


@dataclass
class _Child:
    process: BaseProcess
    connection: Connection


class Desk:
    """Keeps the API process running and queues what it asks for.

    Parameters
    ----------
    settings : Settings
        `api_port` is set.

    Raises
    ------
    ApiRefusal
        Open to the network without a token; port taken; no private folder.
    """

    def __init__(self, settings: Settings) -> None:
        check_exposure(settings)
        assert settings.api_port is not None
        self._settings = settings
        self._folder = api_folder(settings.spool)
        try:
            prepare(self._folder)
        except OSError as error:
            raise ApiFolderUnusable(self._folder, error.strerror or str(error)) from error
        try:
            self._listening = bind_patiently(settings.api_host, settings.api_port)
        except OSError as error:
            why = error.strerror or str(error)
            raise ApiPortTaken(settings.api_host, settings.api_port, why) from error
        self._child: _Child | None = None
        self._start_at = 0.0
        self._waiting: deque[str] = deque()
        self._in_work: str | None = None
        self._owned = False  # whether somebody still waits for the one in work
        self._stopping = False

    @property
    def address(self) -> str:
        """Where it listens, as a URL."""
        host, port = self._listening.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def announce(self, say: Callable[[str], None]) -> None:
        """What a person should know at the start."""
        say(f"API on {self.address} (openapi.json lists its paths)")
        if not has_token(self._settings):
            say("API without a token: every program of this machine may call it")

    def poll(self) -> list[str]:
        """Hear the API process, start it where there is none; lines for a person."""
        if self._child is None:
            if not self._stopping and time.monotonic() >= self._start_at:
                self._start()
            return []
        child, sound = self._child, True
        try:
            while child.connection.poll():
                self._on_word(child.connection.recv_bytes(WORD_BYTES))
        except EOFError:
            pass  # it is ending; `is_alive` will say so
        except (OSError, ValueError, KeyError, TypeError):
            sound = False  # not our words: it is no longer our process
        if sound and child.process.is_alive():
            return []
        child.process.kill()
        child.process.join()
        code = child.process.exitcode
        self._forget_child()
        if self._stopping:
            return []
        self._start_at = time.monotonic() + RESTART_SECONDS
        return [f"API process ended by itself (status {code}); a new one takes over"]

    def next_request(self) -> Request | None:
        """The longest waiting caller's analysis, for an idle worker."""
        if not self._waiting:
            return None
        ticket = self._in_work = self._waiting.popleft()
        self._owned = True
        place = self._folder / ticket
        recorded_at = time.strftime("%Y%m%d%H%M%S")
        return Request(place / "in", place / "out", recorded_at, propose=True)

    def hear(self, message: Message) -> bool:
        """Take the worker's message if it is about a caller's analysis.

        Returns
        -------
        bool
            Whether it was.
        """
        if isinstance(message, Ready):
            return False
        if isinstance(message, Unfit):
            self._refuse_waiting(message.reason)
            return False
        if self._in_work is None:
            return False
        ticket, self._in_work = self._in_work, None
        if self._owned:
            self._say_end(ticket, message)
        else:
            shutil.rmtree(self._folder / ticket, ignore_errors=True)
        return True

    def close(self) -> None:
        """No new callers; those that wait are told so, the one in work may end."""
        self._stopping = True
        self._refuse_waiting(STOPPING)
        self._tell(encode({"do": "stop"}))

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End the API process; whoever still waits is answered first."""
        if not self._stopping:
            self.close()
        if self._in_work is not None and self._owned:
            self._say_end(self._in_work, Broken(STOPPING))
        self._in_work = None
        self._listening.close()
        if self._child is not None:
            self._child.process.join(seconds)
            self._child.process.kill()
            self._child.process.join()
            self._forget_child()
        self._sweep()

    def _start(self) -> None:
        from app.api.process import run_api

        process, connection = start_child("radloop-api", run_api, self._settings, self._listening)
        self._child = _Child(process, connection)

    def _on_word(self, raw: bytes) -> None:
        word = json.loads(raw)
        ticket = str(word["id"])
        if not _TICKET.fullmatch(ticket):
            raise ValueError("not a ticket")
        if word["do"] == "analyse":
            self._waiting.append(ticket)
            if self._stopping:
                self._refuse_waiting(STOPPING)
        elif word["do"] == "forget" and ticket in self._waiting:
            self._waiting.remove(ticket)
            self._say_end(ticket, Broken("the caller went away"))

    def _refuse_waiting(self, reason: str) -> None:
        while self._waiting:
            self._say_end(self._waiting.popleft(), Broken(reason))

    def _say_end(self, ticket: str, message: Outcome | Broken) -> None:
        self._tell(encode_end(ticket, message))

    def _tell(self, word: bytes) -> None:
        if self._child is not None:
            with contextlib.suppress(OSError):  # it died this moment: the next poll says so
                self._child.connection.send_bytes(word)

    def _forget_child(self) -> None:
        assert self._child is not None
        self._child.connection.close()
        self._child = None
        self._waiting.clear()
        self._owned = False
        self._sweep()

    def _sweep(self) -> None:
        """Remove what callers left; the folder in work goes when the worker is done with it."""
        for entry in self._folder.iterdir():
            if entry.name != self._in_work:
                shutil.rmtree(entry, ignore_errors=True)


def open_desk(settings: Settings) -> Desk | None:
    """The desk, or None where the site wants no API."""
    return Desk(settings) if settings.api_port is not None else None


def has_token(settings: Settings) -> bool:
    """Whether callers must show one; an empty one is none."""
    return settings.api_token is not None and bool(settings.api_token.get_secret_value())


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(settings: Settings) -> None:
    """Whoever reaches the API may send images and start trainings.

    Raises
    ------
    ApiNeedsToken
        Other machines reach it, and it asks nobody for a token.
    """
    if not is_loopback(settings.api_host) and not has_token(settings):
        raise ApiNeedsToken(settings.api_host)


def prepare(folder: Path) -> None:
    """Make the private folder and empty it; only while no API process uses it.

    Raises
    ------
    OSError
        It can't be made ours alone.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.is_symlink():
        raise NotADirectoryError(0, "it is a link")
    folder.chmod(0o700)
    for entry in folder.iterdir():
        shutil.rmtree(entry)
