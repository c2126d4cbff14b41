"""Which older results a new one replaces: what nobody confirmed, and only that."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from app.register import Written
from app.verdicts.record import Verdict, latest_verdicts


def replaced_by(
    new: Collection[Written], in_study: Iterable[Written], verdicts: Iterable[Verdict]
) -> list[Written]:
    """Older objects that must go once `new` is delivered.

    Parameters
    ----------
    new : collection of Written
        The new results of one study.
    in_study : iterable of Written
        Everything that we ever wrote for the study.
    verdicts : iterable of Verdict
        Of any study, in the order in which they were given.

    Returns
    -------
    list of Written
        Results and status SR that are not in `new`, of whatever bundle and series: they
        describe the study as it was. Never a result whose latest verdict is "confirmed",
        and never a verified SR.
    """
    kept = {entry.sop_instance_uid for entry in new}
    older = [entry for entry in in_study if entry.sop_instance_uid not in kept]
    return not_confirmed(older, verdicts)


def not_confirmed(entries: Collection[Written], verdicts: Iterable[Verdict]) -> list[Written]:
    """Results on which the latest verdict is none, or "rejected".

    RTSTRUCT, key images and PDF share the verdict of the SR that was written with them.
    """
    confirmed = set()
    for verdict in latest_verdicts(verdicts).values():
        if verdict.verdict == "confirmed":
            confirmed.add(verdict.sr.sop_instance_uid)
            if verdict.seg is not None:
                confirmed.add(verdict.seg.sop_instance_uid)
    beside = {_result(entry) for entry in entries if entry.sop_instance_uid in confirmed}
    return [
        entry
        for entry in entries
        if (entry.kind in ("SEG", "SR", "STATUS") and entry.sop_instance_uid not in confirmed)
        or (entry.kind in ("RTSTRUCT", "KEY_IMAGE", "PDF") and _result(entry) not in beside)
    ]


def _result(entry: Written) -> tuple[str, ...]:
    """What objects that were written together about one volume share."""
    return (
        entry.study_instance_uid,
        entry.source_series_uid,
        entry.part,
        entry.bundle,
        entry.weights_sha256,
        entry.recorded_at,
    )
