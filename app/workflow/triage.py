"""What a person may do with a study that needs one: try again, choose, give up.

TriageRefusal      RL-0660
├── NoSpool        RL-0661   nothing was received here yet, or the journal can't be read
├── NoSuchStudy    RL-0662   never received, or more than one fits
├── NotNow         RL-0663   its state does not allow it
├── NotAChoice     RL-0664   the digest names none or several of the conflicting contents
├── NotIdentity    RL-0665   more than the patient's identity differs, or nothing does
└── NotAllCame     RL-0666   the corrected patient came with a part of the instances

Every change is one statement on the ledger's table that holds only while the state is
as it was read, so it can't undo what the service writes at the same time.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from app.intake import journal
from app.intake.conflicts import conflicts, count_uids, exclude
from app.intake.ledger import RETRIABLE, Ledger, State, StudyVersion
from app.intake.spool import Spool
from operators.errors import Refusal

NEVER_WITH_PEOPLE = "the service is at it; `radloop studies show` says where it stands"


class TriageRefusal(Refusal):
    """A person asked for something that can't be."""

    code = "RL-0660"


class NoSpool(TriageRefusal):
    """There is no journal to look into."""

    code = "RL-0661"

    def __init__(self, file: Path, why: str) -> None:
        super().__init__(
            f"{file} can't be read ({why}). Has `radloop serve` run with this spool "
            "(RADLOOP_SPOOL), and may this user read it?"
        )


class NoSuchStudy(TriageRefusal):
    """The study can't be told."""

    code = "RL-0662"

    def __init__(self, asked: str, fitting: int) -> None:
        what = "no study of this spool begins" if not fitting else f"{fitting} studies begin"
        super().__init__(f"{what} with '{asked}'. `radloop studies list` names all.")


class NotNow(TriageRefusal):
    """The state of the study does not allow it."""

    code = "RL-0663"

    def __init__(self, study: StudyVersion, asked: str, why: str) -> None:
        super().__init__(
            f"study {study.study_uid} v{study.version} is {study.state}: it can't be {asked} "
            f"({why})."
        )


class NotAChoice(TriageRefusal):
    """Which content is right was not said."""

    code = "RL-0664"

    def __init__(self, digest: str, contents: Sequence[str]) -> None:
        super().__init__(
            f"'{digest}' begins none or several of the digests in conflict: "
            f"{', '.join(contents) or 'there is no conflict'}. Give --keep with one of them."
        )


class NotIdentity(TriageRefusal):
    """All at once can only be decided where it is one decision."""

    code = "RL-0665"

    def __init__(self, study: StudyVersion, uid: str) -> None:
        why = (
            f"SOP Instance UID {uid} came with contents that differ in more than the patient's "
            "identity: release it first, with --keep"
            if uid
            else "no instance came with two contents"
        )
        super().__init__(f"study {study.study_uid}: {why}.")


class NotAllCame(TriageRefusal):
    """A part under one patient and a part under another is nobody's study."""

    code = "RL-0666"

    def __init__(self, study: StudyVersion, came: int, held: int) -> None:
        super().__init__(
            f"study {study.study_uid}: {came} of {held} instances came again with another patient "
            "identity. Send the others under it too, then release; or keep what was there: --older."
        )


@contextmanager
def opened(spool_folder: Path) -> Iterator[Ledger]:
    """The ledger of a spool whose service may run or not.

    Raises
    ------
    NoSpool
        Nothing was received here yet, or it can't be read.
    """
    file = spool_folder / "journal.db"
    if not file.is_file():
        raise NoSpool(file, "it is not there")
    try:
        connection = journal.prepare(file)
    except sqlite3.Error as error:
        raise NoSpool(file, str(error)) from error
    with closing(connection):
        yield Ledger(connection, Spool(spool_folder))


def find(ledger: Ledger, asked: str) -> StudyVersion:
    """The newest version of the study whose UID is, or alone begins with, what was asked.

    Raises
    ------
    NoSuchStudy
        None, or several.
    """
    rows = ledger.connection.execute(
        "SELECT DISTINCT study_uid FROM studies WHERE study_uid = ? OR study_uid GLOB ?",
        (asked, f"{asked}*"),
    ).fetchall()
    uids = [row["study_uid"] for row in rows]
    if asked in uids:
        uids = [asked]
    if len(uids) != 1 or not asked.replace(".", "").isdigit():
        raise NoSuchStudy(asked, len(uids))
    study = ledger.latest(uids[0])
    assert study is not None
    return study


