"""The ledger: which study an instance belongs to, and what became of each study.

    receiving ──quiet──▶ ready ──▶ running ──▶ delivering ──▶ done
        ▲                  │          │ └▶ not applicable
        └──late instance───┘          └──▶ failed

A late instance of a study that has left `ready` makes the next version, which
begins at `receiving` and holds every instance of the versions before it. A
version that was not finished by then is `superseded`: its result would describe
a part of the study.

Used by one process only, the dispatcher; the listener never writes here.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from app.intake import journal
from app.intake.peek import Peek, UnreadableError, peek
from app.intake.spool import Spool

GROUP_BATCH = 200


class State(StrEnum):
    """Where a study version is; see the module's head."""

    RECEIVING = "receiving"
    READY = "ready"
    RUNNING = "running"
    DELIVERING = "delivering"
    DONE = "done"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    SUPERSEDED = "superseded"


ONLY_OURS = "holds only results that radloop wrote"


def study_key(study_uid: str) -> str:
    """Name of a study in file names: 16 hexadecimal digits of the UID's sha256."""
    return hashlib.sha256(study_uid.encode("ascii")).hexdigest()[:16]


@dataclass(frozen=True)
class StudyVersion:
    """One row of the ledger.

    Attributes
    ----------
    study_uid : str
        Study Instance UID; empty for an instance whose study can't be read.
    version : int
        From 1.
    state : State
        Where it is.
    reason : str
        Why it is there; a sentence without PHI.
    attempts : int
        Analyses that ended badly.
    recorded_at : str
        ``YYYYMMDDHHMMSS`` (local time) of completeness; results bear it.
    results : tuple of str
        File names in the version's output folder.
    """

    study_uid: str
    version: int
    state: State
    reason: str = ""
    attempts: int = 0
    recorded_at: str = ""
    results: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Folder name of this version: ``<key>-v<version>``."""
        return f"{study_key(self.study_uid)}-v{self.version}"


@dataclass
class Ledger:
    """Groups instances into studies and keeps their states.

    Attributes
    ----------
    connection : sqlite3.Connection
        From `journal.prepare`.
    spool : Spool
        Where the instances are.
    clock : callable
        Steady seconds, for quiet times: a corrected wall clock must not end or
        prolong them. After a restart every quiet time begins again.
    """

    connection: sqlite3.Connection
    spool: Spool
    clock: Callable[[], float] = time.monotonic
    _last_instance: dict[str, float] = field(default_factory=dict)

    def recover(self) -> list[StudyVersion]:
        """Once at start: adopt unlisted files, hand back what was running; what changed."""
        self._adopt()
        return [
            self.move(study, State.SUPERSEDED, "more instances came")
            if self.is_superseded(study)
            else self.move(study, State.READY, "interrupted by a stop")
            for study in self.in_state(State.RUNNING)
        ]

    def _adopt(self) -> None:
        """List files that the journal does not know (killed before the commit, or it was lost)."""
        listed = {row["name"] for row in self.connection.execute("SELECT name FROM instances")}
        rows = []
        for path in self.spool.instances.glob("*/*.dcm"):
            name = f"{path.parent.name}/{path.name}"
            if name in listed:
                continue
            stat = path.stat()
            try:
                found = peek(path)
            except UnreadableError:
                found = Peek("", "", name, "", ours=False)  # its name stands for the UID
            rows.append(
                journal.Received(
                    sop_instance_uid=found.sop_instance_uid,
                    digest=path.stem.partition("-")[2],
                    sop_class_uid=found.sop_class_uid,
                    transfer_syntax_uid=found.transfer_syntax_uid,
                    name=name,
                    size=stat.st_size,
                    calling_aet="",
                    received_at=stat.st_mtime,
                )
            )
        if rows:
            journal.insert(self.connection, rows)

    def group(self) -> list[StudyVersion]:
        """Find the study of newly received instances; the versions that changed state."""
        rows = self.connection.execute(
            "SELECT id, name, sop_instance_uid FROM instances WHERE grouped = 0"
            " ORDER BY id LIMIT ?",
            (GROUP_BATCH,),
        ).fetchall()
        if not rows:
            return []
        changes: list[StudyVersion] = []
        found: list[tuple[int, Peek | None]] = []
        for row in rows:
            try:
                found.append((row["id"], peek(self.spool.path(row["name"]))))
            except (UnreadableError, OSError) as error:
                found.append((row["id"], None))
                why = error if isinstance(error, UnreadableError) else type(error).__name__
                reason = (
                    f"RL-0702: instance {row['sop_instance_uid']} is kept but belongs to no study: "
                    f"{why}. Send it again from its source, mended, under a new SOP Instance UID."
                )
                changes.append(StudyVersion("", 0, State.FAILED, reason))
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            for row_id, seen in found:
                changes += self._assign(row_id, seen)
            self.connection.execute("COMMIT")
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        return changes

    def _assign(self, row_id: int, seen: Peek | None) -> list[StudyVersion]:
        if seen is None:
            self.connection.execute("UPDATE instances SET grouped = 1 WHERE id = ?", (row_id,))
            return []
        latest = self.latest(seen.study_instance_uid)
        changes: list[StudyVersion] = []
        if seen.ours:
            if latest is None:
                latest = self._open(seen.study_instance_uid, 1, State.NOT_APPLICABLE, ONLY_OURS)
                changes.append(latest)
        else:
            self._last_instance[seen.study_instance_uid] = self.clock()
            if latest is None:
                latest = self._open(seen.study_instance_uid, 1, State.RECEIVING)
                changes.append(latest)
            elif latest.state is State.READY:
                latest = self.move(latest, State.RECEIVING, "more instances came")
                changes.append(latest)
            elif latest.state is not State.RECEIVING:
                if latest.state is State.DELIVERING:
                    changes.append(self.move(latest, State.SUPERSEDED, "more instances came"))
                latest = self._open(seen.study_instance_uid, latest.version + 1, State.RECEIVING)
                changes.append(latest)
        self.connection.execute(
            "UPDATE instances SET grouped = 1, study_uid = ?, version = ?, ours = ? WHERE id = ?",
            (seen.study_instance_uid, latest.version, int(seen.ours), row_id),
        )
        return changes

    def complete(self, quiet_seconds: float) -> list[StudyVersion]:
        """Close the versions that got nothing new for `quiet_seconds`; those that did."""
        waiting = self.connection.execute("SELECT 1 FROM instances WHERE grouped = 0 LIMIT 1")
        if waiting.fetchone():
            return []  # one of them may belong to a study that looks quiet
        now = self.clock()
        changes = []
        for study in self.in_state(State.RECEIVING):
            if now - self._last_instance.setdefault(study.study_uid, now) < quiet_seconds:
                continue
            del self._last_instance[study.study_uid]
            recorded_at = time.strftime("%Y%m%d%H%M%S")
            conflict = self._conflict(study.study_uid)
            state = State.FAILED if conflict else State.READY
            changes.append(self.move(study, state, conflict, recorded_at=recorded_at))
        return changes

    def _conflict(self, study_uid: str) -> str:
        row = self.connection.execute(
            "SELECT a.sop_instance_uid AS uid, a.digest AS first, b.digest AS second"
            " FROM instances a JOIN instances b"
            " ON a.sop_instance_uid = b.sop_instance_uid AND a.digest < b.digest"
            " WHERE (a.study_uid = ? OR b.study_uid = ?) AND a.ours = 0 AND b.ours = 0"
            " LIMIT 1",
            (study_uid, study_uid),
        ).fetchone()
        if row is None:
            return ""
        return (
            f"RL-0701: SOP Instance UID {row['uid']} came with two contents (sha256 "
            f"{row['first'][:12]}… and {row['second'][:12]}…); both are kept. Correct "
            "it at the sender, and send the study under new UIDs."
        )

    def inputs(self, study: StudyVersion) -> list[str]:
        """Names in the spool of all instances of a version, in order of arrival; not ours."""
        rows = self.connection.execute(
            "SELECT name FROM instances"
            " WHERE study_uid = ? AND version <= ? AND ours = 0 ORDER BY id",
            (study.study_uid, study.version),
        )
        return [row["name"] for row in rows]

    def latest(self, study_uid: str) -> StudyVersion | None:
        """The newest version of a study, or None."""
        row = self.connection.execute(
            "SELECT * FROM studies WHERE study_uid = ? ORDER BY version DESC LIMIT 1", (study_uid,)
        ).fetchone()
        return _study(row) if row else None

    def in_state(self, state: State) -> list[StudyVersion]:
        """All versions in a state, the one that has been in it longest first."""
        rows = self.connection.execute(
            "SELECT * FROM studies WHERE state = ? ORDER BY updated_at, rowid", (state,)
        )
        return [_study(row) for row in rows]

    def is_superseded(self, study: StudyVersion) -> bool:
        """Whether a newer version exists."""
        latest = self.latest(study.study_uid)
        return latest is not None and latest.version > study.version

    def move(
        self,
        study: StudyVersion,
        state: State,
        reason: str = "",
        *,
        failed_attempt: bool = False,
        recorded_at: str | None = None,
        results: Sequence[str] | None = None,
    ) -> StudyVersion:
        """Change a version's state, durably; the version as it is now.

        Parameters
        ----------
        study : StudyVersion
            As it was.
        state : State
            What it becomes.
        reason : str
            Why, without PHI.
        failed_attempt : bool
            Whether an analysis ended badly; counted.
        recorded_at, results
            New values; None keeps the old.
        """
        moved = StudyVersion(
            study_uid=study.study_uid,
            version=study.version,
            state=state,
            reason=reason,
            attempts=study.attempts + int(failed_attempt),
            recorded_at=study.recorded_at if recorded_at is None else recorded_at,
            results=study.results if results is None else tuple(results),
        )
        self.connection.execute(
            "UPDATE studies SET state = ?, reason = ?, attempts = ?, recorded_at = ?, results = ?,"
            " updated_at = ? WHERE study_uid = ? AND version = ?",
            (
                moved.state,
                moved.reason,
                moved.attempts,
                moved.recorded_at,
                json.dumps(moved.results),
                time.time(),
                moved.study_uid,
                moved.version,
            ),
        )
        return moved

    def _open(self, uid: str, version: int, state: State, reason: str = "") -> StudyVersion:
        now = time.time()
        self.connection.execute(
            "INSERT INTO studies (study_uid, version, state, reason, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (uid, version, state, reason, now, now),
        )
        return StudyVersion(uid, version, state, reason)


def _study(row: sqlite3.Row) -> StudyVersion:
    return StudyVersion(
        study_uid=row["study_uid"],
        version=row["version"],
        state=State(row["state"]),
        reason=row["reason"],
        attempts=row["attempts"],
        recorded_at=row["recorded_at"],
        results=tuple(json.loads(row["results"])),
    )
