"""A file that another process has locked, or that is none."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from app import sqlite
from app.register import REGISTER_FILE, Register


def test_who_comes_while_another_begins_the_file_waits(tmp_path: Path) -> None:
    # Another process is about to turn the log of the new file on: it has the file reserved,
    # and SQLite refuses the second one that wants the same without asking its timeout.
    file = tmp_path / REGISTER_FILE
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as first:
        first.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.5, first.execute, ["ROLLBACK"])
        release.start()
        Register(tmp_path)
        release.join()
    with closing(sqlite3.connect(file)) as reader:
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_lock_that_stays_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.2)
    file = tmp_path / "held.sqlite"
    with closing(sqlite3.connect(file, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite.connect(file)


def test_a_file_that_is_no_database_is_not_tried_again(tmp_path: Path) -> None:
    file = tmp_path / "picture.sqlite"
    file.write_bytes(b"not a database, by no means; " * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        sqlite.connect(file)
