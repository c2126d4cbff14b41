"""What guideline rules say to what was measured; silent wherever anything is in doubt.

A rule speaks only where modality, structure (by code and side, never by label), unit and
every measurement that it names are there. What it says is *proposed*, and changes no
severity, until a named person at the site has accepted the rule as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby

from operators.findings.guideline import Condition, Rule, Rulebook, Structure
from operators.job import Finding, Report, Segment, Segmentation, Severity, StudyJob
from operators.measured import Measurement, RuleResult

WORST_FIRST: tuple[Severity, ...] = ("CRITICAL", "HIGH", "MODERATE", "LOW", "NORMAL")

_IN_WORDS = {"above": "above", "at_least": "at least", "below": "below", "at_most": "at most"}


def apply_rules_to_job(job: StudyJob, book: Rulebook) -> StudyJob:
    """`job` with the rules' results in every report."""
    return replace(job, reports=tuple(apply_rules(report, book) for report in job.reports))


def apply_rules(report: Report, book: Rulebook) -> Report:
    """Fill `Finding.rules` and, by accepted rules only, `Finding.severity`.

    Parameters
    ----------
    report : Report
        Measured. Structures that were not found, and 2D images, are left as they are.
    book : Rulebook
        Of the site.

    Returns
    -------
    Report
        The worst severity of the accepted rules that hold stands for a finding;
        NOT_ASSESSED where there is none.
    """
    if report.segmentation.volume.plane is not None:
        return report
    findings = (_judged(finding, report.segmentation, book) for finding in report.findings)
    return replace(report, findings=tuple(findings))


def worst(severities: Iterable[Severity]) -> Severity:
    """The worst of what was assessed; NOT_ASSESSED where nothing was."""
    given = set(severities)
    return next((severity for severity in WORST_FIRST if severity in given), "NOT_ASSESSED")


def _judged(finding: Finding, segmentation: Segmentation, book: Rulebook) -> Finding:
    if not finding.voxels:
        return finding
    results = tuple(
        _result(rule, decided, book.accepted_by(rule))
        for rule in book.rules
        if (decided := decisive(rule, finding)) and _is_about(rule, finding.segment, segmentation)
    )
    accepted = worst(result.severity for result in results if not result.proposed)
    return replace(finding, rules=(*finding.rules, *results), severity=accepted)


def decisive(rule: Rule, finding: Finding) -> tuple[Measurement, ...]:
    """The measurement of each condition of a rule, where all conditions hold.

    Parameters
    ----------
    rule : Rule
        NORMAL is said only where it would hold at both ends of the measurements'
        uncertainty, too.
    finding : Finding
        Its measurements have unique names.

    Returns
    -------
    tuple of Measurement
        In the order of the conditions; empty where one does not hold, or its measurement is
        missing, is no number or has another unit.
    """
    decided = []
    for condition in rule.conditions:
        measured = _measured(finding, condition)
        if measured is None or not condition.holds(measured.value):
            return ()
        if rule.severity == "NORMAL" and _doubtful(measured, condition):
            return ()
        decided.append(measured)
    return tuple(decided)


def _measured(finding: Finding, condition: Condition) -> Measurement | None:
    found = [one for one in finding.measurements if one.name == condition.measurement]
    if len(found) != 1 or not math.isfinite(found[0].value):
        return None
    unit = found[0].unit
    return found[0] if (unit.scheme, unit.value) == ("UCUM", condition.unit) else None


def _doubtful(measured: Measurement, condition: Condition) -> bool:
    """Whether the limit lies within the measurement's uncertainty."""
    away = abs(measured.value - condition.limit)
    return measured.uncertainty is not None and away <= measured.uncertainty


def _is_about(rule: Rule, segment: Segment, segmentation: Segmentation) -> bool:
    volume = segmentation.volume
    # One series has one modality, but a contrast agent may be named from some slice on.
    if {str(header.get("Modality", "")) for header in volume.headers} - set(rule.modalities):
        return False
    if not any(_matches(structure, segment) for structure in rule.structures):
        return False
    if rule.unenhanced and any(
        str(header.get("ContrastBolusAgent") or "").strip() for header in volume.headers
    ):
        return False
    return not rule.whole or not touches_a_side(segmentation, segment.number)


def _matches(structure: Structure, segment: Segment) -> bool:
    if (structure.scheme, structure.value) != (segment.type.scheme, segment.type.value):
        return False
    side = segment.laterality.value if segment.laterality else "none"
    return structure.laterality in ("any", side)


def touches_a_side(segmentation: Segmentation, number: int) -> bool:
    """Whether a segment reaches the first or last slice, row or column: it may go on beyond."""
    sides = (
        (*[slice(None)] * axis, end) for axis in range(segmentation.labels.ndim) for end in (0, -1)
    )
    return any(bool(segmentation.mask(number, side).any()) for side in sides)


def _result(rule: Rule, decided: tuple[Measurement, ...], accepted_by: str) -> RuleResult:
    pairs = zip(decided, rule.conditions, strict=True)
    numbers = [
        _sentence(measured, [condition for _, condition in group])
        for measured, group in groupby(pairs, key=lambda pair: pair[0])
    ]
    return RuleResult(
        rule=rule.id,
        citation=rule.citation,
        severity=rule.severity,
        accepted_by=accepted_by,
        statement=f"{rule.statement} Measured: {'; '.join(numbers)}.",
        differentials=rule.differentials,
        recommendations=rule.recommendations,
        decided_by=tuple(dict.fromkeys(measured.name for measured in decided)),
    )


def _sentence(measured: Measurement, conditions: list[Condition]) -> str:
    """``volume 201.2 mL (± 6.1), at least 107.2 and at most 314.5``."""
    unit = "HU" if measured.unit.value == "[hnsf'U]" else measured.unit.value
    around = "" if measured.uncertainty is None else f" (± {measured.uncertainty:.4g})"
    limits = [
        f"{_IN_WORDS[condition.relation]} {condition.limit:g}"
        + (", which lies within its uncertainty" if _doubtful(measured, condition) else "")
        for condition in conditions
    ]
    name = measured.name.replace("_", " ")
    return f"{name} {measured.value:.6g} {unit}{around}, {' and '.join(limits)}"
