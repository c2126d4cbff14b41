"""From what the workflows tell to the states of the ledger."""

from __future__ import annotations

import re

from app.intake.ledger import UNFINISHED, Ledger, State, StudyVersion
from app.workflow.board import Progress

LEFT_OUT = " (left out: {})"
DELIVERED = "delivered to "
NOTHING_FOR_IT = " (nothing for it)"  # said of a destination that got no file


STEP_OF = {  # the event that ends a step → the step
    "delivering": "analyse",
    "not applicable": "analyse",
    "failed": "analyse",
    "delivered": "deliver",
}
CODE = re.compile(r"RL-\d{4}")


def count(ledger: Ledger, entry: Progress) -> None:
    """What a monitor wants to know of an entry."""
    if entry.seconds and (step := STEP_OF.get(entry.event)) is not None:
        ledger.count("step", step, entry.seconds)
    if entry.event in ("failed", "again", "waiting"):
        code = CODE.match(entry.reason)
        ledger.count("failure", code[0] if code else "none")


def take_in(ledger: Ledger, entry: Progress) -> StudyVersion | None:
    """Bring one entry into the ledger; the version as it is now, None where nothing changed.

    An entry may come twice (a step that was cut off ran again), late (the version was
    superseded or discarded meanwhile), or of an earlier trial: then nothing changes.
    """
    study = ledger.find(entry.study_uid, entry.version)
    if study is None or (entry.journal, entry.trial) != (ledger.journal_id, study.trial):
        return None
    if entry.event == "delivered" and study.state is State.FAILED:
        open_still = tuple(key for key in study.undelivered if key not in entry.destinations)
        return ledger.move(study, State.FAILED, study.reason, undelivered=open_still)
    if study.state not in UNFINISHED:
        return None
    if entry.event == "ended":  # of an attempt before the present one: that one goes on
        return ledger.move(study, State.FAILED, entry.reason) if _is_latest(study, entry) else None
    if entry.event == "running":
        return ledger.move(study, State.RUNNING)
    if entry.event == "again":
        return ledger.move(study, State.QUEUED, entry.reason, attempts=entry.attempts)
    if entry.event == "failed":
        attempts = max(study.attempts, entry.attempts)
        return ledger.move(study, State.FAILED, entry.reason, attempts=attempts)
    if entry.event == "not applicable":
        return ledger.move(study, State.NOT_APPLICABLE, entry.reason)
    if entry.event == "delivering":
        remark = LEFT_OUT.format(entry.reason) if entry.reason else ""
        delivers = bool(entry.destinations)
        kept = "" if delivers else f"kept in output folder {study.name}: no destination is set"
        return ledger.move(
            study,
            State.DELIVERING if delivers else State.DONE,
            kept + remark,
            results=entry.results,
            undelivered=entry.destinations,
            remark=remark,
        )
    if entry.event == "waiting":
        return ledger.move(study, State.DELIVERING, entry.reason + study.remark)
    return _delivered(ledger, study, entry)


def _is_latest(study: StudyVersion, entry: Progress) -> bool:
    return entry.attempts >= study.attempts


def _delivered(ledger: Ledger, study: StudyVersion, entry: Progress) -> StudyVersion | None:
    (key,) = entry.destinations
    if key not in study.undelivered:
        return None
    open_still = tuple(other for other in study.undelivered if other != key)
    before = study.reason if study.reason.startswith(DELIVERED) else ""
    where = f"{before.removesuffix(study.remark)}, " if before else DELIVERED
    return ledger.move(
        study,
        State.DELIVERING if open_still else State.DONE,
        f"{where}{entry.reason}{study.remark}",
        undelivered=open_still,
    )
