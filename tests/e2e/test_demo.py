"""`radloop demo` where things go wrong: ports taken, Ctrl-C in the middle, no study."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from app.demo.orthanc import find_orthanc

WAIT_SECONDS = 120.0


def demo(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command as its own session, as a terminal would start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli.main", "demo", "-o", str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
    )


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Its output up to the line with these words."""
    assert process.stdout is not None
    said, deadline = "", time.monotonic() + WAIT_SECONDS
    while words not in said:
        line = process.stdout.readline()
        assert line, f"ended before it said {words!r}: {said}"
        assert time.monotonic() < deadline, said
        said += line
    return said


@pytest.mark.orthanc
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed")
def test_taken_ports_are_replaced_and_a_signal_stops_everything(
    tmp_path: Path, sent: signal.Signals
) -> None:
    holders = [socket.socket() for _ in range(3)]
    for holder in holders:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
    taken = [str(holder.getsockname()[1]) for holder in holders]
    process = demo(
        tmp_path, "--port", taken[0], "--orthanc-http", taken[1], "--orthanc-dicom", taken[2]
    )
    said = read_until(process, "making a patient")
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2  # Orthanc and radloop serve

    process.send_signal(sent)
    rest, _ = process.communicate(timeout=WAIT_SECONDS)

    for port in taken:
        assert f"port {port} " in said and "is taken: using" in said
    assert process.returncode == 130
    assert "interrupted: everything that the demo started is stopped" in rest
    assert "Traceback" not in said + rest
    assert not psutil.wait_procs(children, timeout=20)[1]
    for holder in holders:
        holder.close()


def test_a_study_that_is_no_folder_is_named(tmp_path: Path) -> None:
    process = demo(tmp_path, "--study", str(tmp_path / "nowhere"))
    said, _ = process.communicate(timeout=WAIT_SECONDS)

    assert process.returncode == 1
    assert "nowhere is no folder" in said and "Traceback" not in said


def test_a_port_that_can_not_be_is_a_wrong_usage(tmp_path: Path) -> None:
    process = demo(tmp_path, "--port", "99999")
    said, _ = process.communicate(timeout=WAIT_SECONDS)

    assert process.returncode == 2
    assert "65535" in said and "Traceback" not in said
