"""radloop's listeners and its two peers, each started empty, asked for CPU time and count.

All run with TCP_NODELAY: without it Debian's Orthanc and storescp wait 45 ms for
every answer, and the comparison would say nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from app.demo.orthanc import free_port, running_orthanc
from app.intake import journal
from app.intake.listener import ListenerConfig
from app.intake.process import IntakeProcess, bind_patiently
from app.intake.spool import Spool

STORESCP = Path("/usr/bin/storescp")
NO_NAGLE = {**os.environ, "TCP_NODELAY": "1"}
LISTENERS = 2  # the default of the settings


@dataclass(frozen=True)
class Receiver:
    """A running one.

    Attributes
    ----------
    port : int
        Where it takes C-STORE, on loopback.
    cpu_s : callable
        CPU seconds so far, user and system, all its processes, ended ones too.
    count : callable
        Instances that it holds.
    """

    port: int
    cpu_s: Callable[[], float]
    count: Callable[[], int]


@contextmanager
def radloop(folder: Path) -> Iterator[Receiver]:
    """Journal and fsync on, as `radloop serve` starts it."""
    spool = Spool(folder / "spool")
    rows = journal.prepare(spool.journal_file)
    listening = bind_patiently("127.0.0.1", 0)
    port = listening.getsockname()[1]
    config = ListenerConfig(
        spool=spool.root,
        ae_title="RADLOOP",
        min_free_bytes=0,
        max_associations=64,
        max_associations_per_peer=64,
        max_pdu=131072,
        listeners=LISTENERS,
    )
    intake = IntakeProcess(config, listening)
    try:
        intake.poll()
        while not intake.is_complete:
            time.sleep(0.05)
        yield Receiver(
            port,
            lambda: sum(_cpu_s(pid) for pid in intake.pids),
            lambda: int(rows.execute("SELECT count(*) FROM instances").fetchone()[0]),
        )
    finally:
        intake.stop()
        rows.close()


@contextmanager
def orthanc(folder: Path) -> Iterator[Receiver]:
    """SyncStorageArea true: its files are fsynced; its index is SQLite."""
    with running_orthanc(folder / "orthanc") as running:
        yield Receiver(
            running.dicom_port,
            lambda: _cpu_s(running.pid),
            lambda: int(
                json.load(urllib.request.urlopen(f"{running.url}/statistics"))["CountInstances"]
            ),
        )


@contextmanager
def storescp(folder: Path) -> Iterator[Receiver]:
    """A process per association, bytes written as they come (+B), no fsync."""
    received, port = folder / "storescp", free_port()
    received.mkdir(parents=True)
    command = [str(STORESCP), "--fork", "+B", "-od", str(received), str(port)]
    with subprocess.Popen(command, env=NO_NAGLE, stderr=subprocess.DEVNULL) as process:
        try:
            yield Receiver(
                port, lambda: _cpu_s(process.pid), lambda: sum(1 for _ in received.iterdir())
            )
        finally:
            process.terminate()


RECEIVERS = {"radloop": radloop, "Orthanc": orthanc, "storescp": storescp}


def _cpu_s(pid: int) -> float:
    process = psutil.Process(pid)
    own = process.cpu_times()
    living = [child.cpu_times() for child in process.children(recursive=True)]
    return (
        own.user
        + own.system
        + own.children_user
        + own.children_system
        + sum(child.user + child.system for child in living)
    )
