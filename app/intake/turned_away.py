"""Peers that were turned away at the door: counted by the listeners, read by the service.

One row for each reason, address and AE title, in a small SQLite file of its own: a
peer that knocks a thousand times is one row with a count of a thousand, and what does
not fit into `MAX_ROWS` is counted together. So a hostile peer fills neither the disk
nor the audit trail. A listener writes once in `WRITE_SECONDS` at most, from a thread of
its own: the door never waits for the disk. What was counted within that time is lost
when a listener is killed; each refusal is in its log as well.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pynetdicom.events import Event

FILE = "turned-away.db"
MAX_ROWS = 32  # until the service takes them
WRITE_SECONDS = 1.0
AE_TITLE_CHARACTERS = 16  # PS3.5 6.2
BUSY_SECONDS = 10.0
OTHERS = "others"

Why = Literal["address", "aet", "tls", "associations", "connections", "others"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS turned_away (
  why TEXT NOT NULL,
  address TEXT NOT NULL,                 -- empty in the row of all others
  aet TEXT NOT NULL,                     -- empty where none was said
  count INTEGER NOT NULL,
  PRIMARY KEY (why, address, aet)
);
"""
_Key = tuple[str, str, str]
_OTHERS: _Key = (OTHERS, "", "")


@dataclass(frozen=True)
class TurnedAway:
    """A peer that was refused.

    Attributes
    ----------
    why : str
        ``address``, ``aet`` (not on the list), ``tls`` (no valid handshake),
        ``associations``, ``connections`` (too many), ``others`` (more peers than are told
        one by one).
    address, aet : str
        IP address; AE title as it was claimed, printable, at most 16 characters.
    count : int
        How often since it was last told.
    """

    why: str
    address: str
    aet: str
    count: int


class Door:
    """A listener's side: takes note, in memory, and writes it down soon.

    Parameters
    ----------
    spool : Path
        Where the file is.
    """

    def __init__(self, spool: Path) -> None:
        self._file = spool / FILE
        self._noted: Counter[_Key] = Counter()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._write, name="turned-away", daemon=True)
        self._thread.start()

    def turned_away(self, why: Why, address: str, aet: str = "") -> None:
        """Take note of a refusal; never waits, never raises."""
        said = "".join(c for c in aet if c.isprintable())[:AE_TITLE_CHARACTERS].strip()
        key = (why, address, said)
        with self._changed:
            known = key in self._noted or len(self._noted) < MAX_ROWS
            self._noted[key if known else _OTHERS] += 1
            self._changed.notify()

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what was noted."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._noted or self._closed)
                noted, self._noted = self._noted, Counter()
            try:
                if noted:
                    _add(self._file, noted)
            except sqlite3.Error:
                with self._changed:  # the disk is full, say: counted on, in as many rows
                    for key, count in noted.items():
                        fits = key in self._noted or len(self._noted) < MAX_ROWS
                        self._noted[key if fits else _OTHERS] += count
                    if self._closed:
                        return
            if self._closed and not self._noted:
                return
            time.sleep(WRITE_SECONDS if not self._closed else 0)


def note_rejected(event: Event, door: Door) -> None:
    """Handler of pynetdicom's EVT_REJECTED: the calling AE title is not on the list."""
    requestor = event.assoc.requestor
    asked = requestor.primitive
    title = str(asked.calling_ae_title) if asked is not None else ""
    door.turned_away("aet", str(requestor.address), title)


def take(spool: Path, tell: Callable[[Sequence[TurnedAway]], None]) -> None:
    """Give `tell` who was turned away, and forget it once it has returned.

    What `tell` raises passes, and the same will be told again. Nothing is there: it is
    not called.

    Raises
    ------
    sqlite3.Error
        The file can't be read or written.
    """
    file = spool / FILE
    if not file.exists():
        return
    with closing(_open(file)) as connection:
        rows = connection.execute(
            "SELECT why, address, aet, count FROM turned_away ORDER BY rowid"
        ).fetchall()
        if not rows:
            return
        tell([TurnedAway(*row) for row in rows])
        connection.execute("BEGIN IMMEDIATE")
        # Less what was told, and not the row: a listener may have counted on meanwhile.
        connection.executemany(
            "UPDATE turned_away SET count = count - ? WHERE (why, address, aet) = (?, ?, ?)",
            [(count, why, address, aet) for why, address, aet, count in rows],
        )
        connection.execute("DELETE FROM turned_away WHERE count <= 0")
        connection.execute("COMMIT")


def _add(file: Path, noted: Counter[_Key]) -> None:
    with closing(_open(file)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        known = set(connection.execute("SELECT why, address, aet FROM turned_away"))
        for key, count in noted.items():
            if key not in known and len(known) >= MAX_ROWS:
                key = _OTHERS
            known.add(key)
            connection.execute(
                "INSERT INTO turned_away VALUES (?, ?, ?, ?) ON CONFLICT (why, address, aet)"
                " DO UPDATE SET count = count + excluded.count",
                (*key, count),
            )
        connection.execute("COMMIT")


def _open(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.executescript(_SCHEMA)
    return connection
