"""The service: listener, ledger, workflows and API around one loop.

The parent of all other processes. It owns the signals and the ledger and never
waits for anybody: each turn of the loop asks the others what is new. What has
to survive a crash is in the journal before it is acted upon.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import IO

from sqlalchemy.exc import SQLAlchemyError

from app.api.desk import open_desk
from app.delivery.destination import DeliveryRefusal, Destination
from app.delivery.states import ShownStates, Shows
from app.intake import journal
from app.intake.feed import OrthancFeed
from app.intake.ledger import UNFINISHED, Ledger, State, StudyVersion
from app.intake.listener import ListenerConfig
from app.intake.process import IntakeProcess, bind_patiently
from app.intake.spool import Spool
from app.intake.tls import TlsError, listener_context
from app.register import Register
from app.settings import Settings, TlsUnusable
from app.telemetry.refusals import TelemetryRefusal
from app.telemetry.watch import Watch
from app.worker.messages import JobFactory
from app.workflow.host import Host, others_live
from app.workflow.manifest import remove_manifest, write_manifest
from app.workflow.planning import Planner
from app.workflow.study import Task
from app.workflow.told import count, take_in
from operators.errors import Refusal

TURN_SECONDS = 0.1
TROUBLE_SECONDS = 1.0
SLOT = "serve"
DISPATCH_BATCH = 20
BEGUN_ANEW = "begun anew: its workflow is lost, or of another release"
SETTLED = (State.DONE, State.FAILED, State.NOT_APPLICABLE)


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
        try:
            self._spool = Spool(settings.spool, settings.min_free_bytes)
            settings.output_dir.mkdir(parents=True, exist_ok=True)
            self._ledger = Ledger(journal.prepare(self._spool.journal_file), self._spool)
        except (OSError, sqlite3.Error) as error:
            raise FolderUnusable(settings.spool, str(error)) from error
        self._watch = Watch(settings, self._spool)
        self._planner = Planner(settings, self._spool, self._ledger.arrivals)
        try:
            listening = bind_patiently(settings.host, settings.port)
        except OSError as error:
            why = error.strerror or str(error)
            raise PortTaken(settings.host, settings.port, why) from error
        self._address = listening.getsockname()[:2]
        self._intake = IntakeProcess(_listener_config(settings), listening)
        self._desk = open_desk(settings)
        self._destinations = tuple(destinations)
        self._host = Host(
            settings, factory=factory, destinations=destinations, slot=SLOT, desk=self._desk
        )
        self._states = ShownStates(
            settings.spool, [d for d in destinations if isinstance(d, Shows)]
        )
        self._feed: OrthancFeed | None = None
        self._stop_at: float | None = None

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM; every child has ended when this returns."""
        previous = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            self._spool.sweep(work=not others_live(self._settings.spool))
            self._announce()
            self._watch.started()
            self._ledger.recover()
            self._feed = self._open_feed()
            self._take_up()
            while self._stop_at is None:
                self._turn()
                time.sleep(TURN_SECONDS)
            self._drain()
        finally:
            self._intake.stop()
            if self._feed is not None:
                self._feed.stop()
            if (handed_back := self._host.stop()) is not None:
                self._hand_back(handed_back)
            if self._desk is not None:
                self._desk.stop()
            self._states.stop()
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._watch.stopped()
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
        if not self._destinations:
            self._say("no destination is set: results stay in the output folder")
        if self._desk is not None:
            self._desk.announce(self._say)
        if self._watch.address is not None:
            self._say(f"metrics on {self._watch.address}")
        for destination in self._destinations:
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
            self._supersede(self._ledger.group())
            self._tell(self._ledger.complete(self._planner.least_quiet_seconds, self._quiet))
            self._stop_given_up()
            self._dispatch()
            self._hear_workflows()
            for line in self._watch.tend(self._ledger):
                self._say(line)
        except (OSError, sqlite3.Error, SQLAlchemyError, TelemetryRefusal) as error:
            why = type(error).__name__ if isinstance(error, SQLAlchemyError) else error
            self._say(f"trouble with spool, journal or database, trying again: {why}")
            time.sleep(TROUBLE_SECONDS)

    def _tell(self, changes: Sequence[StudyVersion]) -> None:
        for study in changes:
            subject = f"study {study.study_uid} v{study.version}" if study.study_uid else "instance"
            self._say(f"{subject}: {study.state}" + (f": {study.reason}" if study.reason else ""))
            self._states.want([study])
            self._watch.saw(study, self._ledger)
            if study.state in SETTLED and study.study_uid:
                remove_manifest(self._spool, study.name)
                self._notify(study)

    def _notify(self, study: StudyVersion) -> None:
        if self._settings.notify_url is None:
            return
        body = {
            "study_instance_uid": study.study_uid,
            "version": study.version,
            "state": str(study.state),
            "reason": study.reason,
        }
        self._host.notify(f"{study.name}-{study.state}", self._settings.notify_url, body)

    def _move(self, study: StudyVersion, state: State, reason: str = "") -> None:
        self._tell([self._ledger.move(study, state, reason)])

    def _supersede(self, changes: Sequence[StudyVersion]) -> None:
        """Workflows of older versions end where they are; said before the new one has any."""
        for study in changes:
            if study.state is State.RECEIVING and study.version > 1:
                self._set_current(study)
        self._tell(changes)

    def _set_current(self, study: StudyVersion) -> None:
        name = f"{self._ledger.journal_id}:{study.study_uid}"
        self._host.board.set_current(name, study.generation)

    def _stop_given_up(self) -> None:
        """What a person discarded is delivered nowhere else."""
        for study in self._ledger.given_up():
            self._set_current(replace(study, trial=study.trial + 1))
            self._ledger.move(study, State.DISCARDED, study.reason, undelivered=())

    def _open_feed(self) -> OrthancFeed | None:
        settings = self._settings
        if not settings.orthanc_feed or settings.orthanc_url is None:
            return None
        register, password = Register(settings.state_dir), settings.orthanc_password
        self._say(f"following what is new in Orthanc {settings.orthanc_url}")
        return OrthancFeed(
            self._spool,
            settings.orthanc_url,
            user=settings.orthanc_user,
            password=password.get_secret_value() if password else None,
            is_ours=lambda uid: register.find(uid) is not None,
            max_bytes=settings.max_instance_bytes,
        )

    def _quiet(self, study: StudyVersion) -> float | None:
        wanted = self._planner.wanted(study)
        return wanted.quiet_seconds if wanted is not None else None

    def _take_up(self) -> None:
        """Bring ledger and workflows together; either may be older than the other."""
        for study in self._ledger.newest():
            self._set_current(study)
        # In this order: what ends between the two has told it by the time it is heard.
        live, foreign = self._host.waiting()
        while self._hear_workflows():
            pass
        for study in [s for state in UNFINISHED for s in self._ledger.in_state(state)]:
            if (study.study_uid, study.version, study.trial) not in live:
                trial = study.trial + 1
                self._tell([self._ledger.move(study, State.READY, BEGUN_ANEW, trial=trial)])
        self._host.end(foreign)
        # A crash may have come between a state and what is shown of it.
        self._states.want({s.study_uid: s for s in sorted(self._ledger.all(), key=_age)}.values())

    def _hand_back(self, name: str) -> None:
        for study in self._ledger.in_state(State.RUNNING):
            if study.name == name:
                self._move(study, State.QUEUED, "handed back by a stop")

    def _hear_desk(self) -> None:
        if self._desk is not None:
            for line in self._desk.poll():
                self._say(line)

    # Studies

    def _dispatch(self) -> None:
        """Give complete studies to the workflows; at most `DISPATCH_BATCH` in one turn."""
        for study in self._ledger.in_state(State.READY)[:DISPATCH_BATCH]:
            if (wanted := self._planner.wanted(study)) is None:
                continue
            self._planner.forget(study)
            task = Task(
                self._ledger.journal_id,
                study.name,
                study.study_uid,
                study.version,
                study.trial,
                study.recorded_at,
                wanted.deliver,
                wanted.routed,
                wanted.priority,
                status=wanted.status,
            )
            rejected = self._ledger.rejected(study)
            if rejected or not wanted.is_nothing:
                self._set_current(study)
            if rejected:
                # Now, and whatever comes of what is left: results of rejected images mislead.
                self._host.take_back(task, [one.key for one in self._destinations])
            if wanted.is_nothing:
                why = f"no route wants it; {rejected}" if rejected else "no route wants it"
                self._move(study, State.NOT_APPLICABLE, why)
                continue
            write_manifest(self._spool, study.name, self._ledger.inputs(study))
            # First this: images that come from now on make another version. Where it is cut
            # off before the next line, the next start finds no workflow and begins anew.
            self._move(study, State.QUEUED)
            self._host.enqueue(task)

    def _hear_workflows(self) -> bool:
        """Bring what they told into the ledger; whether there was anything."""
        for line in self._host.poll():
            self._say(line)
        entries = self._host.board.read()
        if not entries:
            return False
        for entry in entries:
            change = take_in(self._ledger, entry)
            if change is None:
                continue
            count(self._ledger, entry)
            self._tell([change])
            if entry.event == "delivered":
                self._watch.delivered(change, entry.reason, self._ledger)
            elif entry.event == "failed" and entry.destinations:
                where, why = entry.destinations[0], entry.reason
                self._watch.delivered(change, where, self._ledger, refused=why)
        self._host.board.take_off(entries)
        return True

    # The end

    def _drain(self) -> None:
        """No new instances; the study in work may end within `stop_seconds`."""
        self._say(f"stopping within {self._settings.stop_seconds:g} s; a second signal: at once")
        self._intake.stop()
        self._host.drain()
        if self._desk is not None:
            self._desk.close()
        while self._stop_at is not None and time.monotonic() < self._stop_at:
            self._hear_desk()
            self._hear_workflows()
            if not self._host.is_busy:
                break
            time.sleep(TURN_SECONDS)
        time.sleep(TURN_SECONDS)  # for the step that has just got its answer
        self._hear_workflows()


def _age(study: StudyVersion) -> int:
    return study.generation


def _listener_config(settings: Settings) -> ListenerConfig:
    try:
        listener_context(settings.tls_certificate, settings.tls_private_key, settings.tls_ca)
    except TlsError as error:
        raise TlsUnusable([str(error)]) from error
    return ListenerConfig(
        spool=settings.spool,
        ae_title=settings.ae_title,
        min_free_bytes=settings.min_free_bytes,
        max_associations=settings.max_associations,
        max_pdu=settings.max_pdu,
        allowed_calling_aets=settings.allowed_calling_aets,
        allowed_addresses=settings.allowed_addresses,
        listeners=settings.listeners,
        max_associations_per_peer=settings.max_associations_per_peer,
        max_instance_bytes=settings.max_instance_bytes,
        tls_certificate=settings.tls_certificate,
        tls_private_key=settings.tls_private_key,
        tls_ca=settings.tls_ca,
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
