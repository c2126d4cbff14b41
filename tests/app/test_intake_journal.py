"""The journal: committed before `record` returns, for every thread, once."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.intake import journal
from app.intake.journal import JournalWriter, Received


def row(number: int, digest: str = "d") -> Received:
    return Received(f"1.2.{number}", digest, "1.1", "1.2.1", f"ab/{number}.dcm", 10, "PACS", 0.0)


def test_rows_of_many_threads_are_durable_when_record_returns(tmp_path: Path) -> None:
    file = tmp_path / "journal.db"
    journal.prepare(file).close()
    writer = JournalWriter(file)
    reader = journal.connect(file)

    def record_and_look(number: int) -> int:
        writer.record(row(number))
        found = journal.connect(file).execute(
            "SELECT COUNT(*) FROM instances WHERE sop_instance_uid = ?", (f"1.2.{number}",)
        )
        return int(found.fetchone()[0])

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(record_and_look, range(120)))
    writer.close()

    assert seen == [1] * 120
    assert reader.execute("SELECT COUNT(*) FROM instances").fetchone()[0] == 120


def test_commits_are_synchronous_and_in_wal(tmp_path: Path) -> None:
    connection = journal.prepare(tmp_path / "journal.db")

    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_the_same_instance_again_changes_nothing_other_bytes_do(tmp_path: Path) -> None:
    connection = journal.prepare(tmp_path / "journal.db")

    journal.insert(connection, [row(1), row(1), row(1, digest="e")])

    assert connection.execute("SELECT COUNT(*) FROM instances").fetchone()[0] == 2


def test_a_row_that_waited_too_long_is_not_written_later(tmp_path: Path) -> None:
    file = tmp_path / "journal.db"
    connection = journal.prepare(file)
    writer = JournalWriter(file)

    with writer._turn, pytest.raises(TimeoutError):
        writer.record(row(1), timeout_s=0.01)
    writer.record(row(2))
    writer.close()

    found = connection.execute("SELECT sop_instance_uid FROM instances").fetchall()
    assert [uid for (uid,) in found] == [row(2).sop_instance_uid]


def test_a_journal_that_fails_says_so_to_every_waiting_thread(tmp_path: Path) -> None:
    file = tmp_path / "journal.db"
    connection = journal.prepare(file)
    writer = JournalWriter(file)
    connection.execute("DROP TABLE instances")

    for number in range(2):
        with pytest.raises(sqlite3.OperationalError):
            writer.record(row(number))
    writer.close()


def test_a_journal_of_the_version_before_keeps_its_rows_and_gets_the_new_indexes(
    tmp_path: Path,
) -> None:
    def indexes(connection: sqlite3.Connection) -> set[str]:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")
        return {name for (name,) in found}

    old = journal.prepare(tmp_path / "old.db")
    old.execute("DROP INDEX instances_grouped")
    old.execute("CREATE INDEX instances_uid ON instances (sop_instance_uid, study_uid)")
    old.execute("CREATE INDEX instances_study ON instances (study_uid, version)")
    old.execute("PRAGMA user_version = 3")
    journal.insert(old, [row(1)])
    old.close()

    upgraded = journal.prepare(tmp_path / "old.db")

    assert indexes(upgraded) == indexes(journal.prepare(tmp_path / "new.db"))
    assert upgraded.execute("SELECT COUNT(*) FROM instances").fetchone()[0] == 1
    assert upgraded.execute("PRAGMA user_version").fetchone()[0] == journal.SCHEMA_VERSION
