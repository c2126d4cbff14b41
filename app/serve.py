"""The service: listener, ledger, worker and courier around one loop.

The parent of all other processes. It owns the signals and the ledger and never
waits for anybody: each turn of the loop asks the others what is new. What has
to survive a crash is in the journal before it is acted upon.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from app.api.desk import open_desk
from app.delivery.courier import Courier, ResultsGone
from app.delivery.destination import DeliveryRefusal, Destination, DestinationUnreachable
from app.intake import journal
from app.intake.ledger import Ledger, State, StudyVersion
from app.intake.listener import ListenerConfig
from app.intake.process import IntakeProcess, bind_patiently
from app.intake.spool import Spool, sync_folder
from app.register import Register, RegisterRefusal, describe
from app.settings import Settings
from app.worker.messages import Broken, JobFactory, Message, Outcome, Ready, Request, Unfit
from app.worker.supervisor import Supervisor
from operators.errors import Refusal

TURN_SECONDS = 0.1
TROUBLE_SECONDS = 1.0
MAX_RETRY_SECONDS = 60.0
LEFT_OUT = " (left out: "
SPOOL_INCOMPLETE = (
    "RL-0614: an acknowledged instance is missing from the spool. "
    "Restore the spool from its backup; what is sent again under the same UIDs is not retried yet."
)


class ServeRefusal(Refusal):
    """The service can't start."""

    code = "RL-0610"


class SpoolBusy(ServeRefusal):
    """Another service works on this spool."""

    code = "RL-0611"

    def __init__(self, spool: Path, pid: str) -> None:
        super().__init__(
            f"spool {spool} is in use by another `radloop serve` (process {pid}). "
            "Stop that one, or give this one its own spool and port (RADLOOP_SPOOL, RADLOOP_PORT)."
        )


class PortTaken(ServeRefusal):
    """The listener can't have its port."""

    code = "RL-0612"

    def __init__(self, host: str, port: int, why: str) -> None:
        super().__init__(
            f"can't listen on {host}:{port} ({why}). `ss -ltnp 'sport = :{port}'` shows who has "
            "it; stop that, or choose another port (RADLOOP_PORT)."
        )


class FolderUnusable(ServeRefusal):
    """Spool or output folder can't be written."""

    code = "RL-0613"

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(
            f"folder {folder} can't be used ({why}). Make it writable for this user, or choose "
            "another (RADLOOP_SPOOL, RADLOOP_OUTPUT_DIR)."
        )


