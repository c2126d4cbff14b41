"""Several contents of one SOP Instance UID: which there are, what is said of them, which counts."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from app.intake.journal import REJECTED

IDENTITY = "identity"  # in `instances.differs`: the same instance but for who the patient is


@dataclass(frozen=True)
class Contents:
    """What came under one UID, in order of arrival.

    Attributes
    ----------
    uid : str
        SOP Instance UID.
    digests : tuple of str
        Digest of each that counts.
    differs : tuple of str
        Of each, in what it differs from the first: `IDENTITY`, or a sentence.
    """

    uid: str
    digests: tuple[str, ...]
    differs: tuple[str, ...]

    @property
    def is_identity(self) -> bool:
        """Whether they differ only in who the patient is."""
        return all(differs == IDENTITY for differs in self.differs[1:])


def conflicts(connection: sqlite3.Connection, study_uid: str) -> list[Contents]:
    """UIDs of a study of which several contents count, in whatever study they came."""
    rows = connection.execute(
        "SELECT DISTINCT o.sop_instance_uid AS uid, o.digest AS digest, o.differs AS differs"
        " FROM instances s JOIN instances o ON o.sop_instance_uid = s.sop_instance_uid"
        " WHERE s.study_uid = ? AND s.ours = 0 AND o.ours = 0"
        " AND s.excluded = 0 AND o.excluded <= 0 ORDER BY uid, o.id",
        (study_uid,),
    )
    found: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        found.setdefault(row["uid"], []).append((row["digest"], row["differs"]))
    return [
        Contents(uid, tuple(d for d, _ in contents), tuple(why for _, why in contents))
        for uid, contents in found.items()
        if len(contents) > 1
    ]


def count_uids(connection: sqlite3.Connection, study_uid: str) -> int:
    """How many SOP Instance UIDs of others, not rejected by them, the study holds."""
    (count,) = connection.execute(
        "SELECT COUNT(DISTINCT sop_instance_uid) FROM instances"
        " WHERE study_uid = ? AND ours = 0 AND excluded <> ?",
        (study_uid, REJECTED),
    ).fetchone()
    return int(count)


def reason(connection: sqlite3.Connection, study_uid: str) -> str:
    """Why the study can't be analysed as it is; empty where nothing is in conflict."""
    found = conflicts(connection, study_uid)
    if not found:
        return ""
    other = next((contents for contents in found if not contents.is_identity), None)
    if other is None:
        return (
            f"RL-0703: {len(found)} of {count_uids(connection, study_uid)} instances came again "
            f"with another patient identity and are otherwise the same (SOP Instance UID "
            f"{found[0].uid}, digests {found[0].digests[0][:12]}… and "
            f"{found[0].digests[-1][:12]}…); all are kept. Was the patient corrected or merged? "
            f"When all have come: `radloop studies release {study_uid} --newer`. Sent under a "
            f"wrong patient? `radloop studies release {study_uid} --older`."
        )
    first, last = other.digests[0], other.digests[-1]
    why = f"; {other.differs[-1]}" if other.differs[-1] not in ("", IDENTITY) else ""
    return (
        f"RL-0701: SOP Instance UID {other.uid} came with two contents (digests "
        f"{first[:12]}… and {last[:12]}…{why}); both are kept. Say which is right: "
        f"`radloop studies release {study_uid} --keep DIGEST`, or correct it at the "
        "sender and send the study under new UIDs."
    )


def exclude(
    connection: sqlite3.Connection, study_uid: str, sop_instance_uid: str, all_but: str
) -> None:
    """Of the contents of a UID only one counts in this study; the others stay kept."""
    connection.execute(
        "UPDATE instances SET excluded = CASE WHEN digest = ? THEN -1 ELSE 1 END"
        " WHERE sop_instance_uid = ? AND study_uid = ?",
        (all_but, sop_instance_uid, study_uid),
    )
