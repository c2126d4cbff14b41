"""The state of each study in the user metadata of our Orthanc, so that a person sees it there.

What shall stand there is kept in a small file until Orthanc has taken it: an Orthanc
that is down delays nobody, and a state is right there once both run. No PHI.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

from app.delivery.destination import DeliveryRefusal, DestinationUnreachable
from app.intake.ledger import ONLY_OURS, UNFINISHED, State, StudyVersion
from app.sqlite import connect

FILE = "orthanc-states.db"
STATE_MARK = '{"by":"radloop",'  # how every value begins
NOT_WANTED = (ONLY_OURS, "no route wants it")
LOOK_SECONDS = 1.0
FIRST_WAIT_SECONDS = 2.0
MAX_WAIT_SECONDS = 300.0
MAX_TRIES = 300  # a day, nearly: then the study is taken for one that Orthanc does not hold
BATCH = 50
MAX_REASON = 200  # characters

log = logging.getLogger("radloop.delivery")
_CODE = re.compile(r"RL-\d{4}")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS states (
  destination TEXT NOT NULL,             -- key
  study_uid TEXT NOT NULL,
  wanted TEXT NOT NULL,                  -- what shall stand there, without its time
  at TEXT NOT NULL,                      -- since when
  told TEXT NOT NULL DEFAULT '',         -- what stands there
  tries INTEGER NOT NULL DEFAULT 0,
  not_before REAL NOT NULL DEFAULT 0,    -- seconds since the epoch
  PRIMARY KEY (destination, study_uid)
);
CREATE INDEX IF NOT EXISTS states_open ON states (not_before) WHERE wanted <> told;
"""


@runtime_checkable
class Shows(Protocol):
    """What can show a state; `OrthancDestination` does."""

    @property
    def key(self) -> str:
        """By which the journal names it."""

    @property
    def name(self) -> str:
        """What people read."""

    def show_state(self, study_instance_uid: str, value: str) -> bool:
        """See `OrthancDestination.show_state`."""


def shown(study: StudyVersion) -> str | None:
    """What a study's metadata says of this version, without its time; None: no change.

    A version that is still coming in changes nothing: whether a route wants it is not
    known yet, and what stands there says of which version it is.
    """
    if study.state in UNFINISHED:
        state = "pending"
    elif study.state in (State.DONE, State.FAILED, State.NOT_APPLICABLE):
        state = str(study.state)
    elif study.state is State.DISCARDED:
        state = "failed"
    else:
        return None
    said: dict[str, object] = {"state": state, "version": study.version}
    if state != "pending" and state != "done" and study.reason:
        if code := _CODE.search(study.reason):
            said["code"] = code[0]
        said["reason"] = study.reason[:MAX_REASON]
    return json.dumps(said, separators=(",", ":"))


class ShownStates:
    """Keeps the states in Orthanc right, from a thread of its own.

    Parameters
    ----------
    folder : Path
        Where its file is; the spool.
    destinations : sequence of Shows
        None: nothing is done.
    """

    def __init__(self, folder: Path, destinations: Sequence[Shows]) -> None:
        self._file = folder / FILE
        self._destinations = {destination.key: destination for destination in destinations}
        self._said: set[str] = set()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if not self._destinations:
            return
        with closing(connect(self._file)) as connection:
            connection.executescript(_SCHEMA)
        self._thread = threading.Thread(target=self._run, name="orthanc-states", daemon=True)
        self._thread.start()

    def want(self, studies: Iterable[StudyVersion]) -> None:
        """These shall be shown as they are now; durable when it returns.

        Raises
        ------
        sqlite3.Error
            The file can't be written.
        """
        if not self._destinations:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        rows = [(study, said) for study in studies if (said := shown(study)) is not None]
        if not rows:
            return
        with closing(connect(self._file)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for key in self._destinations:
                for study, said in rows:
                    _put(connection, key, study, said, now)
            connection.execute("COMMIT")

    def stop(self, timeout_s: float = 2.0) -> None:
        """What is not shown yet is shown after the next start."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                self._look()
            except sqlite3.Error as error:
                log.error("event=trouble why=states kind=%s", type(error).__name__)

    def _look(self) -> None:
        with closing(connect(self._file)) as connection:
            rows = connection.execute(
                "SELECT destination, study_uid, wanted, at, tries FROM states"
                " WHERE wanted <> told AND not_before <= ? AND tries < ?"
                " ORDER BY not_before LIMIT ?",
                (time.time(), MAX_TRIES, BATCH),
            ).fetchall()
            away: set[str] = set()
            for key, study_uid, wanted, at, tries in rows:
                if key not in self._destinations or key in away or self._ended.is_set():
                    continue
                value = f'{STATE_MARK}"at":"{at}",{wanted[1:]}'
                try:
                    is_there = self._destinations[key].show_state(study_uid, value)
                except DestinationUnreachable:
                    away.add(key)  # its time comes again, and no try of a study is spent on it
                    continue
                except DeliveryRefusal as refusal:
                    is_there = False
                    if refusal.reason not in self._said:
                        self._said.add(refusal.reason)
                        log.error("event=state_not_shown why=%s", refusal.reason)
                mine = (key, study_uid, wanted)
                which = " WHERE destination = ? AND study_uid = ? AND wanted = ?"
                if is_there:
                    connection.execute("UPDATE states SET told = wanted, tries = 0" + which, mine)
                else:
                    wait_s = min(FIRST_WAIT_SECONDS * 2.0 ** min(tries, 10), MAX_WAIT_SECONDS)
                    connection.execute(
                        "UPDATE states SET tries = tries + 1, not_before = ?" + which,
                        (time.time() + wait_s, *mine),
                    )


def _put(
    connection: sqlite3.Connection, key: str, study: StudyVersion, said: str, now: str
) -> None:
    if study.state is State.NOT_APPLICABLE and study.reason in NOT_WANTED:
        # Nobody asked for it; but where an older version stands as pending, it must not go on so.
        statement = (
            "UPDATE states SET wanted = ?3, at = ?4, tries = 0, not_before = 0"
            " WHERE destination = ?1 AND study_uid = ?2 AND wanted <> ?3"
        )
    else:
        statement = (
            "INSERT INTO states (destination, study_uid, wanted, at) VALUES (?1, ?2, ?3, ?4)"
            " ON CONFLICT (destination, study_uid) DO UPDATE SET wanted = ?3, at = ?4,"
            " tries = 0, not_before = 0 WHERE wanted <> ?3"
        )
    connection.execute(statement, (key, study.study_uid, said, now))
