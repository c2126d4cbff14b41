"""Fine-tune jobs: real child processes, whose commands are small scripts."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from app.api.jobs import INTERRUPTED, Job, Jobs
from app.api.refusals import JobRunning
from app.child import PARENTS_SIGNALS

SCRIPT = """
import json, os, signal, sys, time
log = {log!r}
open(log, "a").write(json.dumps([os.getpid(), sys.argv[1:]]) + "\\n")
blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
assert not blocked & {{signal.SIGTERM, signal.SIGINT}}, blocked
{body}
"""
GOOD = """
if sys.argv[1] == "collect": print(json.dumps({"cases": 7}))
else: print(json.dumps({"weights": "/w/best.pt", "metric": 0.8}))
"""


def jobs(folder: Path, body: str = GOOD) -> Jobs:
    script = folder / "train.py"
    script.write_text(SCRIPT.format(log=str(folder / "log"), body=body))
    return Jobs(folder / "state", (sys.executable, str(script)))


def calls(folder: Path) -> list[tuple[int, list[str]]]:
    lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    return [tuple(json.loads(line)) for line in lines]


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await story()

    # As in the API process: a child must not inherit this.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PARENTS_SIGNALS)
    try:
        asyncio.run(whole())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def ended(jobs: Jobs, job_id: str) -> Job:
    def state() -> Job:
        job = jobs.read(job_id)
        assert job is not None
        return job

    await until(lambda: state().status != "running")
    return state()


def test_collect_then_run_and_the_end_is_on_record(tmp_path: Path) -> None:
    async def story() -> None:
        work = jobs(tmp_path)
        started = await work.start(500, 3)
        with pytest.raises(JobRunning):
            await work.start(500, 3)
        job = await ended(work, started.job_id)
        assert (job.status, job.model_path, job.reason) == ("done", "/w/best.pt", None)
        assert job.collect == {"cases": 7} and job.run is not None
        assert job.validation_loss is None and job.improvement_over_base is None
        assert [arguments for _, arguments in calls(tmp_path)] == [
            ["collect", "--max-cases", "500", "--json"],
            ["run", "--epochs", "3", "--json"],
        ]
        # A later process reads it too, and the next job may begin.
        assert Jobs(tmp_path / "state").read(started.job_id) == job
        await ended(work, (await work.start(1, 1, "head_neck_oar_ct")).job_id)
        assert calls(tmp_path)[-1][1][-3:] == ["--bundle", "head_neck_oar_ct", "--json"]

    run(story)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit('RL-1306: orthanc_url is not set')", "status 1: RL-1306: orthanc_url is not"),
        ("raise ValueError('Doe^John')", "no reason given"),
        ("print('no json')", "printed no JSON object"),
        ("print('[]')", "printed no JSON object"),
        ("os.kill(os.getpid(), 9)", "status -9"),
    ],
)
def test_a_step_that_fails_ends_the_job_with_its_reason(
    tmp_path: Path, body: str, reason: str
) -> None:
    async def story() -> None:
        work = jobs(tmp_path, body)
        job = await ended(work, (await work.start(500, 3)).job_id)
        assert job.status == "failed" and job.reason is not None
        assert reason in job.reason and "Doe" not in job.reason
        assert len(calls(tmp_path)) == 1

    run(story)


def test_cases_left_out_by_collect_do_not_stop_the_run(tmp_path: Path) -> None:
    async def story() -> None:
        body = GOOD + "sys.exit(4 if sys.argv[1] == 'collect' else 0)"
        work = jobs(tmp_path, body)
        assert (await ended(work, (await work.start(500, 3)).job_id)).status == "done"

    run(story)


def test_a_flood_of_output_is_read_and_bounded(tmp_path: Path) -> None:
    async def story() -> None:
        body = "sys.stderr.write('x' * 5_000_000)\n" + GOOD
        work = jobs(tmp_path, body)
        assert (await ended(work, (await work.start(500, 3)).job_id)).status == "done"

    run(story)


def test_a_stop_ends_the_training_and_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        work = jobs(tmp_path, "time.sleep(600)")
        started = await work.start(500, 3)
        await until(lambda: calls(tmp_path))
        await work.stop()
        job = work.read(started.job_id)
        assert job is not None
        assert (job.status, job.reason) == ("interrupted", INTERRUPTED)
        assert not psutil.pid_exists(calls(tmp_path)[0][0])

    run(story)


def test_a_job_that_a_dead_process_left_running_is_called_interrupted(tmp_path: Path) -> None:
    state = tmp_path / "state" / "jobs"
    state.mkdir(parents=True)
    record = {"job_id": "a" * 32, "status": "running", "step": "run", "started_at": "x"}
    (state / f"{'a' * 32}.json").write_text(json.dumps(record))
    work = Jobs(tmp_path / "state")
    work.recover()
    job = work.read("a" * 32)
    assert job is not None and job.status == "interrupted" and job.ended_at is not None


@pytest.mark.parametrize("job_id", ["", "..", "../x", "A" * 32, "a" * 31, "a" * 33, "a" * 32])
def test_only_identifiers_of_ours_are_looked_up(tmp_path: Path, job_id: str) -> None:
    (tmp_path / "state" / "jobs").mkdir(parents=True)
    (tmp_path / "state" / "x.json").write_text("{}")
    assert Jobs(tmp_path / "state").read(job_id) is None
