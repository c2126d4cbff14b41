"""This result against an earlier one of the same patient: what grew, and what can't be told.

Which structure is which, is `matching.py`'s. What can't be compared is said, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
from pydicom.dataset import Dataset

from operators.compared import (
    Change,
    Comparison,
    Pair,
    Prior,
    PriorIdentity,
    Priors,
    PriorSource,
    WhoAndWhen,
)
from operators.errors import Refusal
from operators.findings.coverage import cut_off
from operators.findings.matching import Matched, match
from operators.findings.measure import measure_size
from operators.findings.prior_refusals import (
    DateMissing,
    NoPatientID,
    NotEarlier,
    OtherPatient,
    PriorRefusal,
    PriorRejected,
)
from operators.job import ModelIdentity, QualityFlag, Report, StudyJob
from operators.measured import Measurement

# In-plane lengths of slices that are tilted more than that are of different cuts.
PARALLEL_DEG = 5.0
REASONS_SHOWN = 3
NOT_COMPARED = "prior-not-compared"
OTHER_MODEL = "prior-other-model"
LEFT_OUT = "prior-left-out"


def compare_job(job: StudyJob, source: PriorSource) -> StudyJob:
    """`job`, every report of a stack compared with an earlier result or saying why not.

    Parameters
    ----------
    job : StudyJob
        Measured.
    source : PriorSource
        Asked once for each study; whatever it raises, the job goes on.
    """
    known: dict[WhoAndWhen, Priors] = {}

    def ask(present: WhoAndWhen) -> Priors:
        if present not in known:
            known[present] = source(present)
        return known[present]

    reports = (replace(one, comparison=_compared(one, ask)) for one in job.reports)
    return replace(job, reports=tuple(reports))


def who_and_when(header: Dataset) -> WhoAndWhen:
    """Patient and date of a study, from the header of one of its instances."""

    def text(keyword: str) -> str:
        return str(header.get(keyword, "") or "").strip()

    return WhoAndWhen(
        text("IssuerOfPatientID"),
        text("PatientID"),
        text("StudyInstanceUID"),
        text("StudyDate"),
        text("PatientBirthDate"),
        text("PatientSex"),
    )


def check_comparable(present: WhoAndWhen, prior: Prior) -> int:
    """Days from an earlier result to the present study.

    Raises
    ------
    PriorRefusal
        One of this module: another patient's, not earlier, rejected, or nobody can tell.

    References
    ----------
    DICOM PS3.3 C.7.1.1 (Patient ID is unique within its issuer), C.7.2.1 (Study Date).
    """
    seg_uid = prior.identity.seg_sop_instance_uid
    if not present.patient_id:
        raise NoPatientID(present.study_instance_uid)
    if prior.whose.patient_id != present.patient_id:
        raise OtherPatient(seg_uid, "PatientID")
    if prior.whose.issuer != present.issuer:
        raise OtherPatient(seg_uid, "IssuerOfPatientID")
    # An ID that several people share ("0", "ANON") is told by what else is known of them.
    for keyword, one, other in (
        ("PatientBirthDate", prior.whose.birth_date, present.birth_date),
        ("PatientSex", prior.whose.sex, present.sex),
    ):
        if one and other and one != other:
            raise OtherPatient(seg_uid, keyword)
    if prior.rejected:
        raise PriorRejected(seg_uid)
    then, now = _date(prior.whose.study_date), _date(present.study_date)
    if then is None:
        raise DateMissing(f"SEG {seg_uid}")
    if now is None:
        raise DateMissing(f"study {present.study_instance_uid}")
    days = (now - then).days
    if days < 1 or prior.whose.study_instance_uid == present.study_instance_uid:
        raise NotEarlier(seg_uid, f"{then:%Y-%m-%d}", f"{now:%Y-%m-%d}")
    return days


def compare(report: Report, prior: Prior, interval_days: int) -> Comparison:
    """Pair the structures of two results and report each pair's change.

    Parameters
    ----------
    report : Report
        Measured; of a stack.
    prior : Prior
        Of the same patient (`check_comparable`).
    interval_days : int
        From then to now, >= 1.
    """
    matched, left_over = match(report, prior)
    cut_now = {label for labels in cut_off(report.segmentation).values() for label in labels}
    other_model = _other_model(report.segmentation.model, prior.identity)
    pairs = [
        _pair(
            report,
            one,
            interval_days,
            cut_now=one.finding.segment.label in cut_now,
            same_model=not other_model,
        )
        for one in matched
    ]
    return Comparison(
        prior=prior.identity,
        interval_days=interval_days,
        pairs=tuple(sorted(pairs, key=lambda pair: pair.number)),
        not_matched=tuple(left_over),
        flags=other_model,
    )


def doubling_time_days(prior_ml: float, present_ml: float, interval_days: float) -> float:
    """Days in which a volume doubles, if it grows exponentially as between two studies.

    Parameters
    ----------
    prior_ml, present_ml : float
        Volumes, > 0, the present one larger.
    interval_days : float
        Between the two, > 0.

    References
    ----------
    Schwartz M. A biomathematical approach to clinical tumor growth. Cancer
    1961;14:1272-1294: interval x ln 2 / ln(present / prior).
    """
    return interval_days * math.log(2) / math.log(present_ml / prior_ml)


def _pair(
    report: Report, matched: Matched, interval_days: int, *, cut_now: bool, same_model: bool
) -> Pair:
    segment, placed = matched.finding.segment, matched.placed
    remarks = []
    if cut_now or placed.cut_off:
        when = " and ".join(["now"] * cut_now + ["then"] * bool(placed.cut_off))
        remarks.append(f"cut off where the image ends ({when}): a change may be of what is shown")
    elif placed.cut_off is None:
        remarks.append("whether the earlier image showed all of it can't be told")
    if matched.shared:
        remarks.append("another of its kind overlaps one of the two: they may have merged or split")
    if not same_model:
        remarks.append("not by the same model: whether it grew is not judged")
    tilt = _tilt_deg(report.segmentation.volume.lps_from_index, placed.lps_from_index)
    if tilt > PARALLEL_DEG:
        remarks.append(f"axes are not compared: the slices of the two lie {tilt:.0f}° apart")
    earlier = {
        measured.name: measured
        for measured in measure_size(placed.mask, placed.lps_from_index)
        if measured.name == "volume" or tilt <= PARALLEL_DEG
    }
    # Only what is known to be whole, and was outlined alike, may be said to have grown.
    judged = placed.cut_off is False and same_model and not (cut_now or matched.shared)
    changes = tuple(
        _change(earlier[now.name], now, judged)
        for now in matched.finding.measurements
        if now.name in earlier
    )
    return Pair(
        number=segment.number,
        label=segment.label,
        prior_number=matched.structure.number,
        matched_by=matched.how,
        dice=matched.dice,
        changes=changes,
        doubling_time_days=_doubling(changes[0], interval_days),
        remarks=tuple(remarks),
    )


def _change(then: Measurement, now: Measurement, judged: bool) -> Change:
    """One measurement in both; where it is not judged no change is claimed."""
    off = None
    if now.uncertainty is not None and then.uncertainty is not None:
        off = math.hypot(now.uncertainty, then.uncertainty)
    change = now.value - then.value
    return Change(
        name=now.name,
        unit=now.unit,
        prior=then.value,
        present=now.value,
        change=change,
        change_percent=100 * change / then.value,
        uncertainty=off,
        exceeds_uncertainty=abs(change) > off if judged and off is not None else None,
    )


def _doubling(volume: Change, interval_days: int) -> float | None:
    if not volume.exceeds_uncertainty or volume.change <= 0:
        return None
    return doubling_time_days(volume.prior, volume.present, interval_days)


def _tilt_deg(one: np.ndarray, other: np.ndarray) -> float:
    """Angle between the planes of slices, 0 to 90 degrees."""
    normals = [np.cross(affine[:3, 0], affine[:3, 1]) for affine in (one, other)]
    first, second = (normal / np.linalg.norm(normal) for normal in normals)
    return math.degrees(math.acos(min(1.0, abs(float(first @ second)))))


def _date(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y%m%d") if len(text) == 8 else None
    except ValueError:
        return None


def _other_model(model: ModelIdentity, prior: PriorIdentity) -> tuple[QualityFlag, ...]:
    """A remark where the two need not be by one and the same network."""
    if not prior.ours:
        said = "The earlier segmentation was not made by radloop"
    elif (prior.bundle, prior.version, prior.weights_sha256) == (
        model.name,
        model.version,
        model.weights_sha256,
    ):
        return ()
    else:
        said = (
            f"The earlier result is by {prior.bundle} {prior.version} (weights "
            f"{prior.weights_sha256[:12] or 'unknown'}), this one by {model.name} {model.version} "
            f"(weights {model.weights_sha256[:12] or 'none'})"
        )
    return (QualityFlag(OTHER_MODEL, f"{said}: a change may be the model's."),)


def _compared(report: Report, ask: PriorSource) -> Comparison | None:
    """With the first earlier result that shares a structure, or why with none.

    A 2D image has no volume and no place in the patient: there is nothing to look for.
    """
    volume = report.segmentation.volume
    if volume.plane is not None:
        return None
    present = who_and_when(volume.headers[0])
    reasons: list[str] = []
    tried: list[Comparison] = []
    try:
        if not present.patient_id:
            raise NoPatientID(present.study_instance_uid)
        found = ask(present)
        reasons += found.left_out
        fit: list[tuple[int, Prior]] = []
        for prior in found.results:
            try:
                fit.append((check_comparable(present, prior), prior))
            except PriorRefusal as refusal:
                reasons.append(refusal.reason)
        for days, prior in _in_order(fit, report.segmentation.model.name):
            try:
                tried.append(compare(report, prior, days))
            except Refusal as refusal:
                reasons.append(refusal.reason)
                continue
            if tried[-1].pairs:
                return _with_left_out(tried[-1], reasons)
    except Refusal as refusal:
        reasons.append(refusal.reason)
    except Exception as error:  # noqa: BLE001  (an old file's defect is not this study's)
        reasons.append(f"RL-2170: looking for it failed ({type(error).__name__})")
    if tried:
        return _with_left_out(tried[0], reasons)
    return _not_compared(reasons or ["there is none of this patient"])


def _in_order(fit: Sequence[tuple[int, Prior]], bundle: str) -> list[tuple[int, Prior]]:
    """Confirmed first, then of the same bundle, then the latest study, then the latest record."""
    listed = sorted(fit, key=lambda one: one[1].identity.seg_sop_instance_uid)
    listed.sort(key=lambda one: one[1].recorded_at, reverse=True)
    return sorted(
        listed,
        key=lambda one: (
            not one[1].identity.confirmed,
            one[1].identity.bundle != bundle,
            one[0],
        ),
    )


def _with_left_out(comparison: Comparison, reasons: Sequence[str]) -> Comparison:
    if not reasons:
        return comparison
    flag = QualityFlag(LEFT_OUT, f"Other earlier results were left out: {_listed(reasons)}.")
    return replace(comparison, flags=(*comparison.flags, flag))


def _not_compared(reasons: Sequence[str]) -> Comparison:
    text = f"No earlier result was compared: {_listed(reasons)}."
    return Comparison(None, None, flags=(QualityFlag(NOT_COMPARED, text),))


def _listed(reasons: Sequence[str]) -> str:
    shown = "; ".join(reason.rstrip(".") for reason in reasons[:REASONS_SHOWN])
    more = len(reasons) - REASONS_SHOWN
    return shown + (f"; and {more} more" if more > 0 else "")