class Service:
    """`radloop serve`, from start to stop.

    Parameters
    ----------
    settings : Settings
        What the site decided.
    factory : JobFactory
        What the worker loads; picklable.
    destinations : sequence of Destination
        Where results go; none keeps them in the output folder.
    say : callable
        Gets one line for each thing that a person should know; no PHI in it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        factory: JobFactory,
        destinations: Sequence[Destination],
        say: Callable[[str], None],
    ) -> None:
        self._settings, self._say = settings, say
        self._lock = _lock_spool(settings.spool)
        self._register = Register(settings.state_dir)
        try:
            self._spool = Spool(settings.spool, settings.min_free_bytes)
            settings.output_dir.mkdir(parents=True, exist_ok=True)
            self._ledger = Ledger(journal.prepare(self._spool.journal_file), self._spool)
        except (OSError, sqlite3.Error) as error:
            raise FolderUnusable(settings.spool, str(error)) from error
        try:
            listening = bind_patiently(settings.host, settings.port)
        except OSError as error:
            why = error.strerror or str(error)
            raise PortTaken(settings.host, settings.port, why) from error
        self._address = listening.getsockname()[:2]
        self._intake = IntakeProcess(_listener_config(settings), listening)
        self._worker = Supervisor(factory, settings.study_timeout_s)
        self._desk = open_desk(settings)
        self._courier = Courier(destinations)
        self._running: StudyVersion | None = None
        self._inbox: list[Message] = []
        self._retry_at: dict[str, float] = {}
        self._stop_at: float | None = None

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM; every child has ended when this returns."""
        previous = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            self._spool.sweep()
            self._announce()
            self._tell(self._ledger.recover())
            while self._stop_at is None:
                self._turn()
                time.sleep(TURN_SECONDS)
            self._drain()
        finally:
            self._intake.stop()
            self._worker.stop()
            if self._desk is not None:
                self._desk.stop()
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._lock.close()
        self._say("stopped")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        again = self._stop_at is not None
        self._stop_at = time.monotonic() + (0.0 if again else self._settings.stop_seconds)

    def _announce(self) -> None:
        settings = self._settings
        host, port = self._address
        self._say(f"listening for C-STORE on {host}:{port} as {settings.ae_title}")
        if not settings.allowed_calling_aets and not settings.allowed_addresses:
            self._say("anyone who reaches the port may send (allowed_calling_aets is empty)")
        self._say(f"spool {settings.spool}; results in {settings.output_dir}")
        if not self._courier.destinations:
            self._say("no destination is set: results stay in the output folder")
        if self._desk is not None:
            self._desk.announce(self._say)
        for destination in self._courier.destinations:
            # In a thread: a destination that is down must not delay the listener.
            threading.Thread(target=self._introduce, args=(destination,), daemon=True).start()
        self._say("worker: loading models")

    def _introduce(self, destination: Destination) -> None:
        try:
            self._say(f"delivering to {destination.name}: {destination.self_test()}")
        except DeliveryRefusal as refusal:
            self._say(f"delivering to {destination.name}: {refusal.reason} Results wait for it.")

    def _turn(self) -> None:
        """Ask everybody once. A full disk or a locked journal is waited out, not died of."""
        try:
            if (died := self._intake.poll()) is not None:
                self._say(died)
            self._hear_desk()
            self._tell(self._ledger.group())
            self._tell(self._ledger.complete(self._settings.quiet_seconds))
            self._hear_worker()
            self._begin_analysis()
            self._hear_courier()
            self._begin_delivery()
        except (OSError, sqlite3.Error) as error:
            self._say(f"trouble with spool or journal, trying again: {error}")
            time.sleep(TROUBLE_SECONDS)

    def _tell(self, changes: Sequence[StudyVersion]) -> None:
        for study in changes:
            subject = f"study {study.study_uid} v{study.version}" if study.study_uid else "instance"
            self._say(f"{subject}: {study.state}" + (f": {study.reason}" if study.reason else ""))

    def _move(
        self, study: StudyVersion, state: State, reason: str = "", *, failed_attempt: bool = False
    ) -> StudyVersion:
        moved = self._ledger.move(study, state, reason, failed_attempt=failed_attempt)
        self._tell([moved])
        return moved

    def _hear_desk(self) -> None:
        if self._desk is not None:
            for line in self._desk.poll():
                self._say(line)

    # Analysis

    def _begin_analysis(self) -> None:
        if not self._worker.is_idle:
            return
        # A caller waits; a routine study does not. One that has begun is never interrupted.
        if self._desk is not None and (asked := self._desk.next_request()) is not None:
            self._worker.submit(asked)
            return
        for study in self._ledger.in_state(State.READY):
            if time.monotonic() < self._retry_at.get(study.name, 0.0):
                continue
            request = Request(
                self._spool.work / study.name,
                self._settings.output_dir / study.name,
                study.recorded_at,
            )
            try:
                self._lay_out(study, request)
            except FileNotFoundError:
                self._move(study, State.FAILED, SPOOL_INCOMPLETE)
                continue
            self._running = self._move(study, State.RUNNING)
            self._worker.submit(request)
            return

    def _lay_out(self, study: StudyVersion, request: Request) -> None:
        for folder in (request.input_dir, request.output_dir):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        for number, name in enumerate(self._ledger.inputs(study)):
            os.link(self._spool.path(name), request.input_dir / f"{number:06d}.dcm")

    def _hear_worker(self) -> None:
        self._inbox += self._worker.poll()
        while self._inbox:
            self._on_message(self._inbox[0])
            self._inbox.pop(0)  # only now: the journal may have refused

    def _on_message(self, message: Message) -> None:
        if self._desk is not None and self._desk.hear(message):
            return
        if isinstance(message, Ready):
            self._say(f"worker: ready after {message.seconds:.1f} s")
            return
        if isinstance(message, Unfit):
            self._say(f"worker: {message.reason}; it is started again")
            return
        study, self._running = self._running, None
        assert study is not None
        try:
            if self._ledger.is_superseded(study):
                self._move(study, State.SUPERSEDED, "more instances came")
            elif isinstance(message, Outcome):
                self._settle(study, message)
            else:
                self._try_again(study, message)
        except (OSError, sqlite3.Error):
            self._running = study
            raise
        shutil.rmtree(self._spool.work / study.name, ignore_errors=True)

    def _settle(self, study: StudyVersion, outcome: Outcome) -> None:
        if outcome.state == "failed":
            self._move(study, State.FAILED, outcome.reason)
        elif outcome.state == "not applicable":
            self._move(study, State.NOT_APPLICABLE, outcome.reason)
        else:
            folder = self._settings.output_dir / study.name
            try:
                _sync(folder, outcome.results)
                # Before the ledger says that there is something to deliver.
                self._register.enter(describe(folder, outcome.results))
            except FileNotFoundError:
                self._try_again(study, Broken("RL-0615: a result that was reported is not there"))
                return
            except RegisterRefusal as refusal:
                self._move(study, State.FAILED, refusal.reason)
                return
            remark = f"{LEFT_OUT}{outcome.reason})" if outcome.reason else ""
            goes_on = bool(self._courier.destinations)
            state = State.DELIVERING if goes_on else State.DONE
            where = "" if goes_on else f"kept in {folder}: no destination is set"
            moved = self._ledger.move(study, state, where + remark, results=outcome.results)
            self._tell([moved])

    def _try_again(self, study: StudyVersion, broken: Broken) -> None:
        tries = study.attempts + 1
        if tries >= self._settings.max_attempts:
            reason = f"{broken.reason}; given up after {tries} tries. The worker's log says more."
            self._move(study, State.FAILED, reason, failed_attempt=True)
            return
        wait_s = min(2.0**tries, MAX_RETRY_SECONDS)
        self._retry_at[study.name] = time.monotonic() + wait_s
        reason = f"{broken.reason}; next try in {wait_s:g} s"
        self._move(study, State.READY, reason, failed_attempt=True)

    # Delivery

    def _begin_delivery(self) -> None:
        if not self._courier.is_idle:
            return
        for study in self._ledger.in_state(State.DELIVERING):
            if self._courier.may_try(study.name):
                folder = self._settings.output_dir / study.name
                self._courier.carry(study.name, [folder / name for name in study.results])
                return

    def _hear_courier(self) -> None:
        ended = self._courier.poll()
        if ended is None:
            return
        name, refusal = ended
        carried = [s for s in self._ledger.in_state(State.DELIVERING) if s.name == name]
        for study in carried:  # none where it was superseded on the way
            if refusal is None:
                names = ", ".join(destination.name for destination in self._courier.destinations)
                self._move(study, State.DONE, f"delivered to {names}{_remark(study)}")
            elif isinstance(refusal, DestinationUnreachable):
                if not study.reason.startswith(refusal.reason):  # once, not at every try
                    reason = f"{refusal.reason}{_remark(study)}"
                    self._move(study, State.DELIVERING, reason)
            elif isinstance(refusal, ResultsGone):
                self._try_again(study, Broken(refusal.reason))
            else:
                self._move(study, State.FAILED, refusal.reason)

    # The end

    def _drain(self) -> None:
        """No new instances; the study and the delivery in work may end within `stop_seconds`."""
        self._say(f"stopping within {self._settings.stop_seconds:g} s; a second signal: at once")
        self._intake.stop()
        if self._desk is not None:
            self._desk.close()
        while self._stop_at is not None and time.monotonic() < self._stop_at:
            self._hear_desk()
            self._hear_worker()
            self._hear_courier()
            if not self._worker.is_busy and self._courier.is_idle:
                break
            time.sleep(TURN_SECONDS)
        if self._running is not None:
            self._move(self._running, State.READY, "handed back by a stop")


