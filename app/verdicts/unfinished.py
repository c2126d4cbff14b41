"""A verdict on its way: what must not change if the command is interrupted and given again.

One small file for each SR, there from before the first effect of a verdict until
after its last. It fixes the moment, and with it the UID and the bytes of the verified
SR: completing it any number of times writes the same object and one record.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from app.intake.spool import sync_folder
from app.verdicts.record import VerdictKind

FOLDER = "unfinished"


@dataclass(frozen=True)
class Begun:
    """A verdict that was begun.

    Attributes
    ----------
    sr_uid : str
        SOP Instance UID of the judged SR.
    verdict, reader, because : VerdictKind, str, str or None
        As in `Verdict`.
    at : str
        When, ISO 8601 with the UTC offset of this machine then, whole seconds.
    """

    sr_uid: str
    verdict: VerdictKind
    reader: str
    because: str | None
    at: str

    @property
    def moment(self) -> datetime:
        """`at`, aware of its offset."""
        return datetime.fromisoformat(self.at)


def path_of(state_dir: Path, sr_uid: str) -> Path:
    """Where an unfinished verdict on that SR is kept."""
    return state_dir / FOLDER / f"{hashlib.sha256(sr_uid.encode()).hexdigest()[:16]}.json"


def begin(state_dir: Path, begun: Begun) -> None:
    """Keep it; durable when this returns."""
    path = path_of(state_dir, begun.sr_uid)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        json.dump(asdict(begun), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
    sync_folder(state_dir)


def begun_on(state_dir: Path, sr_uid: str) -> Begun | None:
    """The unfinished verdict on that SR, or None."""
    try:
        return Begun(**json.loads(path_of(state_dir, sr_uid).read_bytes()))
    except FileNotFoundError:
        return None


def finish(state_dir: Path, begun: Begun) -> None:
    """Forget it: the record has it."""
    path_of(state_dir, begun.sr_uid).unlink(missing_ok=True)
