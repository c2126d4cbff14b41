"""``python -m benchmarks.scale``: two workers against one, a long queue against a short one.

Analyses only sleep, so that what is measured is the queue and not the processor. Two
workers share PostgreSQL; the queue's length is measured on SQLite, the default.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from app.workflow.engine import sqlite_url
from tests.e2e.postgres import running_postgres

PAGE = Path(__file__).with_name("RESULTS.md")
SLEEP_S = 1.0
SHORT_QUEUE = 100
WORKERS_GOAL, QUEUE_GOAL = 1.8, 1.2
START_SECONDS = 60.0


def ended(folder: Path) -> list[float]:
    """When each analysis ended, seconds since the epoch."""
    file = folder / "ended"
    return [float(line) for line in file.read_text().split()] if file.exists() else []


def wait(condition: object, seconds: float, what: str) -> None:
    """Until the callable is true."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            sys.exit(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)


def run(folder: Path, url: str, workers: int, sleep_s: float, feed: int, count: int) -> float:
    """Seconds per study, over the first `count` that end after the first few."""
    folder.mkdir()
    (folder / "state").mkdir()
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                *("-m", "benchmarks.scale.process"),
                *(str(folder), url, str(slot), str(sleep_s), str(feed if slot == 0 else 0)),
            ]
        )
        for slot in range(workers)
    ]
    try:
        fed = [folder / f"fed-{slot}" for slot in range(workers)]
        wait(lambda: all(file.exists() for file in fed), START_SECONDS + feed * 0.1, "the queue")
        (folder / "go").touch()
        warm = 2 * workers  # while the workers start
        patience = START_SECONDS + (warm + count) * (sleep_s + 2.0)
        wait(lambda: len(ended(folder)) >= warm + count, patience, "the studies")
        times = sorted(ended(folder))
        return (times[warm + count - 1] - times[warm - 1]) / count
    finally:
        for process in processes:
            process.kill()
            process.wait()


def page(workers: Sequence[float], queues: Sequence[tuple[int, float]], count: int) -> str:
    """The results, their goals and the machine."""
    one, two = workers
    ratio = one / two
    (short, short_s), (long, long_s) = queues
    cost = long_s / short_s

    def met(holds: bool) -> str:
        return "met" if holds else "**missed**"

    return (
        "# Workers and waiting studies\n\n"
        f"Analyses that sleep {SLEEP_S:g} s, {count} studies, PostgreSQL:\n\n"
        "| workers | studies/min |\n| --- | --- |\n"
        f"| 1 | {60 / one:.1f} |\n| 2 | {60 / two:.1f} |\n\n"
        f"Two do **{ratio:.2f}** times the work of one; goal {WORKERS_GOAL}: "
        f"{met(ratio >= WORKERS_GOAL)}.\n\n"
        f"Analyses that do nothing, SQLite, {SHORT_QUEUE // 2} studies from a queue in which so "
        "many wait:\n\n| waiting | ms per study |\n| --- | --- |\n"
        f"| {short} | {short_s * 1000:.0f} |\n| {long} | {long_s * 1000:.0f} |\n\n"
        f"The long queue costs **{cost:.2f}** times as much per study; goal at most {QUEUE_GOAL}: "
        f"{met(cost <= QUEUE_GOAL)}.\n\n"
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.system()} "
        f"{platform.release().split('-')[0]}, Python {platform.python_version()}. "
        "Again: `make bench`.\n"
    )


def main() -> None:
    """Measure and write the page; with --short only say it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="Fewer, for CI; no page is written.")
    short = parser.parse_args().short
    count, long = (10, 500) if short else (40, 10_000)
    with tempfile.TemporaryDirectory(prefix="radloop-scale-") as name:
        folder = Path(name)
        workers = []
        for number in (1, 2):
            with running_postgres() as url:
                workers.append(
                    run(folder / f"workers-{number}", url, number, SLEEP_S, 2 * count, count)
                )
        queues = []
        for length in (SHORT_QUEUE, long):
            rounds = []
            for again in range(1 if short else 3):
                place = folder / f"queue-{length}-{again}"
                url = sqlite_url(place / "state")
                rounds.append(run(place, url, 1, 0.0, length, SHORT_QUEUE // 2))
            queues.append((length, statistics.median(rounds)))
    said = page(workers, queues, count)
    print(said)
    if not short:
        PAGE.write_text(said)


if __name__ == "__main__":
    main()
