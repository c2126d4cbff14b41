"""`radloop serve` as the demo and the benchmarks start it: a process of its own, with a log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from operators.errors import Refusal

STOP_SECONDS = 30.0
STUDY_STATES_THAT_END = ("failed", "not applicable")


class DemoFailed(Refusal):
    """The demo did not reach its end."""

    code = "RL-0630"


def inherited() -> dict[str, str]:
    """Our environment without settings of radloop's own, which belong to another service."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RADLOOP_") or name == "RADLOOP_BUNDLES"
    }


def radloop(settings: dict[str, str], *arguments: str) -> Any:
    """Run a command of ours with ``--json``; what it printed, decoded.

    Raises
    ------
    DemoFailed
        It ended otherwise than with 0; says how.
    """
    done = subprocess.run(
        [sys.executable, "-m", "app.cli.main", *arguments, "--json"],
        capture_output=True,
        text=True,
        env=inherited() | settings,
        check=False,
    )
    if done.returncode:
        why = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise DemoFailed(
            f"`radloop {' '.join(arguments)}`: {why[-1] if why else 'no reason given'}"
        )
    return json.loads(done.stdout)


class Service:
    """`radloop serve` as its own process.

    Parameters
    ----------
    folder : Path
        For spool, results and log.
    port : int
        Its C-STORE port.
    settings : dict
        Variables that say where it delivers.
    """

    def __init__(self, folder: Path, port: int, settings: dict[str, str]) -> None:
        folder.mkdir(parents=True)
        self.port = port
        self.log = folder / "serve.log"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.cli.main", "serve"],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the demo's: it stops this one in order
                env=inherited()
                | settings
                | {
                    "RADLOOP_HOST": "127.0.0.1",
                    "RADLOOP_PORT": str(port),
                    "RADLOOP_SPOOL": str(folder / "spool"),
                    "RADLOOP_OUTPUT_DIR": str(folder / "output"),
                    "RADLOOP_QUIET_SECONDS": "5",
                    "RADLOOP_STOP_SECONDS": "2",
                    "PYTHONUNBUFFERED": "1",
                },
            )

    @property
    def pid(self) -> int:
        """Of the service's first process."""
        return self._process.pid

    def send(self, files: list[Path]) -> None:
        """Send files by C-STORE."""
        from app.delivery.cstore import CStoreDestination

        CStoreDestination("RADLOOP", "127.0.0.1", self.port, "DEMO").deliver(files)

    def wait_for(self, words: str, seconds: float) -> None:
        """Until its log says so.

        Raises
        ------
        DemoFailed
            It ended, or did not say so in time.
        """
        deadline = time.monotonic() + seconds
        while words not in self.log.read_text(errors="replace"):
            if self._process.poll() is not None:
                raise DemoFailed(f"radloop serve ended: {self._last_line()}")
            if time.monotonic() > deadline:
                raise DemoFailed(f"radloop serve did not start in {seconds:.0f} s; see {self.log}")
            time.sleep(0.1)

    def ended(self) -> str | None:
        """Why no result will come, if it is already known."""
        if self._process.poll() is not None:
            return f"radloop serve ended: {self._last_line()}"
        for line in self.log.read_text(errors="replace").splitlines():
            if any(f": {state}" in line for state in STUDY_STATES_THAT_END):
                return line
        return None

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else f"nothing in {self.log}"
