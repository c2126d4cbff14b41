"""What a comparison with an earlier result says, in words and references of a report.

Text, in the measurement group of each structure: TID 1500 has no place for a value of
another study beside the present one. The earlier objects are named by UID in the words,
and in the Pertinent Other Evidence of the report, since its own tree does not point there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from operators.compared import Change, Comparison, Pair, PriorIdentity
from operators.evidence.content import COMMENT, text_item
from operators.evidence.encode import encode_item, set_sequence
from operators.evidence.rule_text import rules_digest
from operators.job import Finding, QualityFlag, Report


def comparison_items(report: Report, finding: Finding) -> Iterator[bytes]:
    """The encoded text item of a structure that was compared, for its measurement group.

    References
    ----------
    DICOM PS3.16 TID 1411 (qualitative evaluations by text); code DCM 121106.
    """
    comparison = report.comparison
    if comparison is None or comparison.prior is None:
        return
    for pair in comparison.pairs:
        if pair.number == finding.segment.number:
            text = f"Compared with {prior_in_words(comparison)}: {pair_in_words(pair)}."
            yield text_item(COMMENT, text)


def comparison_remarks(report: Report) -> Iterator[str]:
    """What a reader must know of the comparison, one sentence each."""
    comparison = report.comparison
    if comparison is None:
        return
    for one in comparison.not_matched:
        which = "this" if one.present else "the earlier"
        yield f"Not compared: {one.label} of {which} result; {one.reason}."
    for flag in comparison.flags:
        yield f"Comparison with earlier results, {flag.name}: {flag.text}"


def quality_flags(report: Report) -> tuple[QualityFlag, ...]:
    """Of the images, and of the comparison."""
    comparison = report.comparison
    quality = report.segmentation.volume.quality
    return quality if comparison is None else (*quality, *comparison.flags)


def digest(report: Report) -> str:
    """Of all in a report that its sources and its model don't decide; "" where there is none."""
    comparison = report.comparison
    if comparison is None:
        return rules_digest(report)
    # What is written of it, not the last bit of a number: that may be another machine's.
    said = (
        comparison.prior,
        comparison.interval_days,
        [(pair.number, pair_in_words(pair)) for pair in comparison.pairs],
        [*comparison_remarks(report)],
    )
    return f"{rules_digest(report)}comparison={hashlib.sha256(repr(said).encode()).hexdigest()}"


def refer_to_prior(dataset: Dataset, report: Report) -> None:
    """Name the earlier objects as other evidence, in place.

    References
    ----------
    DICOM PS3.3 C.17.2, Pertinent Other Evidence Sequence (0040,A385).
    """
    prior = report.comparison.prior if report.comparison is not None else None
    if prior is None:
        return
    study = Dataset()
    study.StudyInstanceUID = prior.study_instance_uid
    seg = (str(SegmentationStorage), prior.seg_series_instance_uid, prior.seg_sop_instance_uid)
    study.ReferencedSeriesSequence = [_series(*one) for one in (seg, *prior.reports)]
    set_sequence(dataset, "PertinentOtherEvidenceSequence", [encode_item(study)])


def _series(sop_class_uid: str, series_uid: str, sop_instance_uid: str) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = sop_class_uid
    reference.ReferencedSOPInstanceUID = sop_instance_uid
    series = Dataset()
    series.SeriesInstanceUID = series_uid
    series.ReferencedSOPSequence = [reference]
    return series


def prior_in_words(comparison: Comparison) -> str:
    """``the result of 2024-01-02, 30 days earlier (confirmed by a reader; SEG 1.2.3)``."""
    assert comparison.prior is not None
    return (
        f"the result of {_date(comparison.prior)}, {_days(comparison.interval_days or 0)} earlier "
        f"({_standing(comparison.prior)}; SEG {comparison.prior.seg_sop_instance_uid})"
    )


def prior_in_short(comparison: Comparison) -> str:
    """The same without a UID."""
    assert comparison.prior is not None
    return (
        f"{_date(comparison.prior)}, {_days(comparison.interval_days or 0)} earlier, "
        f"{_standing(comparison.prior)}"
    )


def pair_in_words(pair: Pair) -> str:
    """All changes of a structure, and what limits them."""
    parts = [change_in_words(change) for change in pair.changes]
    if pair.doubling_time_days is not None:
        parts.append(f"volume doubling time {pair.doubling_time_days:.3g} days")
    how = f"matched by {pair.matched_by}"
    if pair.dice is not None:
        how += f" (Dice {pair.dice:.2f})"
    return "; ".join([*parts, *pair.remarks, how])


def change_in_words(change: Change) -> str:
    """``volume 4.19 mL then, 7.24 now, +3.05 mL (+72.8 %), grown: more than ± 1.2``."""
    unit = change.unit.value
    if change.exceeds_uncertainty is None:
        judged = "not judged"
    elif change.exceeds_uncertainty:
        judged = (
            f"{'grown' if change.change > 0 else 'shrunk'}: more than ± {change.uncertainty:.3g}"
        )
    else:
        judged = f"no change beyond ± {change.uncertainty:.3g}"
    return (
        f"{change.name.replace('_', ' ')} {change.prior:.4g} {unit} then, {change.present:.4g} "
        f"now, {change.change:+.3g} {unit} ({change.change_percent:+.1f} %), {judged}"
    )


def _date(prior: PriorIdentity) -> str:
    date = prior.study_date
    return f"{date[:4]}-{date[4:6]}-{date[6:]}"


def _days(count: int) -> str:
    return f"{count} day{'s' * (count != 1)}"


def _standing(prior: PriorIdentity) -> str:
    return "confirmed by a reader" if prior.confirmed else "confirmed by nobody"
