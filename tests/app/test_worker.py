"""The worker, as a real process: it is killed, crashes and hangs, and the next study goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app.worker.messages import Broken, JobFactory, Message, Outcome, Ready, Unfit
from app.worker.supervisor import Supervisor
from tests.app import jobs
from tests.app.conftest import until

Start = Callable[..., Supervisor]


@pytest.fixture
def start_worker() -> Iterator[Start]:
    """Start a supervisor with one of `jobs`' factories; it is stopped after the test."""
    started: list[Supervisor] = []

    def start(factory: JobFactory, **limits: float) -> Supervisor:
        supervisor = Supervisor(factory, **{"study_timeout_s": 60.0, **limits})
        started.append(supervisor)
        return supervisor

    yield start
    for supervisor in started:
        supervisor.stop()


def next_message(supervisor: Supervisor, seconds: float = 20.0) -> Message:
    messages: list[Message] = []

    def heard() -> bool:
        messages.extend(supervisor.poll())
        return bool(messages)

    until(heard, seconds)
    (message,) = messages
    return message


def ready(supervisor: Supervisor) -> Supervisor:
    assert isinstance(next_message(supervisor), Ready)
    return supervisor


def test_models_are_loaded_once_for_many_studies(start_worker: Start, tmp_path: Path) -> None:
    worker = ready(start_worker(jobs.behaving))
    pids = set()
    for _ in range(3):
        worker.submit(jobs.request(tmp_path, "well"))
        assert worker.is_busy and not worker.is_idle
        answer = next_message(worker)
        assert isinstance(answer, Outcome) and answer.state == "done"
        pids.add(answer.reason)

    assert pids == {str(worker.pid)}
    assert worker.pid != os.getpid()


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [("segfault", "(SIGSEGV)"), ("exit", "(exit status 7)")],
)
def test_a_crash_is_reported_and_the_next_study_succeeds(
    start_worker: Start, tmp_path: Path, behaviour: str, reason: str
) -> None:
    worker = ready(start_worker(jobs.behaving))

    worker.submit(jobs.request(tmp_path, behaviour))
    crash = next_message(worker)
    assert isinstance(crash, Broken) and reason in crash.reason
    assert not worker.is_idle

    ready(worker).submit(jobs.request(tmp_path, "well"))
    assert isinstance(next_message(worker), Outcome)


def test_a_hang_is_killed_at_the_limit_and_the_next_study_succeeds(
    start_worker: Start, tmp_path: Path
) -> None:
    worker = ready(start_worker(jobs.behaving, study_timeout_s=1.0))
    pid = worker.pid
    assert pid is not None

    began = time.monotonic()
    worker.submit(jobs.request(tmp_path, "hang"))
    hang = next_message(worker)
    assert isinstance(hang, Broken)
    assert hang.reason.startswith("RL-0802: analysis took longer than 1 s")
    assert 1.0 <= time.monotonic() - began < 6.0
    assert not psutil.pid_exists(pid)

    ready(worker).submit(jobs.request(tmp_path, "well"))
    assert isinstance(next_message(worker), Outcome)


def test_a_defect_names_its_place_but_not_the_patient(start_worker: Start, tmp_path: Path) -> None:
    worker = ready(start_worker(jobs.behaving))
    worker.submit(jobs.request(tmp_path, "defect"))

    answer = next_message(worker)

    assert isinstance(answer, Broken)
    assert answer.reason.startswith("RL-0801: ValueError at tests/app/jobs.py:")
    assert "Doe" not in answer.reason
    assert worker.is_idle  # a Python exception is no reason for a new process


def test_a_refusal_is_final_and_says_why(start_worker: Start, tmp_path: Path) -> None:
    worker = ready(start_worker(jobs.behaving))
    worker.submit(jobs.request(tmp_path, "refusal"))

    assert next_message(worker) == Outcome("failed", "RL-0300: series 1.2.3: one slice")


def test_signals_are_the_parents(start_worker: Start, tmp_path: Path) -> None:
    worker = ready(start_worker(jobs.behaving))
    worker.submit(jobs.request(tmp_path, "signals"))

    assert isinstance(next_message(worker), Outcome)


def test_a_worker_that_cannot_load_is_tried_again_with_growing_pauses(start_worker: Start) -> None:
    worker = start_worker(jobs.unfit)
    times = []
    for _ in range(2):
        message = next_message(worker)
        assert isinstance(message, Unfit)
        assert message.reason.startswith("RL-0801: ImportError at tests/app/jobs.py")
        times.append(time.monotonic())
    assert times[1] - times[0] >= 2.0


def test_a_worker_that_never_gets_ready_is_killed(start_worker: Start) -> None:
    worker = start_worker(jobs.slow_start, start_timeout_s=1.5)

    assert next_message(worker) == Unfit("RL-0804: worker not ready after 1.5 s")
    assert worker.pid is None


def test_a_kill_from_outside_between_studies_is_healed(start_worker: Start, tmp_path: Path) -> None:
    worker = ready(start_worker(jobs.behaving))
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)

    assert next_message(worker) == Unfit("RL-0805: the worker ended by itself (SIGKILL)")
    ready(worker).submit(jobs.request(tmp_path, "well"))
    assert isinstance(next_message(worker), Outcome)


def test_a_worker_in_work_ends_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from app.worker.supervisor import Supervisor; from tests.app import jobs\n"
        "if __name__ == '__main__':\n"
        "    worker = Supervisor(jobs.behaving, 600)\n"
        "    while not worker.is_idle: worker.poll()\n"
        "    worker.submit(jobs.request(Path(sys.argv[1]), 'hang'))\n"
        "    print(worker.pid, flush=True); time.sleep(600)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, script, tmp_path], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()

    until(lambda: not psutil.pid_exists(pid), seconds=5.0)


def test_an_analysis_that_takes_too_much_memory_is_stopped_and_the_next_succeeds(
    start_worker: Start, tmp_path: Path
) -> None:
    worker = ready(start_worker(jobs.behaving, max_bytes=600 << 20))

    worker.submit(jobs.request(tmp_path, "memory"))
    stopped = next_message(worker)

    assert isinstance(stopped, Broken) and stopped.reason.startswith("RL-0806")
    assert "more than 0.6 GiB (worker_max_bytes)" in stopped.reason
    ready(worker)
    worker.submit(jobs.request(tmp_path, "well"))
    assert isinstance(next_message(worker), Outcome)


def test_a_worker_that_keeps_too_much_is_started_anew_between_two_studies(
    start_worker: Start, tmp_path: Path
) -> None:
    worker = ready(start_worker(jobs.behaving, max_bytes=600 << 20))
    first = worker.pid

    worker.submit(jobs.request(tmp_path, "keeps"))
    messages: list[Message] = []
    until(lambda: messages.extend(worker.poll()) or len(messages) == 2)  # at once, or one by one
    done, unfit = messages

    assert isinstance(done, Outcome)  # what it did is not lost
    assert isinstance(unfit, Unfit) and unfit.reason.startswith("RL-0807")
    ready(worker)
    assert worker.pid != first
