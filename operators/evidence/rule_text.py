"""What rules say, as text items of a report's measurement group.

Text, since no template has a place for a rule: the statement with the rule's id, its standing
at the site and its source; then each differential and each recommendation by its own name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from highdicom import sr
from pydicom.sr.codedict import codes

from operators.job import Finding, Report
from operators.measured import RuleResult

COMMENT = sr.CodedConcept("121106", "DCM", "Comment")


def rule_items(finding: Finding) -> Iterator[sr.TextContentItem]:
    """The text items of all rules of a finding, in their order.

    References
    ----------
    DICOM PS3.16 TID 1410 and 1411 (qualitative evaluations by text); codes DCM 121106,
    111023, 121075.
    """
    for result in finding.rules:
        said = "" if result.accepted_by else "Proposed: "
        yield _text(COMMENT, rule_sentence(result))
        for differential in result.differentials:
            yield _text(codes.DCM.DifferentialDiagnosisImpression, f"{said}{differential}")
        for recommendation in result.recommendations:
            yield _text(codes.DCM.Recommendation, f"{said}{recommendation}")


def rule_sentence(result: RuleResult) -> str:
    """One rule for a reader: id, standing, severity, statement, source."""
    standing = f"accepted by {result.accepted_by}" if result.accepted_by else "proposed"
    severity = "no severity" if result.severity == "NOT_ASSESSED" else f"severity {result.severity}"
    return (
        f"Rule {result.rule} ({standing}, {severity}): {result.statement} "
        f"Source: {result.citation}."
    )


def rules_digest(report: Report) -> str:
    """Of all that rules say in a report; "" where they say nothing."""
    said = [finding.rules for finding in report.findings]
    return hashlib.sha256(repr(said).encode()).hexdigest() if any(said) else ""


def _text(name: sr.CodedConcept, text: str) -> sr.TextContentItem:
    return sr.TextContentItem(name, text, sr.RelationshipTypeValues.CONTAINS)