def _remark(study: StudyVersion) -> str:
    """What was left out of the analysis, in brackets at the end of the reason: it stays there."""
    at = study.reason.find(LEFT_OUT)
    return study.reason[at:] if at >= 0 else ""


def _listener_config(settings: Settings) -> ListenerConfig:
    return ListenerConfig(
        spool=settings.spool,
        ae_title=settings.ae_title,
        min_free_bytes=settings.min_free_bytes,
        max_associations=settings.max_associations,
        max_pdu=settings.max_pdu,
        allowed_calling_aets=settings.allowed_calling_aets,
        allowed_addresses=settings.allowed_addresses,
    )


def _lock_spool(spool: Path) -> IO[str]:
    """An open, locked file: the kernel drops the lock with this process, however it ends."""
    try:
        spool.mkdir(parents=True, exist_ok=True)
        file = (spool / "lock").open("a+")
    except OSError as error:
        raise FolderUnusable(spool, error.strerror or str(error)) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        pid = file.read().strip() or "unknown"
        file.close()
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise SpoolBusy(spool, pid) from error
        raise FolderUnusable(spool, error.strerror or str(error)) from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _sync(folder: Path, names: Sequence[str]) -> None:
    """Results are durable before the ledger says that there are any."""
    for name in names:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
    sync_folder(folder.parent)
