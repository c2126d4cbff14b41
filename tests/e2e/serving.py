"""Start the service as a process of its own, read what it says, send to it, end it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pydicom

from tests.app.conftest import until

ROOT = Path(__file__).parents[2]
STORESCU = Path("/usr/bin/storescu")  # pynetdicom installs another one of that name
RADLOOP = (sys.executable, "-m", "app.cli.main", "serve")


@dataclass
class Served:
    """A running service."""

    process: subprocess.Popen[str]
    output: Path
    lines: list[str] = field(default_factory=list)

    def said(self, pattern: str) -> list[re.Match[str]]:
        """Lines that hold the pattern."""
        return [found for line in list(self.lines) if (found := re.search(pattern, line))]

    def wait_for(self, pattern: str, seconds: float = 60.0, times: int = 1) -> re.Match[str]:
        """Until it has said so `times` times; the last match."""

        def heard() -> bool:
            assert self.process.poll() is None or self.said(pattern), "\n".join(self.lines)
            return len(self.said(pattern)) >= times

        try:
            until(heard, seconds)
        except AssertionError as error:
            raise AssertionError(f"{pattern!r} not in:\n" + "\n".join(self.lines)) from error
        return self.said(pattern)[-1]

    @property
    def port(self) -> int:
        """Of the listener."""
        return int(self.wait_for(r"listening for C-STORE on [\d.]+:(\d+)")[1])

    def children(self) -> list[psutil.Process]:
        """Listener, worker, and Python's own resource tracker."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: int = signal.SIGTERM, seconds: float = 40.0) -> int:
        """Send a signal and wait; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def results(self) -> set[Path]:
        """Everything in the output folder."""
        return {path for path in self.output.rglob("*") if path.is_file()}


def gone(processes: Sequence[psutil.Process]) -> bool:
    """Whether all have ended, reaped or not."""
    return not any(
        process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes
    )


def environment(folder: Path, settings: Mapping[str, object]) -> dict[str, str]:
    """Of a service that keeps everything below `folder`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RADLOOP_")}
    own = {
        "host": "127.0.0.1",
        "port": 0,
        "spool": folder / "spool",
        "output_dir": folder / "output",
        "quiet_seconds": 1,
        "min_free_bytes": 0,
        **settings,
    }
    return {
        **clean,
        "TCP_NODELAY": "1",
        "PYTHONPATH": str(ROOT),
        **{f"RADLOOP_{name.upper()}": str(value) for name, value in own.items()},
    }


@contextmanager
def serve(folder: Path, command: Sequence[str] = RADLOOP, **settings: object) -> Iterator[Served]:
    """A service on a free port; killed after the block if it still runs."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder, settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    served = Served(process, folder / "output")

    def read() -> None:
        for line in process.stdout or ():
            served.lines.append(line.rstrip())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield served
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(10)


def stub(job: str, slot: str = "") -> tuple[str, ...]:
    """Command of a service, or of a lone worker, that runs one of `tests.app.jobs`."""
    return (sys.executable, "-m", "tests.e2e.service", job, *([slot] if slot else []))


def storescu(port: int, *files: Path, check: bool = True, syntax: str = "-x=") -> list[bool]:
    """Send with dcmtk, which proposes `syntax`; for each file whether it was acknowledged."""
    done = subprocess.run(
        [STORESCU, "-v", "-R", syntax, "127.0.0.1", str(port), *files],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TCP_NODELAY": "1"},
        check=False,
    )
    assert done.returncode == 0 or not check, done.stderr[-2000:]
    acknowledged = done.stderr.count("Received Store Response (Success)")
    return [number < acknowledged for number in range(len(files))]


def archived(url: str) -> list[pydicom.Dataset]:
    """Everything in an Orthanc."""

    def ask(path: str) -> bytes:
        with urllib.request.urlopen(f"{url}/instances{path}", timeout=20) as answer:
            return bytes(answer.read())

    return [pydicom.dcmread(io.BytesIO(ask(f"/{name}/file"))) for name in json.loads(ask(""))]
