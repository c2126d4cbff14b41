"""The ledger: which study an instance belongs to, and what became of each study.

    receiving ──quiet──▶ ready ──▶ queued ──▶ running ──▶ delivering ──▶ done
        ▲                  │                     │ └▶ not applicable
        └──late instance───┘                     └──▶ failed ──retry──▶ ready

A late instance of a study that has left `ready` makes the next version, which
begins at `receiving` and holds every instance of the versions before it. A
version that was not finished by then is `superseded`: its result would describe
a part of the study. From `queued` on the workflows decide, and tell it here.

Grouping and what the workflows tell are written by one process, the service. A person's
`retry` and `discard` come from others; the listener never writes here.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from app.intake import conflicts, journal, rejections
from app.intake.comparer import Comparer
from app.intake.peek import Peek, UnreadableError, peek
from app.intake.spool import Spool

GROUP_BATCH = 200
PATIENCE_SECONDS = 0.5  # for comparisons in one turn; the rest waits for the next


class State(StrEnum):
    """Where a study version is; see the module's head."""

    RECEIVING = "receiving"
    READY = "ready"
    QUEUED = "queued"
    RUNNING = "running"
    DELIVERING = "delivering"
    DONE = "done"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    SUPERSEDED = "superseded"
    DISCARDED = "discarded"


UNFINISHED = (State.QUEUED, State.RUNNING, State.DELIVERING)
PENDING = (State.RECEIVING, State.READY, *UNFINISHED)
RETRIABLE = (State.FAILED, State.NOT_APPLICABLE, State.DONE, State.DISCARDED)
ONLY_OURS = "holds only results that radloop wrote"
ALL_REJECTED = "its source has rejected every instance that came"


