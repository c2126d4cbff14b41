"""One process of the benchmark: a host whose analyses only sleep.

`python -m benchmarks.scale.process FOLDER URL SLOT SLEEP_S FEED`: FEED studies are put
into the queue before the worker starts (0: somebody else has). Writes the time of every
analysis' end, seconds since the epoch, into FOLDER/ended.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from pydantic import SecretStr

from app.intake.spool import Spool
from app.settings import Settings
from app.worker.messages import Job, Outcome, Request
from app.workflow.host import Host
from app.workflow.manifest import write_manifest
from app.workflow.study import Task


class Sleeper:
    """Factory of a job that sleeps and says when it has ended."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds

    def __call__(self) -> Job:
        def job(request: Request) -> Outcome:
            del request
            time.sleep(self.seconds)
            with (self.folder / "ended").open("a") as file:
                file.write(f"{time.time()}\n")
            return Outcome("not applicable", "only a measurement")

        return job


def main(folder: Path, url: str, slot: str, seconds: float, feed: int) -> None:
    """Work until killed."""
    settings = Settings(
        spool=folder / "spool",
        output_dir=folder / "out",
        state_dir=folder / "state",
        database_url=SecretStr(url),
    )
    host = Host(settings, factory=Sleeper(folder, seconds), destinations=[], slot=slot)
    spool = Spool(settings.spool)
    for number in range(feed):
        name = f"{number:08d}"
        write_manifest(spool, name, [])
        host.enqueue(
            Task("bench", name, f"1.2.{number}", 1, 1, "20260101000000", {}, None, priority=3)
        )
    (folder / f"fed-{slot}").touch()
    while not (folder / "go").exists():  # nobody polls: nothing is analysed before all is there
        time.sleep(0.02)
    while True:
        host.poll()
        time.sleep(0.02)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5]))
    os._exit(0)
