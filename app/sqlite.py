"""How an SQLite file that several processes share is opened."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

BUSY_SECONDS = 30.0


def connect(file: Path, *, check_same_thread: bool = True) -> sqlite3.Connection:
    """Open a file in autocommit, with a write-ahead log and durable commits.

    Made if missing. Whoever finds it locked waits up to `BUSY_SECONDS`.

    Raises
    ------
    sqlite3.Error
        Not a database, not writable, or locked for longer.
    """
    connection = sqlite3.connect(
        file,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=check_same_thread,
    )
    try:
        make_shared(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def make_shared(connection: sqlite3.Connection) -> None:
    """Give a connection the write-ahead log and durable commits.

    Raises
    ------
    sqlite3.Error
        As for `connect`.
    """
    # SQLite doesn't wait where two processes turn a new file's log on at one moment: the
    # second is told that the file is locked at once, whatever its timeout.
    for attempt in Retrying(
        retry=retry_if_exception(_is_busy),
        stop=stop_after_delay(BUSY_SECONDS),
        wait=wait_random(0.005, 0.05),
        reraise=True,
    ):
        with attempt:
            connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _is_busy(error: BaseException) -> bool:
    # The low byte: the rest says why (SQLite, "Result and Error Codes").
    return (
        isinstance(error, sqlite3.OperationalError)
        and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
    )
