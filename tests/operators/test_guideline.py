"""Guideline files that must not load, each refused with its line."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from operators.findings.guideline import (
    SHIPPED,
    Acceptance,
    GuidelineInvalid,
    GuidelinesMissing,
    RuleUnknown,
    load_rulebook,
    read_guideline,
)

GOOD = """\
title: A made-up width
citation:
  authors: Nobody N
  title: No study of anything
  publication: Journal of Tests
  edition: 1;1
  pages: 1-2
verified_by: ""
applies:
  modality: [CT]
  structures:
    - {value: "12345678", scheme: SCT, meaning: Thing, laterality: any}
rules:
  - id: wide
    page: "1"
    table: Table 1
    when:
      - {measurement: short_axis, unit: mm, at_least: 10}
    severity: LOW
    severity_from: publication
    statement: It is wide.
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "made_up.yaml"
    file.write_text(text)
    return file


def test_the_example_itself_loads(tmp_path: Path) -> None:
    (rule,) = read_guideline(written(tmp_path, GOOD))

    assert rule.id == "made_up/wide"
    assert rule.citation == (
        "Nobody N. No study of anything. Journal of Tests 1;1:1-2; page 1, Table 1"
    )


@pytest.mark.parametrize(
    ("before", "after", "line", "problem"),
    [
        # No citation at all, or a part of it missing.
        (GOOD[GOOD.index("citation:") : GOOD.index("verified_by")], "", 1, "'citation'"),
        ("  authors: Nobody N\n", "", 2, "'authors'"),
        ("  title: No study of anything\n", "", 2, "'title'"),
        ("  publication: Journal of Tests\n", "", 2, "'publication'"),
        ("  edition: 1;1\n", "", 2, "'edition'"),
        ("  pages: 1-2\n", "", 2, "'pages'"),
        ("Nobody N", '" "', 3, "citation.authors"),
        ('    page: "1"\n', "", 14, "'page'"),
        ('page: "1"', 'page: ""', 15, "page"),
        ("    table: Table 1\n", "", 14, "'table'"),
        ("table: Table 1", "table: ''", 16, "table"),
        ('verified_by: ""\n', "", 1, "'verified_by'"),
        # Names that nobody reads.
        ("    severity: LOW", "    severety: LOW", 14, "severety"),
        ("  publication: ", "  journal: X\n  publication: ", 2, "journal"),
        ("title: A made-up width", "title: A made-up width\nage: 35", 1, "age"),
        # Conditions that are none.
        ("at_least: 10", "at_least: ten", 18, "ten"),
        ("at_least: 10", "exec: 10", 18, "exec"),
        (", at_least: 10", "", 18, "when"),
        ("at_least: 10", "at_least: 10, below: 20", 18, "when"),
        ("unit: mm, ", "", 18, "'unit'"),
        ("at_least: 10", "at_least: 10, at_least: 20", 18, "'at_least' stands twice"),
        # Grades.
        ("severity: LOW", "severity: BAD", 19, "BAD"),
        ("severity_from: publication", "severity_from: nobody", 20, "nobody"),
        ("laterality: any", "laterality: left", 12, "left"),
        ("title: A", "title: [A", 2, "is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(
    tmp_path: Path, before: str, after: str, line: int, problem: str
) -> None:
    assert before in GOOD
    with pytest.raises(GuidelineInvalid) as refused:
        read_guideline(written(tmp_path, GOOD.replace(before, after, 1)))

    assert f"made_up.yaml, line {line}: " in str(refused.value)
    assert problem in str(refused.value)


def test_two_rules_of_one_id_are_refused(tmp_path: Path) -> None:
    text = GOOD + GOOD[GOOD.index("  - id: wide") :]

    with pytest.raises(GuidelineInvalid, match="line 22: rule 'wide' stands twice"):
        read_guideline(written(tmp_path, text))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"[]", b"- [" * 5000])
def test_what_is_no_guideline_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "made_up.yaml"
    file.write_bytes(content)

    with pytest.raises(GuidelineInvalid):
        read_guideline(file)


def test_a_file_of_the_site_is_added_and_one_of_the_same_name_replaces(tmp_path: Path) -> None:
    shipped = {rule.id for rule in load_rulebook().rules}
    written(tmp_path, GOOD)
    (tmp_path / "spleen_volume.yaml").write_text(GOOD)

    ids = {rule.id for rule in load_rulebook([tmp_path]).rules}

    spleen = {rule for rule in shipped if rule.startswith("spleen_volume/")}
    assert len(spleen) == 3
    assert ids == (shipped - spleen) | {"made_up/wide", "spleen_volume/wide"}


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GuidelinesMissing):
        load_rulebook([tmp_path / "none"])


def test_accepting_a_rule_that_does_not_exist_is_refused() -> None:
    with pytest.raises(RuleUnknown, match="'spleen_volume/huge'"):
        load_rulebook(accepted={"spleen_volume/huge": Acceptance("Doe^Jane", "0" * 12)})


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ("at_least: 10", "at_least: 11", True),
        ("at_least: 10", "above: 10", True),
        ("severity: LOW", "severity: HIGH", True),
        ("laterality: any", "laterality: none", True),
        ("edition: 1;1", "edition: 1;2", True),
        ("It is wide.", "It is not wide.", True),
        ('verified_by: ""', "verified_by: Doe^Jane", False),
    ],
)
def test_the_digest_is_of_all_that_decides_and_of_nothing_else(
    tmp_path: Path, before: str, after: str, changes: bool
) -> None:
    (first,) = read_guideline(written(tmp_path, GOOD))
    (second,) = read_guideline(written(tmp_path, GOOD.replace(before, after)))

    assert (first.digest != second.digest) == changes


def test_a_rulebook_goes_to_another_process_whole() -> None:
    book = load_rulebook()

    assert pickle.loads(pickle.dumps(book)) == book


def test_no_shipped_file_is_left_out_by_its_ending() -> None:
    assert {file.suffix for file in SHIPPED.iterdir()} == {".yaml"}
