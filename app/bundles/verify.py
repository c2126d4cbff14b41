"""Try bundles out, each in a process of its own: one that hangs or grows stops only itself.

What a trial is, see `operators.models.trial`; this file starts, watches and
tells, and imports no model library.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from operators.errors import Refusal
from operators.models.trial import Outcome, Trial

POLL_S = 0.2
_MISSING = re.compile(r"(?:No module named|required package) ['`\"](\w+)")


class NoZoo(Refusal):
    """The folder is no checkout of a model zoo."""

    code = "RL-1450"

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder} holds no models/NAME/configs: give a checkout of the MONAI model zoo "
            "(`git clone --depth 1 https://github.com/Project-MONAI/model-zoo`)."
        )


class NoSuchBundle(Refusal):
    """The zoo has no bundle of that name."""

    code = "RL-1451"

    def __init__(self, name: str, zoo: Path, there: Sequence[str]) -> None:
        super().__init__(f"no bundle in {zoo} is called '{name}'; there are: {', '.join(there)}.")


@dataclass(frozen=True)
class Limits:
    """What one bundle may take.

    Attributes
    ----------
    seconds : float
        Wall time.
    memory_mb : float
        Resident size of the process and its children.
    """

    seconds: float = 600.0
    memory_mb: float = 12_000.0


def zoo_bundles(zoo: Path, name: str | None = None) -> list[Path]:
    """Folders of the bundles in a checkout, by name.

    Raises
    ------
    NoZoo
        There are none.
    NoSuchBundle
        `name` is not among them.
    """
    root = zoo / "models" if (zoo / "models").is_dir() else zoo
    found = sorted(file.parent.parent for file in root.glob("*/configs/metadata.json"))
    if not found:
        raise NoZoo(zoo)
    if name is None:
        return found
    chosen = [folder for folder in found if folder.name == name]
    if not chosen:
        raise NoSuchBundle(name, zoo, [folder.name for folder in found])
    return chosen


def zoo_commit(zoo: Path) -> str:
    """The commit of a checkout; "unknown" where git can't tell."""
    try:
        said = subprocess.run(
            ["git", "-C", str(zoo), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said.stdout.strip()


def verify(
    folders: Sequence[Path],
    limits: Limits,
    progress: Callable[[int, int], None] = lambda done, of: None,
    kept: Path | None = None,
    cards: Path | None = None,
) -> list[Trial]:
    """One trial after the other.

    Parameters
    ----------
    folders : sequence of Path
        Bundles.
    limits : Limits
        Of each.
    progress : callable
        Takes how many are done, and of how many.
    kept : Path or None
        File that gets a line of JSON as each trial ends; a bundle that is in it already is
        not tried again, so that a run that was stopped goes on where it was.
    cards : Path or None
        Zoo cards, see `operators.models.trial.try_bundle`.
    """
    done = {} if kept is None else read_kept(kept)
    trials = []
    for number, folder in enumerate(folders):
        progress(number, len(folders))
        trial = done.get(folder.name)
        if trial is None:
            trial = run_trial(folder, limits, cards)
            if kept is not None:
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(trial)) + "\n")
        trials.append(trial)
    progress(len(folders), len(folders))
    return trials


def read_kept(file: Path) -> dict[str, Trial]:
    """Trials of a file that `verify` kept, by bundle; none where there is no file yet."""
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    return {trial.bundle: trial for trial in (Trial(**json.loads(line)) for line in lines)}


def run_trial(folder: Path, limits: Limits, cards: Path | None = None) -> Trial:
    """The trial of one bundle in a process that is stopped at its limits."""
    started = time.monotonic()
    command = [sys.executable, "-W", "ignore", "-m", "operators.models.trial", str(folder)]
    command += [] if cards is None else [str(cards)]
    # No bundle may ask the network for anything, nor find a GPU that others use.
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=err,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **offline},
            start_new_session=True,
        )
        stopped = _watch(process, limits, started)
        out.seek(0)
        err.seek(0)
        said, complained = out.read(), err.read()
    blank = Trial(folder.name, "?", "failed", "", "", time.monotonic() - started)
    if stopped:
        return replace(blank, outcome="not here", detail=stopped)
    if process.returncode == 0 and said.strip():
        return Trial(**json.loads(said.strip().splitlines()[-1]))
    outcome, detail = _reason(complained, process.returncode)
    return replace(blank, outcome=outcome, detail=detail)


def _watch(process: subprocess.Popen[bytes], limits: Limits, started: float) -> str:
    """Wait for the end; why it was stopped, "" where it ended by itself."""
    stopped = ""
    while process.poll() is None:
        if time.monotonic() - started > limits.seconds:
            stopped = f"not done after {limits.seconds:.0f} s"
        elif (used := _resident_mb(process.pid)) > limits.memory_mb:
            stopped = f"more than {limits.memory_mb:.0f} MB of memory ({used:.0f} MB)"
        if stopped:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return stopped
        time.sleep(POLL_S)
    return stopped


def _resident_mb(pid: int) -> float:
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(member.memory_info().rss for member in family) / 2**20
    except psutil.Error:
        return 0.0


def _reason(complained: str, code: int) -> tuple[Outcome, str]:
    """What an exception's last line comes to."""
    package = _MISSING.search(complained)
    if package and ("OptionalImportError" in complained or "ModuleNotFoundError" in complained):
        return "not here", f"needs the Python package '{package[1]}'"
    last = (complained.strip().splitlines() or [f"exit code {code}"])[-1]
    return "failed", last[:200]


def as_markdown(trials: Sequence[Trial], commit: str, untried: Sequence[str] = ()) -> str:
    """The page docs/zoo.md; `untried` are bundles of the zoo that have no trial yet."""
    ran = sum(trial.outcome == "ran" for trial in trials)
    lines = [
        "# The MONAI model zoo, bundle by bundle",
        "",
        "Written by `radloop bundles verify --zoo DIR --markdown`; not by hand. Each bundle of",
        f"Project-MONAI/model-zoo at commit `{commit}`",
        "is made from its own inference config and run once through radloop's operator: random",
        "weights (the checkout holds none), a small synthetic oblique volume, CPU. *Ran*: it",
        "came back with a mask on the source grid, with classes, or with boxes in the patient.",
        "That says nothing of whether the bundle finds anything.",
        "",
        f"{ran} of {len(trials)} ran.",
        *([f"Not tried yet: {', '.join(untried)}."] if untried else []),
        "",
        "| bundle | version | shape | result | what came, or why not | s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for trial in trials:
        detail = trial.detail.replace("|", "\\|")
        row = (trial.bundle, trial.version, trial.shape or "–", trial.outcome, detail)
        lines.append(f"| {' | '.join(row)} | {trial.seconds:.0f} |")
    return "\n".join(lines) + "\n"


def as_json(trials: Sequence[Trial], commit: str | None) -> str:
    """The same for machines."""
    return json.dumps({"commit": commit, "trials": [asdict(trial) for trial in trials]}, indent=1)
