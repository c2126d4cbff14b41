"""What a site accepts, from its settings to the API's answer."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from app import graph
from app.api.answers import REFER, LocalAnswer, from_outcome
from app.rules import site_rulebook
from app.settings import SettingsRefusal, load_settings
from app.worker.analysis import AnalysisFactory
from app.worker.messages import Outcome, Request
from operators.evidence.result import write_result
from operators.evidence.write import write_evidence
from operators.findings import operator as door
from operators.findings.guideline import GuidelinesMissing, Rulebook, RuleUnknown, load_rulebook
from operators.job import Report, Severity, StudyJob
from operators.measured import RuleResult
from operators.models.warm import WarmModels
from tests.operators.scene import RECORDED_AT, two_glands

RULE = "spleen_volume/above_range"
JANE = {"jdoe": {"name": "Doe^Jane", "organization": "General Hospital"}}
SAID = RuleResult(
    rule="made_up/wide",
    citation="Nobody N. No study; page 1, Table 1",
    severity="HIGH",
    accepted_by="",
    statement="It is wide.",
    differentials=("Wideness",),
    recommendations=("Look again.",),
    decided_by=("short_axis",),
)


@pytest.fixture(autouse=True)
def _no_other_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("RADLOOP_"):
            monkeypatch.delenv(name)


def digest() -> str:
    return load_rulebook().rule(RULE).digest


def test_by_default_nobody_has_accepted_anything() -> None:
    book = site_rulebook(load_settings())

    assert len(book.rules) > 5
    assert not any(book.accepted_by(rule) for rule in book.rules)


def test_a_rule_is_accepted_by_the_reader_s_name() -> None:
    accepted = {RULE: {"by": "jdoe", "digest": digest()}}

    book = site_rulebook(load_settings(readers=JANE, accepted_rules=accepted))

    by_rule = {rule.id: book.accepted_by(rule) for rule in book.rules}
    assert by_rule.pop(RULE) == "Doe^Jane"
    assert set(by_rule.values()) == {""}


def test_settings_of_the_environment_accept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADLOOP_READERS", json.dumps(JANE))
    accepted = {RULE: {"by": "jdoe", "digest": digest()}}
    monkeypatch.setenv("RADLOOP_ACCEPTED_RULES", json.dumps(accepted))

    book = site_rulebook(load_settings())

    assert book.accepted_by(book.rule(RULE)) == "Doe^Jane"


@pytest.mark.parametrize(
    ("accepted", "problem"),
    [
        ({RULE: {"by": "nobody", "digest": "0" * 12}}, "by names no key of readers"),
        ({RULE: {"by": "jdoe"}}, "digest"),
        ({RULE: {"by": "jdoe", "digest": "latest"}}, "digest"),
        ({RULE: "jdoe"}, "accepted_rules"),
        ({RULE: {"by": "jdoe", "digest": "0" * 12, "for": "ever"}}, "there is no setting"),
    ],
)
def test_an_acceptance_without_a_named_reader_or_a_digest_is_refused(
    accepted: dict[str, object], problem: str
) -> None:
    with pytest.raises(SettingsRefusal, match=problem):
        load_settings(readers=JANE, accepted_rules=accepted)


def test_accepting_an_unknown_rule_is_refused() -> None:
    accepted = {"spleen_volume/abov_range": {"by": "jdoe", "digest": "0" * 12}}

    with pytest.raises(RuleUnknown):
        site_rulebook(load_settings(readers=JANE, accepted_rules=accepted))


def test_the_folder_of_guidelines_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(GuidelinesMissing):
        site_rulebook(load_settings(guidelines=tmp_path / "none"))


@pytest.mark.parametrize("given", [True, False])
def test_the_worker_s_graph_asks_the_site_s_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    asked: list[Rulebook] = []

    def apply(job: StudyJob, book: Rulebook) -> StudyJob:
        asked.append(book)
        return job

    monkeypatch.setattr(door, "apply_rules_to_job", apply)
    monkeypatch.setattr(graph, "load_models", lambda champions: WarmModels({}))
    accepted = {RULE: {"by": "jdoe", "digest": digest()}}
    book = site_rulebook(load_settings(readers=JANE, accepted_rules=accepted))
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()

    job = pickle.loads(pickle.dumps(AnalysisFactory(rules=book if given else None)))()
    job(Request(tmp_path / "in", tmp_path / "out", RECORDED_AT))

    assert asked == [book if given else load_rulebook()]


def judged(report: Report, *severities: Severity, rules: tuple[RuleResult, ...] = ()) -> Report:
    """The same, its structures with these severities in turn; rules about the first."""
    findings = [
        replace(finding, severity=severity)
        for finding, severity in zip(report.findings, severities, strict=True)
    ]
    findings[0] = replace(findings[0], rules=rules)
    return replace(report, findings=tuple(findings))


def answer(report: Report, folder: Path) -> LocalAnswer:
    evidence = write_evidence(report, folder, RECORDED_AT)
    write_result(StudyJob(folder, folder, RECORDED_AT, reports=(report,), evidence=evidence))
    return from_outcome(Outcome("done"), folder, "ct", 1.0)


def test_the_answer_tells_a_proposed_rule_as_proposed(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    nothing: tuple[Severity, ...] = ("NOT_ASSESSED",) * 3

    told = answer(judged(report, *nothing, rules=(SAID,)), tmp_path / "out")

    assert told.severity == "NOT_ASSESSED"
    assert told.differential_diagnoses == ["proposed: Wideness (Parotid left; rule made_up/wide)"]
    assert told.recommendations == [
        "proposed: Look again. (Parotid left; rule made_up/wide)",
        REFER,
    ]
    assert "Parotid left, proposed by rule made_up/wide: It is wide." in told.findings
    (said,) = told.regions_of_interest[0].rules
    assert (said.proposed, said.citation) == (True, SAID.citation)
    assert told.regions_of_interest[1].rules == []


def test_the_answer_tells_an_accepted_rule_without_the_word(tmp_path: Path) -> None:
    accepted = replace(SAID, accepted_by="Doe^Jane")
    report = judged(
        two_glands(tmp_path / "in"), "HIGH", "NOT_ASSESSED", "NOT_ASSESSED", rules=(accepted,)
    )

    told = answer(report, tmp_path / "out")

    assert told.severity == "HIGH"
    assert told.differential_diagnoses == ["Wideness (Parotid left; rule made_up/wide)"]
    assert told.regions_of_interest[0].rules[0].accepted_by == "Doe^Jane"


@pytest.mark.parametrize(
    ("parotid", "mandible", "whole"),
    [
        ("NORMAL", "NOT_ASSESSED", "NOT_ASSESSED"),
        ("NORMAL", "NORMAL", "NORMAL"),
        ("LOW", "NOT_ASSESSED", "LOW"),
        ("NORMAL", "MODERATE", "MODERATE"),
    ],
)
def test_the_whole_is_normal_only_where_nothing_is_left_unassessed(
    tmp_path: Path, parotid: Severity, mandible: Severity, whole: Severity
) -> None:
    report = judged(two_glands(tmp_path / "in"), parotid, "NOT_ASSESSED", mandible)

    assert answer(report, tmp_path / "out").severity == whole
