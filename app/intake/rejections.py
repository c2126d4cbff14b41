"""Rejection notes: a key object selection by which a department takes back images that it sent.

What a note names counts no more, whether it has come already or comes later. Everything
stays kept. IHE Radiology Technical Framework, Imaging Object Change Management (RAD-66).
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from app.intake.journal import REJECTED
from app.intake.peek import UID, Peek, UnreadableError, read_prefix

KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
# PS3.16 CID 7011. Not 113039, Data Retention Policy Expired: it says nothing against the images.
TITLES = {
    "113001": "Rejected for Quality Reasons",
    "113037": "Rejected for Patient Safety Reasons",
    "113038": "Incorrect Modality Worklist Entry",
}
MAX_BYTES = 1 << 24  # of a note; one that names 10,000 images has about 2 MB
EVIDENCE = 0x0040A375  # Current Requested Procedure Evidence Sequence


@dataclass(frozen=True)
class Rejection:
    """One note.

    Attributes
    ----------
    title : str
        Code of its title, one of `TITLES`.
    instances : frozenset of (str, str)
        Study and SOP Instance UID of what it names.
    """

    title: str
    instances: frozenset[tuple[str, str]]


def read_rejection(path: Path, seen: Peek) -> Rejection | None:
    """What an instance rejects; None where it is no rejection note, or one of ours.

    Raises
    ------
    UnreadableError
        It rejects, and what can't be read: too large, broken, or without references.
    OSError
        The file can't be read.
    """
    if seen.sop_class_uid != KEY_OBJECT_SELECTION or seen.ours:
        return None
    # A peer's bytes can break a parser in any way.
    try:
        header, _ = read_prefix(path, MAX_BYTES, EVIDENCE, whole=path.stat().st_size <= MAX_BYTES)
        if header is None:
            raise UnreadableError(f"a key object selection of more than {MAX_BYTES} bytes")
        (title, *_) = header.ConceptNameCodeSequence
        if title.CodingSchemeDesignator != "DCM" or title.CodeValue not in TITLES:
            return None
        found = frozenset(
            (str(study.StudyInstanceUID), str(instance.ReferencedSOPInstanceUID))
            for study in header.CurrentRequestedProcedureEvidenceSequence
            for series in study.ReferencedSeriesSequence
            for instance in series.ReferencedSOPSequence
        )
    except (UnreadableError, OSError):
        raise
    except Exception as error:
        why = f"a key object selection that can't be read ({type(error).__name__})"
        raise UnreadableError(why) from error
    if not found or not all(UID.fullmatch(uid) for pair in found for uid in pair):
        raise UnreadableError("a rejection note that names no instance")
    return Rejection(str(title.CodeValue), found)


def note(connection: sqlite3.Connection, rejection: Rejection) -> list[str]:
    """Bear it in mind, and let what has come already count no more; studies that this changes."""
    pairs = [(uid, study) for study, uid in sorted(rejection.instances)]
    connection.executemany(
        "INSERT OR IGNORE INTO rejected (sop_instance_uid, study_uid, title) VALUES (?, ?, ?)",
        [(uid, study, rejection.title) for uid, study in pairs],
    )
    connection.executemany(
        f"UPDATE instances SET excluded = {REJECTED} WHERE sop_instance_uid = ?"
        " AND study_uid = ? AND ours = 0",
        pairs,
    )
    studies = sorted({study for study, _ in rejection.instances})
    rows = connection.execute(
        f"SELECT DISTINCT study_uid FROM instances WHERE excluded = {REJECTED} AND study_uid IN"
        f" ({', '.join('?' * len(studies))})",
        studies,
    )
    return [str(row["study_uid"]) for row in rows]


def all_rejected(connection: sqlite3.Connection) -> frozenset[tuple[str, str]]:
    """Study and SOP Instance UID of everything that a note names."""
    rows = connection.execute("SELECT study_uid, sop_instance_uid FROM rejected")
    return frozenset((str(study), str(uid)) for study, uid in rows)


def is_rejected(connection: sqlite3.Connection, sop_instance_uid: str, study_uid: str) -> bool:
    """Whether a note that came before names it."""
    found = connection.execute(
        "SELECT 1 FROM rejected WHERE sop_instance_uid = ? AND study_uid = ?",
        (sop_instance_uid, study_uid),
    )
    return found.fetchone() is not None


def rejected(connection: sqlite3.Connection, study_uid: str) -> str:
    """How many instances of a study were rejected and why, as a sentence; empty where none was."""
    rows = connection.execute(
        "SELECT r.title AS title, COUNT(DISTINCT r.sop_instance_uid) AS count FROM rejected r"
        " JOIN instances i ON i.sop_instance_uid = r.sop_instance_uid AND i.study_uid = r.study_uid"
        " WHERE r.study_uid = ? AND i.ours = 0 GROUP BY r.title ORDER BY r.title",
        (study_uid,),
    ).fetchall()
    if not rows:
        return ""
    said = ", ".join(f"{row['count']} by '{TITLES[row['title']]}'" for row in rows)
    return f"instances rejected by their source: {said}"
