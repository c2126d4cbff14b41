"""What rules say, as text items of a report's measurement group.

Text, since no template has a place for a rule: the statement with the rule's id, its standing
at the site and its source; then each differential and each recommendation by its own name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from operators.evidence.content import COMMENT, text_item
from operators.job import Code, Finding, Report
from operators.measured import RuleResult

_DIFFERENTIAL = Code("111023", "DCM", "Differential Diagnosis/Impression")
_RECOMMENDATION = Code("121075", "DCM", "Recommendation")


def rule_items(finding: Finding) -> Iterator[bytes]:
    """The encoded text items of all rules of a finding, in their order.

    References
    ----------
    DICOM PS3.16 TID 1410 and 1411 (qualitative evaluations by text); codes DCM 121106,
    111023, 121075.
    """
    for result in finding.rules:
        said = "" if result.accepted_by else "Proposed: "
        yield text_item(COMMENT, rule_sentence(result))
        for differential in result.differentials:
            yield text_item(_DIFFERENTIAL, f"{said}{differential}")
        for recommendation in result.recommendations:
            yield text_item(_RECOMMENDATION, f"{said}{recommendation}")


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
