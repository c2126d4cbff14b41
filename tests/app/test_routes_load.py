"""The routes file: every mistake is found at once and with its line; what is right is kept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.routes.load import RoutesInvalid, RoutesUnreadable, by_cards, load_routes
from app.routes.model import Priority, Range, Routes, Site, Words

SITE = Site(("abdomen", "head"), ("box",), ("folder", "orthanc"), 5.0)
SHIPPED = Path(__file__).parents[2] / "pacs_config" / "routes.yaml"
# Every mistake stands in the line that its number names.
WRONG = """\
version: 1
routes:
  - id: emergency
    when:
      callng_aet: CT_ER        # 5
      modality: [CT,
                 NO]           # 7
      source: orthnac          # 8
      slices: {min: 9, max: 2} # 9
    bundles: all
    priority: now              # 11
  - id: Two words              # 12
    quiet_seconds: 0           # 13
    why:                       # 14
    bundles: [head]
    bundles: none              # 16
  - id: other                  # 17
    when: {body_part: []}      # 18
  - id: fine
    bundles: [haed,            # 20
              box]             # 21
    deliver: [orthnc,          # 22
              stow]            # 23
  - id: last
    bundles: all
  - id: fine                   # 26
    bundles: [head]
"""
LINES = [5, 7, 8, 9, 11, 12, 13, 14, 16, 17, 18, 20, 21, 22, 23, 26, 26]


def load(folder: Path, text: str, site: Site = SITE) -> Routes:
    file = folder / "routes.yaml"
    file.write_text(text)
    return load_routes(file, site)


def refused(folder: Path, text: str, site: Site = SITE) -> RoutesInvalid:
    with pytest.raises(RoutesInvalid) as caught:
        load(folder, text, site)
    return caught.value


def test_every_mistake_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    refusal = refused(tmp_path, WRONG)

    assert [problem.line for problem in refusal.problems] == LINES
    assert refusal.code == "RL-0652" and f"{tmp_path}/routes.yaml:5: " in str(refusal)
    told = {problem.line: problem.what for problem in refusal.problems}
    assert "no callng_aet (did you mean calling_aet?)" in told[5]
    assert "False to YAML, not text: put it in quotes" in told[7]
    assert "'orthnac' (did you mean orthanc?)" in told[8]
    assert "'stat', 'high', 'routine', 'low'" in told[11]
    assert "stands in line 15 already" in told[16]
    assert "routes[3].bundles is missing" in told[17]
    assert "haed is not installed (did you mean head?)" in told[20]
    assert "waits for a person's box" in told[21]
    assert "no destination orthnc (did you mean orthanc?)" in told[22]
    assert "stow is not configured: set deliver_to_stow" in told[23]
    assert any("can never apply: route last in line 24" in p.what for p in refusal.problems)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "is empty"),
        ("- 1", 1, "not a table"),
        ("version: 1\nroutes: x", 2, "is not a list"),
        ("version: 1\nroutes: []", 2, "is an empty list"),
        ("version: 2\nroutes: [{id: a, bundles: all}]", 1, "should be 1"),
        ("version: 1\nroutes:\n  - id: a\n bundles: all", 4, "is not YAML"),
        ("version: 1\nroutes: &a [*a]", 2, "repeats itself by aliases"),
        ("version: 1\nroutes:\n" + "  - " + "[" * 20 + "]" * 20, 3, "nested too deeply"),
        ("version: 1\nroutes:\n- id: a\n  bundles: [all, head]", 4, "stand alone"),
        ("version: 1\nroutes:\n- id: a\n  bundles: []", 4, "write `none`"),
        ("version: 1\nroutes:\n- id: a\n  bundles: all\n  deliver: []", 5, "write `none`"),
        ("version: 1\nroutes:\n- id: a\n  bundles: none\n  priority: stat", 3, "no use for prio"),
        ("version: 1\nroutes:\n- id: a\n  bundles: all\n  ignore_body_part: true", 3, "by name"),
        (
            "version: 1\nroutes:\n- id: a\n  bundles: all\n  ignore_body_part: 1",
            5,
            "ignore_body_part",
        ),
        ("version: 1\nroutes:\n- id: 2024-01-01\n  bundles: all", 3, "put it in quotes"),
        ("version: 1\nroutes:\n- id: a\n  bundles: all\n  when: {modality: {}}", 5, "asks nothing"),
    ],
)
def test_a_mistake_has_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    (problem,) = refused(tmp_path, text).problems

    assert problem.line == line
    assert said in problem.what


def test_aliases_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    laughs = ["version: 1", "a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]

    assert "repeats itself" in str(refused(tmp_path, "\n".join(laughs)))


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RoutesUnreadable, match="No such file"):
        load_routes(tmp_path / "none.yaml", SITE)
    (tmp_path / "latin.yaml").write_bytes(b"version: 1 # \xe4")
    with pytest.raises(RoutesUnreadable, match="byte 13 is no UTF-8"):
        load_routes(tmp_path / "latin.yaml", SITE)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_file_breaks_the_reader(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    with pytest.raises((RoutesInvalid, RoutesUnreadable)):
        load_routes(file, SITE)


def test_all_that_can_be_said_is_understood_and_keeps_its_lines(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        "version: 1\nroutes:\n"
        "- id: one\n"
        "  why: because\n"
        "  when: {modality: CT, body_part: {none_of: HEAD}, slices: {min: 3},\n"
        "    calling_aet: [A, B]}\n"
        "  bundles: head\n"
        "  ignore_body_part: true\n"
        "  quiet_seconds: 2\n"
        "  priority: stat\n"
        "  deliver: none\n"
        "- {id: rest, bundles: all, deliver: [folder]}\n",
    )

    one, rest = loaded.routes
    assert loaded.lines == (3, 12)
    assert list(one.when.asked()) == ["calling_aet", "modality", "body_part", "slices"]
    assert one.when.modality == Words(any_of=("CT",))
    assert one.when.body_part == Words(none_of=("HEAD",))
    assert one.when.slices == Range(min=3)
    assert (one.bundles, one.deliver, rest.deliver) == (("head",), (), ("folder",))
    assert (one.priority, one.quiet_seconds) == (Priority.STAT, 2.0)


def test_the_shipped_file_does_what_no_file_does() -> None:
    shipped = load_routes(SHIPPED, SITE)

    assert [r.model_copy(update={"why": ""}) for r in shipped.routes] == list(by_cards().routes)
    assert load_routes(None, SITE) == by_cards()


def test_the_example_in_the_shipped_file_is_understood(tmp_path: Path) -> None:
    """Its comment shows every condition and every field, and all of it can be used."""
    lines = SHIPPED.read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("#   - id:"))
    example = [line[1:] for line in lines[start:] if re.match("#   ", line)]
    site = Site(("head_neck_oar_ct",), (), ("orthanc",), 5.0)
    (route,) = load(tmp_path, "version: 1\nroutes:\n" + "\n".join(example), site).routes

    assert list(route.when.asked()) == list(type(route.when).model_fields)
    assert route.model_fields_set == set(type(route).model_fields)