def retry(ledger: Ledger, study: StudyVersion) -> StudyVersion:
    """Analyse it once more, from the start; the version as it is now.

    Raises
    ------
    NotNow
        It is being received, waits or is in work; it holds nothing but our results; or
        two contents of one UID are in conflict.
    """
    if study.state not in RETRIABLE:
        raise NotNow(study, "tried again", NEVER_WITH_PEOPLE)
    if conflicts(ledger.connection, study.study_uid):
        why = (
            "two contents of one UID are in conflict: `radloop studies release` says which is right"
        )
        raise NotNow(study, "tried again", why)
    if not ledger.inputs(study):
        raise NotNow(study, "tried again", "it holds only results that radloop wrote")
    recorded_at = study.recorded_at or time.strftime("%Y%m%d%H%M%S")
    return _change(
        ledger, study, "tried again", State.READY, "tried again by a person", recorded_at
    )


def discard(ledger: Ledger, study: StudyVersion) -> StudyVersion:
    """Give it up; its instances stay in the spool, and `retry` takes it back.

    Raises
    ------
    NotNow
        It has not failed.
    """
    if study.state is not State.FAILED:
        raise NotNow(study, "discarded", "only a failed study can")
    reason = f"given up by a person; was: {study.reason}"
    return _change(ledger, study, "discarded", State.DISCARDED, reason, study.recorded_at)


def release(ledger: Ledger, study: StudyVersion, keep: str) -> StudyVersion:
    """Say which of two contents of one SOP Instance UID is right, and go on with it.

    Parameters
    ----------
    ledger : Ledger
        Of the spool.
    study : StudyVersion
        Failed by a conflict.
    keep : str
        The beginning of the digest of the right content; the others stay in the spool
        but take no part any more.

    Raises
    ------
    NotNow
        It has not failed.
    NotAChoice
        No conflict, or the digest does not tell.
    """
    if study.state is not State.FAILED:
        raise NotNow(study, "released", "only a failed study can")
    in_conflict = conflicts(ledger.connection, study.study_uid)
    contents = [digest for found in in_conflict for digest in found.digests]
    chosen = [digest for digest in contents if keep and digest.startswith(keep)]
    if len(chosen) != 1:
        raise NotAChoice(keep, [digest[:12] for digest in contents])
    uid = next(found.uid for found in in_conflict if chosen[0] in found.digests)
    exclude(ledger.connection, study.study_uid, uid, all_but=chosen[0])
    left = len(in_conflict) - 1
    if left:
        reason = f"{left} more SOP Instance UIDs with two contents: release each"
        return _change(ledger, study, "released", State.FAILED, reason, study.recorded_at)
    return retry(ledger, study)


def release_identity(
    ledger: Ledger, study: StudyVersion, *, newer: bool, confirmed: Sequence[str] = ()
) -> StudyVersion:
    """Say under which patient a study is right whose images came under two, and go on with it.

    Parameters
    ----------
    ledger : Ledger
        Of the spool.
    study : StudyVersion
        Failed because images came again that differ only in who the patient is.
    newer : bool
        What came last is right; otherwise what came first is.
    confirmed : sequence of str
        SOP Instance UIDs of results that a reader confirmed: they stay, and are named.

    Raises
    ------
    NotNow
        It has not failed.
    NotIdentity
        Nothing is in conflict, or more than the identity.
    NotAllCame
        What came last is not the whole study.
    """
    if study.state is not State.FAILED:
        raise NotNow(study, "released", "only a failed study can")
    connection = ledger.connection
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = conflicts(connection, study.study_uid)
        other = next((contents.uid for contents in found if not contents.is_identity), "")
        if other or not found:
            raise NotIdentity(study, other)
        held = count_uids(connection, study.study_uid)
        if newer and len(found) < held:
            raise NotAllCame(study, len(found), held)
        for contents in found:
            keep = contents.digests[-1 if newer else 0]
            exclude(connection, study.study_uid, contents.uid, all_but=keep)
        reason = f"the {'newer' if newer else 'older'} patient identity is right, said a person"
        if confirmed:
            reason += f"; confirmed results stay as they are: {', '.join(confirmed)}"
        recorded_at = study.recorded_at or time.strftime("%Y%m%d%H%M%S")
        now = _change(ledger, study, "released", State.READY, reason, recorded_at)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return now


def _change(
    ledger: Ledger, study: StudyVersion, asked: str, state: State, reason: str, recorded_at: str
) -> StudyVersion:
    trial = study.trial + int(state is State.READY)
    changed = ledger.connection.execute(
        "UPDATE studies SET state = ?, reason = ?, trial = ?, attempts = 0, recorded_at = ?,"
        " updated_at = ? WHERE study_uid = ? AND version = ? AND state = ? AND trial = ?"
        " AND NOT EXISTS (SELECT 1 FROM studies n WHERE n.study_uid = studies.study_uid"
        " AND n.version > studies.version)",
        (
            state,
            reason,
            trial,
            recorded_at,
            time.time(),
            study.study_uid,
            study.version,
            study.state,
            study.trial,
        ),
    )
    if changed.rowcount != 1:
        raise NotNow(study, asked, "it changed this moment: look again")
    now = ledger.find(study.study_uid, study.version)
    assert now is not None
    return now
