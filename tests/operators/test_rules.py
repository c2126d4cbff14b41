"""Rules against the numbers that are printed in their publications, written here once more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.findings.guideline import SHIPPED, Acceptance, Rulebook, load_rulebook
from operators.findings.rules import apply_rules, worst
from operators.job import Finding, Report
from operators.measured import Measurement
from tests.operators.rule_scene import LEFT, measurement, report

BOOK = load_rulebook()
HU = "[hnsf'U]"
SPLEEN, LIVER, BLEEDING, NODE, LUNG, AORTA = (
    ("78961009", "volume", "mL"),
    ("10200004", "mean", HU),
    ("274100004", "volume", "mL"),
    ("59441001", "short_axis", "mm"),
    ("39607008", "percentile_05", HU),
    ("7832008", "short_axis", "mm"),
)


def said(about: Report, book: Rulebook = BOOK) -> list[str]:
    """Ids of the rules that speak."""
    (finding,) = apply_rules(about, book).findings
    return [result.rule for result in finding.rules]


def accepting(*rule_ids: str) -> Rulebook:
    accepted = {rule: Acceptance("Doe^Jane", BOOK.rule(rule).digest) for rule in rule_ids}
    return Rulebook(BOOK.rules, accepted)


# Just below, at and just above each limit of each shipped file.
BOUNDARIES = [
    (SPLEEN, 107.1, ["spleen_volume/below_range"]),
    (SPLEEN, 107.2, ["spleen_volume/within_range"]),
    (SPLEEN, 107.3, ["spleen_volume/within_range"]),
    (SPLEEN, 314.4, ["spleen_volume/within_range"]),
    (SPLEEN, 314.5, ["spleen_volume/within_range"]),
    (SPLEEN, 314.6, ["spleen_volume/above_range"]),
    (LIVER, 47.9, ["hepatic_steatosis/moderate_to_severe"]),
    (LIVER, 48.0, []),
    (LIVER, 48.1, []),
    (BLEEDING, 29.9, ["intracerebral_haemorrhage/no_point"]),
    (BLEEDING, 30.0, ["intracerebral_haemorrhage/one_point"]),
    (BLEEDING, 30.1, ["intracerebral_haemorrhage/one_point"]),
    (NODE, 14.9, []),
    (NODE, 15.0, ["recist_lymph_node/measurable"]),
    (NODE, 15.1, ["recist_lymph_node/measurable"]),
    (LUNG, -950.1, ["emphysema/present"]),
    (LUNG, -950.0, ["emphysema/present"]),
    (LUNG, -949.9, []),
    (AORTA, 29.9, []),
    (AORTA, 30.0, ["abdominal_aortic_aneurysm/aneurysm"]),
    (AORTA, 30.1, ["abdominal_aortic_aneurysm/aneurysm"]),
]


@pytest.mark.parametrize(("about", "value", "expected"), BOUNDARIES)
def test_rules_change_their_mind_exactly_at_the_printed_limit(
    about: tuple[str, str, str], value: float, expected: list[str]
) -> None:
    code, name, unit = about

    assert said(report(code, (measurement(name, value, unit),))) == expected


def test_every_limit_of_every_shipped_file_has_its_boundary_tests() -> None:
    tested = {(name, unit, value) for (_, name, unit), value, _ in BOUNDARIES}
    for rule in BOOK.rules:
        for condition in rule.conditions:
            at = (condition.measurement, condition.unit, condition.limit)
            near = {v for name, unit, v in tested if (name, unit) == at[:2] and v != at[2]}
            assert at in tested, rule.id
            assert any(0 < at[2] - v < 0.2 for v in near), rule.id
            assert any(0 < v - at[2] < 0.2 for v in near), rule.id
    assert {rule.id.split("/")[0] for rule in BOOK.rules} == {
        file.stem for file in SHIPPED.glob("*.yaml")
    }


def test_nobody_has_verified_a_shipped_file_and_each_rule_names_page_and_table() -> None:
    for rule in BOOK.rules:
        assert rule.verified_by == ""
        assert "; page " in rule.citation


@pytest.mark.parametrize("unit", ["cm3", "ml", "mm3", "L", "1", HU])
def test_another_unit_gives_nothing(unit: str) -> None:
    assert said(report(SPLEEN[0], (measurement("volume", 400.0, unit),))) == []


def test_a_unit_of_another_scheme_gives_nothing() -> None:
    volume = measurement("volume", 400.0, "mL")
    other = replace(volume, unit=replace(volume.unit, scheme="99LOCAL"))

    assert said(report(SPLEEN[0], (other,))) == []


def test_a_missing_or_doubled_measurement_gives_nothing() -> None:
    volume = measurement("volume", 400.0, "mL")

    assert said(report(SPLEEN[0], ())) == []
    assert said(report(SPLEEN[0], (measurement("surface", 400.0, "mL"),))) == []
    assert said(report(SPLEEN[0], (volume, volume))) == []


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf")])
def test_a_value_that_is_no_number_gives_nothing(value: float) -> None:
    assert said(report(SPLEEN[0], (measurement("volume", value, "mL"),))) == []


def test_the_code_decides_and_never_the_label() -> None:
    volume = (measurement("volume", 400.0, "mL"),)

    assert said(report(LIVER[0], volume, label="Spleen")) == []
    assert said(report(SPLEEN[0], volume, label="Liver")) == ["spleen_volume/above_range"]
    assert said(report(SPLEEN[0], volume, scheme="FMA")) == []


def test_another_modality_gives_nothing() -> None:
    volume = (measurement("volume", 400.0, "mL"),)

    assert said(report(SPLEEN[0], volume, modality="MR")) == []
    assert said(report(AORTA[0], (measurement("short_axis", 31, "mm"),), modality="MR"))


def test_one_lung_is_not_the_lungs_but_a_node_has_any_side() -> None:
    low = (measurement("percentile_05", -970.0, HU),)

    assert said(report(LUNG[0], low, laterality=LEFT)) == []
    assert said(report(NODE[0], (measurement("short_axis", 20, "mm"),), laterality=LEFT))


def test_a_contrast_agent_in_any_header_silences_the_rule_for_unenhanced_liver() -> None:
    mean = (measurement("mean", 40.0, HU),)

    assert said(report(LIVER[0], mean, header={"ContrastBolusAgent": ""}))
    assert said(report(LIVER[0], mean, header={"ContrastBolusAgent": "IOMERON"})) == []


@pytest.mark.parametrize("side", [(0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 3, 1), (1, 1, 0), (1, 1, 4)])
def test_a_spleen_that_reaches_a_side_of_the_volume_is_not_judged(
    side: tuple[int, int, int],
) -> None:
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1, 1:3, 1:4] = 1
    labels[side] = 1

    assert said(report(SPLEEN[0], (measurement("volume", 200.0, "mL"),), labels=labels)) == []


def test_what_was_not_found_is_not_judged() -> None:
    about = report(SPLEEN[0], (measurement("volume", 50.0, "mL"),))
    (finding,) = about.findings

    assert said(replace(about, findings=(replace(finding, voxels=0),))) == []


def test_a_proposed_rule_is_told_and_decides_no_severity() -> None:
    about = report(SPLEEN[0], (measurement("volume", 400.0, "mL"),))

    (finding,) = apply_rules(about, BOOK).findings

    (result,) = finding.rules
    assert result.proposed
    assert result.severity == "LOW"
    assert finding.severity == "NOT_ASSESSED"


def test_an_accepted_rule_decides_the_severity_and_names_the_person() -> None:
    about = report(SPLEEN[0], (measurement("volume", 400.0, "mL"),))

    (finding,) = apply_rules(about, accepting("spleen_volume/above_range")).findings

    (result,) = finding.rules
    assert (result.proposed, result.accepted_by) == (False, "Doe^Jane")
    assert finding.severity == "LOW"
    assert result.decided_by == ("volume",)
    assert "volume 400 mL, above 314.5" in result.statement


def test_the_acceptance_of_a_rule_ends_when_the_rule_changes() -> None:
    about = report(SPLEEN[0], (measurement("volume", 400.0, "mL"),))
    stale = Rulebook(BOOK.rules, {"spleen_volume/above_range": Acceptance("Doe^Jane", "0" * 12)})

    (finding,) = apply_rules(about, stale).findings

    assert finding.rules[0].proposed
    assert finding.severity == "NOT_ASSESSED"


def test_accepting_one_rule_accepts_no_other() -> None:
    about = report(SPLEEN[0], (measurement("volume", 200.0, "mL"),))

    (finding,) = apply_rules(about, accepting("spleen_volume/above_range")).findings

    assert finding.severity == "NOT_ASSESSED"


def normal(volume: Measurement) -> Finding:
    about = report(SPLEEN[0], (volume,))
    (finding,) = apply_rules(about, accepting("spleen_volume/within_range")).findings
    return finding


def test_normal_is_withheld_where_the_limit_lies_within_the_uncertainty() -> None:
    assert normal(measurement("volume", 300.0, "mL", 10.0)).severity == "NORMAL"
    assert normal(measurement("volume", 300.0, "mL", 14.5)).severity == "NOT_ASSESSED"
    assert normal(measurement("volume", 300.0, "mL", 14.5)).rules == ()


def test_two_limits_of_one_number_are_told_together() -> None:
    told = normal(measurement("volume", 201.2, "mL", 6.1)).rules[0].statement

    assert told.endswith("Measured: volume 201.2 mL (± 6.1), at least 107.2 and at most 314.5.")


def test_a_limit_within_the_uncertainty_is_told() -> None:
    about = report(SPLEEN[0], (measurement("volume", 318.0, "mL", 6.0),))

    (finding,) = apply_rules(about, BOOK).findings

    told = "volume 318 mL (± 6), above 314.5, which lies within its uncertainty"
    assert told in finding.rules[0].statement


def test_a_rule_without_a_severity_leaves_the_finding_not_assessed_even_when_accepted() -> None:
    about = report(NODE[0], (measurement("short_axis", 20.0, "mm"),))

    (finding,) = apply_rules(about, accepting("recist_lymph_node/measurable")).findings

    assert not finding.rules[0].proposed
    assert finding.severity == "NOT_ASSESSED"


@given(st.lists(st.sampled_from(["CRITICAL", "HIGH", "MODERATE", "LOW", "NORMAL"])))
def test_adding_a_worse_severity_never_makes_the_whole_better(severities: list[str]) -> None:
    assert worst([*severities, "CRITICAL"]) == "CRITICAL"  # type: ignore[list-item]
    assert worst([*severities, "NOT_ASSESSED"]) == worst(severities)  # type: ignore[arg-type]
