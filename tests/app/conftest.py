"""A real listener process, for intake tests."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from app.intake import journal
from app.intake.ledger import Ledger
from app.intake.listener import ListenerConfig
from app.intake.process import IntakeProcess, bind_patiently
from app.intake.spool import Spool
from tests.app.instances import encoded


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Poll until the condition is true; its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)
    return value


def receive(ledger: Ledger, *datasets: Dataset) -> None:
    """Put instances where a listener would, one after the other."""
    for dataset in datasets:
        uid = str(dataset.SOPInstanceUID)
        kept = ledger.spool.keep(uid, b"", encoded(dataset))
        row = journal.Received(uid, kept.digest, "", "", kept.name, kept.size, "PACS", time.time())
        journal.insert(ledger.connection, [row])


@dataclass
class Listener:
    """A running listener and what it keeps."""

    port: int
    process: IntakeProcess
    spool: Spool
    journal: sqlite3.Connection

    def rows(self) -> list[sqlite3.Row]:
        return self.journal.execute("SELECT * FROM instances ORDER BY id").fetchall()

    def files(self) -> list[Path]:
        folders = (self.spool.incoming, self.spool.instances)
        return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


@contextmanager
def listening(folder: Path, **changes: Any) -> Iterator[Listener]:
    """A listener on a free loopback port; keywords change its `ListenerConfig`."""
    config = ListenerConfig(
        spool=folder / "spool",
        ae_title="RADLOOP",
        min_free_bytes=0,
        max_associations=20,
        max_pdu=131072,
    )
    config = replace(config, **changes)
    spool = Spool(config.spool)
    connection = journal.prepare(spool.journal_file)
    listening_socket = bind_patiently("127.0.0.1", 0)
    port = listening_socket.getsockname()[1]
    process = IntakeProcess(config, listening_socket)
    try:
        process.poll()
        yield Listener(port, process, spool, connection)
    finally:
        process.stop()


@pytest.fixture
def start_listener(tmp_path: Path) -> Iterator[Callable[..., Listener]]:
    """`listening` in the test's folder."""
    with ExitStack() as stack:
        yield lambda **changes: stack.enter_context(listening(tmp_path, **changes))
