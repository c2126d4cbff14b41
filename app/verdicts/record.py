"""`verdicts.jsonl`: every verdict that was ever given, one line each, never changed.

Each line ends with the sha256 of what stands before it in the line, and names the
sha256 of the whole line before: a changed, removed, inserted or moved line is found
by its number. The latest verdict on an SR counts. No PHI but what somebody wrote
into `because`; readers stand here by their key in the settings, not by name.

A crash can leave a torn last line: without its line feed and without its own
sha256. Nobody was told that this verdict is kept, so it is none: reading passes
over it and the next append cuts it off. Everything else that is not as it was
written is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from app.intake.spool import sync_folder
from app.verdicts.refusals import RecordBroken

RECORD_FILE = "verdicts.jsonl"
SCHEMA = 1
FIRST_PREVIOUS = "0" * 64  # there is no line before the first

VerdictKind = Literal["confirmed", "rejected"]
_SEAL = re.compile(rb',"line_sha256":"([0-9a-f]{64})"}')


@dataclass(frozen=True)
class ObjectRef:
    """A DICOM object and the digest of its file's bytes."""

    sop_instance_uid: str
    sha256: str


@dataclass(frozen=True)
class Verdict:
    """What one reader said about one result.

    Attributes
    ----------
    at : str
        When, ISO 8601, UTC.
    verdict : VerdictKind
        Confirmed or rejected.
    reader : str
        Key in the setting `readers`.
    because : str or None
        Why it is rejected; may hold what a reader should not have written there.
    study_instance_uid, series_instance_uid, part : str
        What the result is about: study, source series, which of its volumes.
    bundle, weights_sha256 : str
        Whose result it is.
    sr : ObjectRef
        The unverified SR that was judged.
    seg : ObjectRef or None
        Its segmentation; None where nothing was found.
    verified_sr : ObjectRef
        The SR that bears the verdict.
    """

    at: str
    verdict: VerdictKind
    reader: str
    because: str | None
    study_instance_uid: str
    series_instance_uid: str
    part: str
    bundle: str
    weights_sha256: str
    sr: ObjectRef
    seg: ObjectRef | None
    verified_sr: ObjectRef


def read_verdicts(state_dir: Path) -> list[Verdict]:
    """All verdicts, in the order in which they were given; checks the whole chain.

    Raises
    ------
    RecordBroken
        A line is not as it was written; names the first such line.
    OSError
        The file can't be read.
    """
    path = state_dir / RECORD_FILE
    try:
        with path.open("rb") as file, _locked(file.fileno(), fcntl.LOCK_SH):
            content = file.read()
    except FileNotFoundError:
        return []
    return _parse(path, content).verdicts


def latest_verdicts(verdicts: Iterable[Verdict]) -> dict[str, Verdict]:
    """SOP Instance UID of each judged SR → the verdict that counts, the latest."""
    return {verdict.sr.sop_instance_uid: verdict for verdict in verdicts}


def append_verdict(state_dir: Path, verdict: Verdict) -> bool:
    """Add one verdict; on disk when this returns.

    Parameters
    ----------
    state_dir : Path
        Made if missing.
    verdict : Verdict
        One with the same verified SR is added once only.

    Returns
    -------
    bool
        False where it was there already.

    Raises
    ------
    RecordBroken
        As `read_verdicts`; then nothing is added.
    OSError
        The file can't be written.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    path = state_dir / RECORD_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        with _locked(descriptor, fcntl.LOCK_EX):
            with open(descriptor, "rb", closefd=False) as file:
                found = _parse(path, file.read())
            if any(known.verified_sr == verdict.verified_sr for known in found.verdicts):
                return False
            os.ftruncate(descriptor, found.whole_bytes)
            line = _line(verdict, found.last_sha256) + b"\n"
            if found.lacks_line_feed:
                line = b"\n" + line
            # One write: a second process, or a crash, sees a beginning of it at most.
            if os.write(descriptor, line) != len(line):
                raise OSError(f"{path} was written in part: no room")
            os.fsync(descriptor)
            sync_folder(state_dir)
            return True
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class _Record:
    """The file as it was read.

    `whole_bytes` is where a torn line begins, or the file's end; `lacks_line_feed`
    says that the last line is whole but for its line feed.
    """

    verdicts: list[Verdict]
    last_sha256: str
    whole_bytes: int
    lacks_line_feed: bool


def _parse(path: Path, content: bytes) -> _Record:
    lines = content.split(b"\n")
    rest = lines.pop()  # empty where the file ends with a line feed
    lacks_line_feed = bool(_SEAL.search(rest))
    if lacks_line_feed:
        lines.append(rest)
    verdicts: list[Verdict] = []
    previous = FIRST_PREVIOUS
    for number, line in enumerate(lines, start=1):
        values = _unsealed(path, number, line)
        if values.pop("previous", None) != previous:
            raise RecordBroken(path, number, "it does not follow the line that stands before it")
        verdicts.append(_verdict(path, number, values))
        previous = hashlib.sha256(line).hexdigest()
    torn = 0 if lacks_line_feed else len(rest)
    return _Record(verdicts, previous, len(content) - torn, lacks_line_feed)


def _unsealed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """The values of a line whose own sha256 is right."""
    seal = _SEAL.search(line)
    if (
        seal is None
        or seal.end() != len(line)
        or hashlib.sha256(line[: seal.start()]).hexdigest().encode() != seal[1]
    ):
        raise RecordBroken(path, number, "its sha256 is not that of its bytes")
    values: dict[str, Any] = json.loads(line[: seal.start()] + b"}")
    return values


def _verdict(path: Path, number: int, values: dict[str, Any]) -> Verdict:
    if (schema := values.pop("schema")) != SCHEMA:
        why = f"schema {schema} is not known to this version of radloop ({SCHEMA})"
        raise RecordBroken(path, number, why)
    for name in ("sr", "seg", "verified_sr"):
        values[name] = ObjectRef(**values[name]) if values[name] else None
    return Verdict(**values)


def _line(verdict: Verdict, previous: str) -> bytes:
    values = {"schema": SCHEMA, **asdict(verdict), "previous": previous}
    # ASCII only: no character of a text can be a line feed to any reader.
    body = json.dumps(values, separators=(",", ":"), ensure_ascii=True)[:-1].encode("ascii")
    return body + f',"line_sha256":"{hashlib.sha256(body).hexdigest()}"}}'.encode("ascii")


@contextmanager
def _locked(descriptor: int, how: int) -> Iterator[None]:
    """A lock between processes; the kernel drops it with the descriptor, however that ends."""
    fcntl.flock(descriptor, how)
    yield
