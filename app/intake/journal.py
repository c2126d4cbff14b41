"""The journal: one SQLite file that lists what was received and what became of it.

WAL with `synchronous=FULL`: a committed row survives a power cut. The listener
adds instances through `JournalWriter`, which commits those of all associations
together (one fsync for many); the dispatcher reads them and keeps the states of
the studies (`ledger`). No PHI: UIDs, digests, AE titles, times.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from dataclasses import astuple, dataclass
from pathlib import Path

from app import sqlite

SCHEMA_VERSION = 4
MAX_BATCH = 256
SAME, REJECTED = 2, 3  # in `instances.excluded`

_SCHEMA = """
CREATE TABLE IF NOT EXISTS instances (
  id INTEGER PRIMARY KEY,                -- order of arrival
  sop_instance_uid TEXT NOT NULL,
  digest TEXT NOT NULL,                  -- of the data set as received, see `spool.Kept`
  sop_class_uid TEXT NOT NULL,
  transfer_syntax_uid TEXT NOT NULL,
  name TEXT NOT NULL,                    -- path below spool/instances
  size INTEGER NOT NULL,                 -- bytes
  calling_aet TEXT NOT NULL,
  called_aet TEXT NOT NULL DEFAULT '',
  source TEXT NOT NULL DEFAULT 'listener', -- door: listener, or orthanc (its change feed)
  received_at REAL NOT NULL,             -- seconds since the epoch
  grouped INTEGER NOT NULL DEFAULT 0,    -- 1 once its study is known, or known to be unreadable
  study_uid TEXT,                        -- NULL where it could not be read
  version INTEGER,                       -- study version it first belonged to
  ours INTEGER NOT NULL DEFAULT 0,       -- 1: a result of radloop that came back
  excluded INTEGER NOT NULL DEFAULT 0,   -- -1, 1: a person said this, another content is right;
                                         -- 2: decoded, it is one that was there before;
                                         -- 3: its source has rejected it
  differs TEXT NOT NULL DEFAULT '',      -- from an earlier content of its UID: identity, or in what
  UNIQUE (sop_instance_uid, digest)
);
CREATE INDEX IF NOT EXISTS instances_ungrouped ON instances (id) WHERE grouped = 0;
CREATE INDEX IF NOT EXISTS instances_grouped ON instances (study_uid, sop_instance_uid)
  WHERE study_uid IS NOT NULL;           -- partial: what arrives is not in it yet
