"""The board, on SQLite: many processes' words, each taken exactly once."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from app.workflow.board import Board, Progress


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(f"sqlite:///{tmp_path / 'workflows.sqlite'}")


def entry(number: int) -> Progress:
    return Progress("0a", "1.2.3", number, 1, "delivered", "x", ("a.dcm",), ("pacs",), 1)


def test_entries_stay_until_they_are_taken_off_and_keep_their_order(board: Board) -> None:
    for number in range(5):
        board.report(entry(number))

    first = board.read(limit=3)
    assert first == [entry(0), entry(1), entry(2)] == board.read(limit=3)
    board.report(entry(9))
    board.take_off(first)
    assert board.read() == [entry(3), entry(4), entry(9)]


def test_many_threads_report_and_nothing_is_lost(board: Board) -> None:
    def work(begin: int) -> None:
        for number in range(begin, begin + 25):
            board.report(entry(number))

    threads = [threading.Thread(target=work, args=(k * 25,)) for k in range(4)]
    for thread in threads:
        thread.start()
    taken: list[int] = []
    while any(thread.is_alive() for thread in threads) or board.read():
        found = board.read(limit=7)
        board.take_off(found)
        taken += [progress.version for progress in found]

    assert sorted(taken) == list(range(100))


def test_the_current_version_only_goes_up(board: Board) -> None:
    assert board.is_current("1.2.3", 1)
    board.set_current("1.2.3", 2)
    board.set_current("1.2.3", 1)

    assert not board.is_current("1.2.3", 1)
    assert board.is_current("1.2.3", 2) and board.is_current("1.2.3", 3)
    assert board.is_current("1.2.4", 1)


def test_a_heartbeat_counts_and_can_be_forgotten(board: Board) -> None:
    board.beat("a")
    board.beat("a")
    board.beat("b")
    assert board.beats() == {"a": 2, "b": 1}
    board.forget("a")
    assert board.beats() == {"b": 1}


def test_the_file_is_in_wal_mode_before_others_open_it(board: Board, tmp_path: Path) -> None:
    del board
    with sqlite3.connect(tmp_path / "workflows.sqlite") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
