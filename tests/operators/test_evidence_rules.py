"""Rules in the SR and in result.json: valid, complete, and told apart by who accepted them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from operators.evidence.key_image import build_key_images
from operators.evidence.result import summarise
from operators.evidence.write import write_evidence
from operators.findings.tally import tally
from operators.job import Report, StudyJob
from operators.measured import RuleResult
from tests.operators.scene import RECORDED_AT, two_glands
from tests.operators.test_evidence_sr import children, groups
from tests.validators import dciodvfy_errors, dsrdump, pixelmed_sr_errors

PROPOSED = RuleResult(
    rule="made_up/wide",
    citation="Nobody N. No study. Journal 1;1:1-2; page 1, Table 1",
    severity="HIGH",
    accepted_by="",
    statement="It is wide. Measured: short axis 12 mm (± 1), at least 10.",
    differentials=("Wideness", "Breadth"),
    recommendations=("Look again.",),
    decided_by=("short_axis",),
)
ACCEPTED = replace(PROPOSED, accepted_by="Müller^Jörg")


def with_rules(report: Report, *results: RuleResult) -> Report:
    """The same with rules about its first structure."""
    first, *others = report.findings
    return replace(report, findings=(replace(first, rules=results), *others))


def by_name(group: pydicom.Dataset, code: str) -> list[str]:
    return [item.TextValue for item in children(group, code)]


def test_validators_accept_rules_in_the_volumetric_group(tmp_path: Path) -> None:
    report = with_rules(two_glands(tmp_path / "in"), PROPOSED, ACCEPTED)

    path = write_evidence(report, tmp_path / "out", RECORDED_AT)[1].path

    assert not dciodvfy_errors(path)
    assert pixelmed_sr_errors(path) == []
    assert "Rule made_up/wide (proposed, severity HIGH)" in dsrdump(path)


@pytest.mark.parametrize(
    ("result", "standing", "mark"),
    [(PROPOSED, "proposed", "Proposed: "), (ACCEPTED, "accepted by Müller^Jörg", "")],
)
def test_the_group_tells_rule_source_differentials_and_recommendations(
    tmp_path: Path, result: RuleResult, standing: str, mark: str
) -> None:
    report = with_rules(two_glands(tmp_path / "in"), result)

    path = write_evidence(report, tmp_path / "out", RECORDED_AT)[1].path

    planar, ruled, *others = groups(pydicom.dcmread(path))
    grid, *said = by_name(ruled, "121106")
    assert grid.startswith("Left open by the grid")
    assert said == [
        f"Rule made_up/wide ({standing}, severity HIGH): {result.statement} "
        f"Source: {result.citation}."
    ]
    assert by_name(ruled, "111023") == [f"{mark}Wideness", f"{mark}Breadth"]
    assert by_name(ruled, "121075") == [f"{mark}Look again."]
    for group in (planar, *others):
        assert not any(by_name(group, code) for code in ("111023", "121075"))
        assert not any("Rule" in text for text in by_name(group, "121106"))


def test_ohif_still_finds_the_tracking_uid_first(tmp_path: Path) -> None:
    report = with_rules(two_glands(tmp_path / "in"), PROPOSED)

    path = write_evidence(report, tmp_path / "out", RECORDED_AT)[1].path

    for group in groups(pydicom.dcmread(path)):
        first = next(item for item in group.ContentSequence if item.ValueType == "UIDREF")
        assert first.ConceptNameCodeSequence[0].CodeValue == "112040"


def test_another_standing_of_a_rule_makes_another_sr_and_the_same_seg(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    written = [
        write_evidence(with_rules(report, *results), tmp_path / "out", RECORDED_AT)
        for results in ((), (PROPOSED,), (ACCEPTED,), (ACCEPTED,))
    ]

    segs = [seg.sop_instance_uid for seg, _ in written]
    bare, proposed, accepted, again = (sr.sop_instance_uid for _, sr in written)
    assert len(set(segs)) == 1
    assert len({bare, proposed, accepted}) == 3
    assert accepted == again


def test_result_json_tells_the_whole_rule(tmp_path: Path) -> None:
    report = with_rules(two_glands(tmp_path / "in"), PROPOSED)
    job = StudyJob(tmp_path, tmp_path, RECORDED_AT, reports=(report,))

    (entry,) = summarise(job)["results"]

    first, *others = entry["findings"]
    assert [other["rules"] for other in others] == [[], []]
    (told,) = first["rules"]
    assert told == {
        "rule": "made_up/wide",
        "citation": PROPOSED.citation,
        "severity": "HIGH",
        "accepted_by": "",
        "proposed": True,
        "statement": PROPOSED.statement,
        "differentials": ("Wideness", "Breadth"),
        "recommendations": ("Look again.",),
        "decided_by": ("short_axis",),
    }
    assert first["severity"] == "NOT_ASSESSED"


def test_key_images_that_another_standing_reorders_are_other_images(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    counts = tally(report.segmentation)

    plain, ruled, again = (
        [str(image.SOPInstanceUID) for image in build_key_images(one, counts, RECORDED_AT)]
        for one in (report, with_rules(report, PROPOSED), with_rules(report, PROPOSED))
    )

    assert ruled == again
    assert set(plain).isdisjoint(ruled)