CREATE TABLE IF NOT EXISTS studies (
  study_uid TEXT NOT NULL,
  version INTEGER NOT NULL,              -- from 1; a late instance makes the next
  state TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '',
  attempts INTEGER NOT NULL DEFAULT 0,   -- analyses that ended badly
  recorded_at TEXT NOT NULL DEFAULT '',  -- YYYYMMDDHHMMSS when complete; results bear it
  results TEXT NOT NULL DEFAULT '[]',    -- JSON: file names in the output folder
  trial INTEGER NOT NULL DEFAULT 1,      -- how often a person asked for it, plus one
  undelivered TEXT NOT NULL DEFAULT '[]', -- JSON: keys of destinations that have not got it yet
  remark TEXT NOT NULL DEFAULT '',       -- what the analysis left out
  created_at REAL NOT NULL,
  updated_at REAL NOT NULL,
  PRIMARY KEY (study_uid, version)
);
CREATE TABLE IF NOT EXISTS identity (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  journal TEXT NOT NULL                  -- random: a journal that begins anew is another one
);
INSERT OR IGNORE INTO identity VALUES (1, lower(hex(randomblob(4))));
CREATE TABLE IF NOT EXISTS marks (
  feed TEXT PRIMARY KEY,                 -- URL of an Orthanc
  last INTEGER NOT NULL                  -- sequence number of its last change that was dealt with
);
CREATE TABLE IF NOT EXISTS rejected (
  sop_instance_uid TEXT NOT NULL,
  study_uid TEXT NOT NULL,
  title TEXT NOT NULL,                   -- code of the rejection note's title
  PRIMARY KEY (study_uid, sop_instance_uid)
);
CREATE TABLE IF NOT EXISTS counts (
  kind TEXT NOT NULL,                    -- step, or failure
  name TEXT NOT NULL,                    -- analyse, deliver; or the code of a refusal
  count INTEGER NOT NULL,
  seconds REAL NOT NULL,
  PRIMARY KEY (kind, name)
);
CREATE INDEX IF NOT EXISTS studies_state ON studies (state, updated_at);
"""
_FROM_1_TO_2 = """
ALTER TABLE instances ADD COLUMN called_aet TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN source TEXT NOT NULL DEFAULT 'listener';
ALTER TABLE instances ADD COLUMN excluded INTEGER NOT NULL DEFAULT 0;
ALTER TABLE studies ADD COLUMN trial INTEGER NOT NULL DEFAULT 1;
ALTER TABLE studies ADD COLUMN undelivered TEXT NOT NULL DEFAULT '[]';
ALTER TABLE studies ADD COLUMN remark TEXT NOT NULL DEFAULT '';
UPDATE studies SET state = 'ready' WHERE state IN ('running', 'delivering');
"""
_FROM_2_TO_3 = """
BEGIN IMMEDIATE;
ALTER TABLE instances ADD COLUMN differs TEXT NOT NULL DEFAULT '';
PRAGMA user_version = 3;
COMMIT;
"""
_FROM_3_TO_4 = """
DROP INDEX IF EXISTS instances_uid;
DROP INDEX IF EXISTS instances_study;
"""


@dataclass(frozen=True)
class Received:
    """One row: an instance that is in the spool."""

    sop_instance_uid: str
    digest: str
    sop_class_uid: str
    transfer_syntax_uid: str
    name: str
    size: int
    calling_aet: str
    received_at: float
    called_aet: str = ""
    source: str = "listener"


def connect(file: Path) -> sqlite3.Connection:
    """Open the journal, in autocommit, with durable commits.

    Raises
    ------
    sqlite3.Error
        Not a database, or not writable.
    """
    connection = sqlite.connect(file, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection


def prepare(file: Path) -> sqlite3.Connection:
    """Open the journal and make its tables where they are not there yet."""
    connection = connect(file)
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    connection.executescript(_SCHEMA)
    if found == 1:
        connection.executescript(_FROM_1_TO_2)
    if found in (1, 2):
        connection.executescript(_FROM_2_TO_3)
    if found in (1, 2, 3):
        connection.executescript(_FROM_3_TO_4)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    return connection


def insert(connection: sqlite3.Connection, rows: list[Received]) -> None:
    """Add rows in one transaction; an instance that is there already changes nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(
            "INSERT OR IGNORE INTO instances (sop_instance_uid, digest, sop_class_uid,"
            " transfer_syntax_uid, name, size, calling_aet, received_at, called_aet, source)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [astuple(row) for row in rows],
        )
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # SQLite may have done so already (disk full)
            connection.execute("ROLLBACK")
        raise


def read_mark(connection: sqlite3.Connection, feed: str) -> int | None:
    """The last change of a feed that was dealt with; None where it was never followed."""
    row = connection.execute("SELECT last FROM marks WHERE feed = ?", (feed,)).fetchone()
    return None if row is None else int(row["last"])


def write_mark(connection: sqlite3.Connection, feed: str, last: int) -> None:
    """Everything up to this change is dealt with, durably."""
    connection.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (feed, last))


class _Entry:
    """A row that waits; not committed until somebody says so."""

    __slots__ = ("done", "error", "row")

    def __init__(self, row: Received) -> None:
        self.row, self.done = row, False
        self.error: sqlite3.Error | None = sqlite3.OperationalError("not committed")


class JournalWriter:
    """Commits rows from many threads: whoever comes first, all that wait.

    Parameters
    ----------
    file : Path
        A prepared journal.
    """

    def __init__(self, file: Path) -> None:
        self._connection = connect(file)
        self._waiting: list[_Entry] = []
        self._line = threading.Lock()  # of those that wait; its holder waits for nothing
        self._turn = threading.Lock()

    def record(self, row: Received, timeout_s: float = sqlite.BUSY_SECONDS) -> None:
        """Return once the row is durable.

        Raises
        ------
        sqlite3.Error
            It could not be written.
        TimeoutError
            It was not within `timeout_s`.
        """
        entry = _Entry(row)
        with self._line:
            self._waiting.append(entry)
        if not self._turn.acquire(timeout=timeout_s):
            with self._line:
                if entry in self._waiting:  # else another thread commits it just now
                    self._waiting.remove(entry)
            raise TimeoutError("the journal took too long")
        try:
            while not entry.done:  # another thread may have had it in its batch
                with self._line:
                    batch = self._waiting[:MAX_BATCH]
                    del self._waiting[: len(batch)]
                self._commit(batch)
        finally:
            self._turn.release()
        if entry.error is not None:
            raise entry.error

    def close(self) -> None:
        """After the commit that runs; `record` fails from now on."""
        with self._turn:
            self._connection.close()

    def _commit(self, batch: list[_Entry]) -> None:
        error: sqlite3.Error | None = batch[0].error
        try:
            insert(self._connection, [entry.row for entry in batch])
            error = None
        except sqlite3.Error as trouble:
            error = trouble
        finally:
            for entry in batch:
                entry.error, entry.done = error, True
