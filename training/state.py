"""The part of the state folder that learning keeps, and how its files are written.

An append-only file is read up to its last whole line: what a crash left unfinished
was never said. Whoever appends holds a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from operators.models.champion import CHAMPIONS, MODELS
from training.refusals import AtWork, StateDamaged


@dataclass(frozen=True)
class StateDir:
    """Names of what lies in the state folder.

    Attributes
    ----------
    root : Path
        `settings.state_dir`.
    """

    root: Path

    @property
    def datasets(self) -> Path:
        """One folder per manifest, named by its sha256."""
        return self.root / "datasets"

    @property
    def models(self) -> Path:
        """Weights by sha256."""
        return self.root / MODELS

    @property
    def champions(self) -> Path:
        """Which weights serve, and which did."""
        return self.root / CHAMPIONS

    @property
    def runs(self) -> Path:
        """Checkpoints and logs of training."""
        return self.root / "runs"

    @property
    def gates(self) -> Path:
        """Reports of the gate."""
        return self.root / "gates"

    @property
    def registry_file(self) -> Path:
        """MLflow's database."""
        return self.root / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """MLflow's files."""
        return self.root / "mlflow"

    @property
    def holdout_file(self) -> Path:
        """Which patient is held out, one line each."""
        return self.root / "holdout.jsonl"

    @property
    def salt_file(self) -> Path:
        """What makes patient keys useless elsewhere."""
        return self.root / "patient-key.salt"


@contextlib.contextmanager
def locked(lock: Path, what: str, *, wait: bool) -> Iterator[IO[str]]:
    """Hold a lock file; the kernel drops it with the process, however that ends.

    A child that inherits the yielded file keeps the lock for its own life too.

    Raises
    ------
    AtWork
        Another process holds it, and `wait` is False.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise AtWork(what, lock) from error
        yield file


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(target: Path, content: bytes, mode: int = 0o644) -> None:
    """The old file or the whole new one, whenever the power fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    with unfinished.open("wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(target)
    sync_folder(target.parent)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Entries of an append-only file; none where it is missing.

    Raises
    ------
    StateDamaged
        A whole line is no JSON object.
    """
    if not file.exists():
        return []
    *lines, _ = file.read_bytes().split(b"\n")
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise StateDamaged(file, f"is damaged in line {number}") from error
        if not isinstance(entry, dict):
            raise StateDamaged(file, f"is damaged in line {number}")
        entries.append(entry)
    return entries


def append_line(file: Path, entry: Mapping[str, Any]) -> None:
    """Add one entry, durably; the caller holds the lock."""
    file.parent.mkdir(parents=True, exist_ok=True)
    is_new = not file.exists()
    with file.open("ab+") as stream:
        stream.seek(0)
        whole = stream.read().rfind(b"\n") + 1
        stream.truncate(whole)  # an unfinished line must not run into this one
        stream.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    if is_new:
        sync_folder(file.parent)