def generation(version: int, trial: int) -> int:
    """Grows with every version of a study, and with every trial of one."""
    return version * 1000 + trial


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
    trial : int
        From 1; counts how often a person asked for it again.
    undelivered : tuple of str
        Keys of the destinations that have not got the results yet.
    remark : str
        What the analysis left out, and why.
    """

    study_uid: str
    version: int
    state: State
    reason: str = ""
    attempts: int = 0
    recorded_at: str = ""
    results: tuple[str, ...] = ()
    trial: int = 1
    undelivered: tuple[str, ...] = ()
    remark: str = ""

    @property
    def generation(self) -> int:
        """See `generation`."""
        return generation(self.version, self.trial)

    @property
    def name(self) -> str:
        """Folder name of this version and trial: ``<key>-v<version>[-t<trial>]``."""
        again = f"-t{self.trial}" if self.trial > 1 else ""
        return f"{study_key(self.study_uid)}-v{self.version}{again}"


@dataclass(frozen=True)
class Arrival:
    """One instance of a study version, and who brought it; `name` is that in the spool."""

    name: str
    calling_aet: str
    called_aet: str
    source: str
    sop_class_uid: str


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
    patience_s : float
        How long one turn waits for comparisons of contents, s.
    """

    connection: sqlite3.Connection
    spool: Spool
    clock: Callable[[], float] = time.monotonic
    patience_s: float = PATIENCE_SECONDS
    _last_instance: dict[str, float] = field(default_factory=dict)
    _comparer: Comparer = field(init=False)

    def __post_init__(self) -> None:
        self._comparer = Comparer(self.patience_s)

    @property
    def journal_id(self) -> str:
        """Of this journal; one that was lost and begun anew has another."""
        (found,) = self.connection.execute("SELECT journal FROM identity").fetchone()
        return str(found)

    def recover(self) -> None:
        """Once at start: list files that the journal does not know.

        Their listener was killed before the commit, or the journal was lost.
        """
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
        """Find the study of newly received instances; the versions that changed state.

        Stops before an instance whose comparison with an earlier content of its UID takes
        longer than this turn waits.
        """
        rows = self.connection.execute(
            "SELECT id, name, sop_instance_uid FROM instances WHERE grouped = 0"
            " ORDER BY id LIMIT ?",
            (GROUP_BATCH,),
        ).fetchall()
        if not rows:
            self._comparer.rest()
            return []
        changes: list[StudyVersion] = []
        found: list[tuple[int, Peek | None]] = []
        differs: dict[int, str | None] = {}
        notes: dict[int, rejections.Rejection] = {}
        until = time.monotonic() + self.patience_s
        for row in rows:
            try:
                path = self.spool.path(row["name"])
                header = peek(path)
                if (rejection := rejections.read_rejection(path, header)) is not None:
                    notes[row["id"]] = rejection
                if not header.ours and not self._compare(row, differs):
                    break
                found.append((row["id"], header))
                if differs and time.monotonic() > until:
                    break
            except (UnreadableError, FileNotFoundError) as error:
                # Any other OSError passes: the turn is repeated, and nothing is left out.
                found.append((row["id"], None))
                why = error if isinstance(error, UnreadableError) else "its file is gone"
                reason = (
                    f"RL-0702: instance {row['sop_instance_uid']} is kept but belongs to no study: "
                    f"{why}. Send it again from its source, mended, under a new SOP Instance UID."
                )
                changes.append(StudyVersion("", 0, State.FAILED, reason))
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            for row_id, seen in found:
                changes += self._assign(row_id, seen, differs.get(row_id, ""))
                if row_id in notes:
                    changes += self._note(notes[row_id])
            self.connection.execute("COMMIT")
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        return changes

    def _compare(self, row: sqlite3.Row, differs: dict[int, str | None]) -> bool:
        """Set what an instance is to earlier contents of its UID; False while that is found out.

        `differs` of its row gets None where it is one of them in another encoding.
        """
        earlier = self.connection.execute(
            "SELECT id, name, excluded FROM instances WHERE sop_instance_uid = ? AND ours = 0"
            " AND excluded < 2 AND id < ? ORDER BY excluded > 0, id",
            (row["sop_instance_uid"], row["id"]),
        ).fetchall()
        first = ""
        for other in earlier:
            if differs.get(other["id"], "") is None:
                continue
            paths = self.spool.path(other["name"]), self.spool.path(row["name"])
            answer = self._comparer.ask(*paths)
            if answer is None:
                return False
            if answer.relation == "same":
                differs[row["id"]] = None
                return True
            what = conflicts.IDENTITY if answer.relation == "identity" else answer.why
            first = first or what
        if first:
            differs[row["id"]] = first
        return True

    def _assign(self, row_id: int, seen: Peek | None, differs: str | None) -> list[StudyVersion]:
        if seen is None:
            self.connection.execute("UPDATE instances SET grouped = 1 WHERE id = ?", (row_id,))
            return []
        latest = self.latest(seen.study_instance_uid)
        changes: list[StudyVersion] = []
        if differs is None and latest is not None:  # of a study that is known: nothing new
            self._set_aside(row_id, seen, latest, journal.SAME)
            return []
        if not seen.ours and rejections.is_rejected(
            self.connection, seen.sop_instance_uid, seen.study_instance_uid
        ):
            if latest is None:
                latest = self._open(seen.study_instance_uid, 1, State.NOT_APPLICABLE, ALL_REJECTED)
                changes.append(latest)
            self._set_aside(row_id, seen, latest, journal.REJECTED)
            return changes
        if seen.ours:
            if latest is None:
                latest = self._open(seen.study_instance_uid, 1, State.NOT_APPLICABLE, ONLY_OURS)
                changes.append(latest)
        else:
            latest, changes = self._renew(seen.study_instance_uid, latest, "more instances came")
        self.connection.execute(
            "UPDATE instances SET grouped = 1, study_uid = ?, version = ?, ours = ?, differs = ?"
            " WHERE id = ?",
            (seen.study_instance_uid, latest.version, int(seen.ours), differs or "", row_id),
        )
        return changes

    def _renew(
        self, uid: str, latest: StudyVersion | None, why: str
    ) -> tuple[StudyVersion, list[StudyVersion]]:
        """A version that is being received, the present one or the next; and what changed."""
        self._last_instance[uid] = self.clock()
        if latest is None:
            opened = self._open(uid, 1, State.RECEIVING)
            return opened, [opened]
        if latest.state is State.RECEIVING:
            return latest, []
        if latest.state is State.READY:
            moved = self.move(latest, State.RECEIVING, why)
            return moved, [moved]
        changes = []
        if latest.state in UNFINISHED:
            changes.append(self.move(latest, State.SUPERSEDED, why))
        opened = self._open(uid, latest.version + 1, State.RECEIVING)
        return opened, [*changes, opened]

    def _note(self, rejection: rejections.Rejection) -> list[StudyVersion]:
        """A rejection, also of images of other studies than the note's."""
        changes = []
        for uid in rejections.note(self.connection, rejection):
            changes += self._renew(uid, self.latest(uid), "instances were rejected")[1]
        return changes

    def _set_aside(self, row_id: int, seen: Peek, study: StudyVersion, why: int) -> None:
        """It is of the study, and nothing new."""
        self.connection.execute(
            "UPDATE instances SET grouped = 1, study_uid = ?, version = ?, excluded = ?"
            " WHERE id = ?",
            (seen.study_instance_uid, study.version, why, row_id),
        )

    def complete(
        self,
        quiet_seconds: float,
        longer: Callable[[StudyVersion], float | None] = lambda study: 0.0,
    ) -> list[StudyVersion]:
        """Close the versions that got nothing new for long enough; those that were closed.

        Parameters
        ----------
        quiet_seconds : float
            Long enough for none to be closed earlier, s.
        longer : callable
            Asked then: how long this one has to be quiet, s; None where that is not known yet.
        """
        waiting = self.connection.execute("SELECT 1 FROM instances WHERE grouped = 0 LIMIT 1")
        if waiting.fetchone():
            return []  # one of them may belong to a study that looks quiet
        now = self.clock()
        changes = []
        for study in self.in_state(State.RECEIVING):
            quiet = now - self._last_instance.setdefault(study.study_uid, now)
            if quiet < quiet_seconds:
                continue
            needed = longer(study)
            if needed is None or quiet < needed:
                continue
            del self._last_instance[study.study_uid]
            recorded_at = time.strftime("%Y%m%d%H%M%S")
            conflict = conflicts.reason(self.connection, study.study_uid)
            state = State.FAILED if conflict else State.READY
            reason = conflict or self.rejected(study)
            changes.append(self.move(study, state, reason, recorded_at=recorded_at))
        return changes

    def rejected(self, study: StudyVersion) -> str:
        """What its source took back, as a sentence; empty where nothing was."""
        return rejections.rejected(self.connection, study.study_uid)

    def inputs(self, study: StudyVersion) -> list[str]:
        """Names in the spool of all instances of a version, in order of arrival; not ours."""
        return [arrival.name for arrival in self.arrivals(study)]

    def arrivals(self, study: StudyVersion) -> list[Arrival]:
        """All instances of a version that count, in order of arrival; not ours."""
        rows = self.connection.execute(
            "SELECT name, calling_aet, called_aet, source, sop_class_uid FROM instances"
            " WHERE study_uid = ? AND version <= ? AND ours = 0 AND excluded <= 0 ORDER BY id",
            (study.study_uid, study.version),
        )
        return [Arrival(*row) for row in rows]

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

    def all(self) -> list[StudyVersion]:
        """Every version of every study, the latest change last."""
        rows = self.connection.execute("SELECT * FROM studies ORDER BY updated_at, rowid")
        return [_study(row) for row in rows]

    def newest(self) -> list[StudyVersion]:
        """The newest version of every study that is not as it was first received."""
        rows = self.connection.execute(
            "SELECT * FROM studies s WHERE version = (SELECT MAX(version) FROM studies m"
            " WHERE m.study_uid = s.study_uid) AND (version > 1 OR trial > 1)"
        )
        return [_study(row) for row in rows]

    def given_up(self) -> list[StudyVersion]:
        """Discarded versions whose deliveries were not told yet that they are."""
        rows = self.connection.execute(
            "SELECT * FROM studies WHERE state = ? AND undelivered <> '[]'", (State.DISCARDED,)
        )
        return [_study(row) for row in rows]

    def find(self, study_uid: str, version: int) -> StudyVersion | None:
        """One version, or None."""
        row = self.connection.execute(
            "SELECT * FROM studies WHERE study_uid = ? AND version = ?", (study_uid, version)
        ).fetchone()
        return _study(row) if row else None

    def move(
        self, study: StudyVersion, state: State, reason: str = "", **values: Any
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
        **values
            Other attributes of `StudyVersion` that change.
        """
        moved = replace(study, state=state, reason=reason, **values)
        self.connection.execute(
            "UPDATE studies SET state = ?, reason = ?, attempts = ?, recorded_at = ?, results = ?,"
            " trial = ?, undelivered = ?, remark = ?, updated_at = ?"
            " WHERE study_uid = ? AND version = ?",
            (
                moved.state,
                moved.reason,
                moved.attempts,
                moved.recorded_at,
                json.dumps(moved.results),
                moved.trial,
                json.dumps(moved.undelivered),
                moved.remark,
                time.time(),
                moved.study_uid,
                moved.version,
            ),
        )
        return moved

    def count(self, kind: str, name: str, seconds: float = 0.0) -> None:
        """One more of its kind, for a monitor."""
        self.connection.execute(
            "INSERT INTO counts VALUES (?, ?, 1, ?) ON CONFLICT (kind, name)"
            " DO UPDATE SET count = count + 1, seconds = seconds + excluded.seconds",
            (kind, name, seconds),
        )

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
        trial=row["trial"],
        undelivered=tuple(json.loads(row["undelivered"])),
        remark=row["remark"],
    )
