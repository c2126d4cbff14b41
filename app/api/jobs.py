"""Fine-tuning on request: `radloop train collect`, then `radloop train run`, one at a time.

A job's record is a file in `state_dir/jobs`, so that its end is known after a restart.
The trainings are child processes that end with the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from app.api.answers import now
from app.api.refusals import JobRunning
from app.cli.exit_codes import Exit

TRAIN = (sys.executable, "-m", "app.cli.main", "train")
ATTACHED = (sys.executable, "-m", "app.api.attached")
OUTPUT_LIMIT_BYTES = 1 << 20
TERM_SECONDS = 3.0
_JOB = re.compile(r"[0-9a-f]{32}")
_REFUSAL = re.compile(r"RL-\d{4}: [^\n]{1,500}")
INTERRUPTED = "the service stopped or ended before the training did"


@dataclass(frozen=True)
class Job:
    """A fine-tune job.

    Attributes
    ----------
    job_id : str
        32 hexadecimal digits.
    status : str
        Where it is.
    step : str
        ``collect`` or ``run``.
    started_at, ended_at : str, str or None
        UTC, ISO 8601.
    model_path : str or None
        Weights that came out.
    validation_loss : float or None
        Null where the training measures another thing: `run` names what it measured.
    improvement_over_base : None
        Only the gate measures it.
    reason : str or None
        Why it failed, one sentence.
    collect, run : dict or None
        What the two commands printed.
    """

    job_id: str
    status: Literal["running", "done", "failed", "interrupted"]
    step: str
    started_at: str
    ended_at: str | None = None
    model_path: str | None = None
    validation_loss: float | None = None
    improvement_over_base: None = None
    reason: str | None = None
    collect: dict[str, Any] | None = None
    run: dict[str, Any] | None = None


class StepFailed(Exception):
    """A command ended with another status than 0; the sentence says why."""


class Jobs:
    """The fine-tune jobs of a site.

    Parameters
    ----------
    state_dir : Path
        `settings.state_dir`.
    command : sequence of str
        What ``collect`` and ``run`` are appended to.
    """

    def __init__(self, state_dir: Path, command: Sequence[str] = TRAIN) -> None:
        self._folder = state_dir / "jobs"
        self._command = tuple(command)
        self._task: asyncio.Task[None] | None = None
        self._running: str | None = None

    def recover(self) -> None:
        """Say of every job that an earlier process left running that it was interrupted."""
        for path in self._folder.glob("*.json"):
            job = self.read(path.stem)
            if job is not None and job.status == "running":
                self._write(_ended(job, "interrupted", INTERRUPTED))

    def read(self, job_id: str) -> Job | None:
        """A job by its identifier, or None."""
        if not _JOB.fullmatch(job_id):
            return None
        try:
            return Job(**json.loads((self._folder / f"{job_id}.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    async def start(self, max_cases: int, epochs: int, bundle: str | None = None) -> Job:
        """Begin one.

        Parameters
        ----------
        max_cases : int
            Confirmed cases at most.
        epochs : int
            Passes over the training cases.
        bundle : str or None
            Which one; None where only one can be trained.

        Raises
        ------
        JobRunning
            Another is running.
        OSError
            `state_dir` can't be written.
        """
        if self._running is not None:
            raise JobRunning(self._running)
        job = Job(uuid.uuid4().hex, "running", "collect", now())
        self._running = job.job_id
        try:
            await asyncio.to_thread(self._write, job)
        except OSError:
            self._running = None
            raise
        self._task = asyncio.create_task(self._carry_out(job, max_cases, epochs, bundle))
        return job

    async def stop(self) -> None:
        """End the job in work; its record says that it was interrupted."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _carry_out(self, job: Job, max_cases: int, epochs: int, bundle: str | None) -> None:
        of_bundle = () if bundle is None else ("--bundle", bundle)
        try:
            collected = await self._step("collect", "--max-cases", str(max_cases), *of_bundle)
            job = replace(job, step="run", collect=collected)
            await asyncio.to_thread(self._write, job)
            trained = await self._step("run", "--epochs", str(epochs), *of_bundle)
            job = replace(
                _ended(job, "done"),
                run=trained,
                model_path=_text(trained, "weights"),
                validation_loss=_number(trained, "validation_loss"),
            )
        except StepFailed as failure:
            job = _ended(job, "failed", str(failure))
        except asyncio.CancelledError:
            self._write(_ended(job, "interrupted", INTERRUPTED))
            raise
        except OSError as error:
            job = _ended(job, "failed", f"trouble with a file or a process: {error.strerror}")
        finally:
            self._running = None
        with contextlib.suppress(OSError):  # then `recover` will call it interrupted
            await asyncio.to_thread(self._write, job)

    async def _step(self, *arguments: str) -> dict[str, Any]:
        """Run one command to its end; the JSON object that it printed."""
        process = await asyncio.create_subprocess_exec(
            *ATTACHED,
            *self._command,
            *arguments,
            "--json",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is the service's to answer
        )
        try:
            assert process.stdout is not None and process.stderr is not None
            out, err = await asyncio.gather(_tail(process.stdout), _tail(process.stderr))
            status = await process.wait()
        finally:
            if process.returncode is None:
                await asyncio.shield(_end(process))
        if status not in (Exit.OK, Exit.REFUSED):  # refused: some cases were left out
            said = _REFUSAL.search(err)
            reason = said[0] if said else "no reason given; run it by hand"
            raise StepFailed(f"`radloop train {arguments[0]}` ended with status {status}: {reason}")
        try:
            printed = json.loads(out)
        except ValueError:
            printed = None
        if not isinstance(printed, dict):
            raise StepFailed(f"`radloop train {arguments[0]} --json` printed no JSON object")
        return printed

    def _write(self, job: Job) -> None:
        """Beside the final name and renamed: a reader never sees half a record."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{job.job_id}.json"
        unfinished = path.with_suffix(".part")
        with unfinished.open("w") as file:
            json.dump(asdict(job), file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)


async def _tail(stream: asyncio.StreamReader) -> str:
    """The last `OUTPUT_LIMIT_BYTES` of a stream, read to its end."""
    kept = b""
    while chunk := await stream.read(1 << 16):
        kept = (kept + chunk)[-OUTPUT_LIMIT_BYTES:]
    return kept.decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), TERM_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


def _ended(job: Job, status: Literal["done", "failed", "interrupted"], reason: str = "") -> Job:
    return replace(job, status=status, ended_at=now(), reason=reason or None)


def _text(printed: dict[str, Any], name: str) -> str | None:
    value = printed.get(name)
    return value if isinstance(value, str) else None


def _number(printed: dict[str, Any], name: str) -> float | None:
    value = printed.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
