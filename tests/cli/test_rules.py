"""`radloop rules` as a radiologist meets it who is to accept some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli.main import cli
from app.cli.run import print_result
from operators.findings.guideline import RuleUnknown, load_rulebook

RULE = "spleen_volume/above_range"
SAID = {
    "rule": RULE,
    "citation": "Prassopoulos; page 246, abstract",
    "severity": "LOW",
    "accepted_by": "",
    "proposed": True,
    "statement": "Larger. Measured: volume 400 mL, above 314.5.",
    "differentials": ["Splenomegaly"],
    "recommendations": [],
    "decided_by": ["volume"],
}


def call(*arguments: str | Path, **settings: object) -> Result:
    environment = {f"RADLOOP_{name.upper()}": json.dumps(value) for name, value in settings.items()}
    return CliRunner().invoke(cli, ["rules", *map(str, arguments)], env=environment)


def accepted(digest: str) -> dict[str, object]:
    return {
        "readers": {"jdoe": {"name": "Doe^Jane", "organization": "Hospital"}},
        "accepted_rules": {RULE: {"by": "jdoe", "digest": digest}},
    }


def test_list_tells_of_every_rule_that_it_is_proposed_and_by_nobody_verified() -> None:
    said = call("list")

    assert said.exit_code == 0
    for rule in load_rulebook().rules:
        assert f"{rule.id}  {rule.severity}  proposed  digest {rule.digest}" in said.output
    assert said.output.count("not verified by anybody; ") == len(load_rulebook().rules)


def test_list_names_who_accepted_a_rule() -> None:
    digest = load_rulebook().rule(RULE).digest

    said = call("list", **accepted(digest))

    assert f"{RULE}  LOW  accepted by Doe^Jane  digest {digest}" in said.output
    assert said.output.count("accepted by") == 1


def test_list_says_that_an_accepted_rule_has_changed() -> None:
    said = call("list", **accepted("0" * 12))

    assert f"{RULE}  LOW  proposed: it was accepted as it stood before" in said.output


def test_list_as_json_has_all_that_a_file_has() -> None:
    told = json.loads(call("list", "--json").output)

    spleen = next(rule for rule in told if rule["id"] == RULE)
    assert spleen["conditions"] == [
        {"measurement": "volume", "unit": "mL", "relation": "above", "limit": 314.5}
    ]
    assert (spleen["accepted_by"], spleen["verified_by"]) == ("", "")


def test_show_prints_condition_source_and_structure() -> None:
    said = call("show", RULE).output

    assert "volume above 314.5 mL" in said
    assert "page 246, abstract" in said
    assert "Spleen (SCT 78961009, side: none)" in said
    assert "the structure touches no side of the volume" in said
    assert "graded by radloop" in said


def test_show_of_an_unknown_rule_is_refused() -> None:
    said = call("show", "spleen_volume/huge")

    assert said.exit_code == 1
    assert isinstance(said.exception, RuleUnknown)


@pytest.mark.parametrize("rules", [[SAID], []])
def test_explain_tells_each_structure_and_its_rules(tmp_path: Path, rules: list[object]) -> None:
    finding = {"label": "Spleen", "severity": "NOT_ASSESSED", "rules": rules}
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"results": [{"bundle": "b", "findings": [finding]}]}))

    said = call("explain", file)

    assert "Spleen (b): severity NOT_ASSESSED" in said.output
    if rules:
        assert said.exit_code == 0
        assert f"{RULE} (proposed, LOW)" in said.output
        assert "decided by: volume" in said.output
        assert "source: Prassopoulos; page 246, abstract" in said.output
    else:
        assert said.exit_code == 3
        assert "no rule says anything to it" in said.output


@pytest.mark.parametrize(
    ("by", "standing"), [("", "proposed"), ("Doe^Jane", "accepted by Doe^Jane")]
)
def test_a_run_prints_what_rules_said(
    capsys: pytest.CaptureFixture[str], by: str, standing: str
) -> None:
    said = SAID | {"accepted_by": by, "proposed": not by}
    sizes = {"voxels": 9, "volume_ml": 400.0, "mean": 50.0}
    finding = {"label": "Spleen", "severity": "NOT_ASSESSED", "rules": [said], **sizes}
    entry = {"bundle": "b", "version": "1", "weights_sha256": "0" * 64, "unit": "HU"}
    entry |= {"image": None, "findings": [finding], "quality": [], "evidence": []}
    left_out = {"readings": [], "unmatched": [], "refused": [], "warnings": []}

    print_result({"results": [entry], **left_out})

    assert f"rule Spleen, {RULE} ({standing}): Larger. Measured" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[]", '{"results": [{"findings": [{"label": 1}]}]}'])
def test_explain_of_another_file_is_a_wrong_usage(tmp_path: Path, text: str) -> None:
    file = tmp_path / "result.json"
    file.write_text(text)

    assert call("explain", file).exit_code == 2
    assert call("explain", tmp_path / "none.json").exit_code == 2
