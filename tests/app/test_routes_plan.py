"""What a study's plan is: a reference interpreter in six lines is the oracle, and cases by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.routes.facts import Gathering, InstanceFacts, StudyFacts
from app.routes.load import by_cards
from app.routes.model import Priority, Route, Routes, Site, Words
from app.routes.plan import UNKNOWN, judge, routes_for
from operators.study.select import RoutedPair

SITE = Site(("abdomen", "head"), ("box",), ("folder", "orthanc"), 5.0)
UNASKED = ("series_description", "protocol_name", "manufacturer", "station_name")
EMPTY = dict.fromkeys(UNASKED, ("",))


def study(
    *series: tuple[str, str, int], calling_aet: str = "CT1", source: str = "listener"
) -> StudyFacts:
    """Series as (modality, body part, slices); their UIDs are 1.1, 1.2…"""
    gathering = Gathering("1")
    for number, (modality, body_part, slices) in enumerate(series, 1):
        values = EMPTY | {
            "modality": (modality,),
            "body_part": (body_part,),
            "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"),
        }
        for _ in range(slices):
            facts = InstanceFacts("1", f"1.{number}", "CT head", values)
            gathering.add(facts, calling_aet=calling_aet, source=source)
    return gathering.facts()


def routes(*tables: dict[str, object]) -> Routes:
    made = tuple(Route.model_validate({"id": f"r{n}"} | table) for n, table in enumerate(tables))
    return Routes(made, Path("routes.yaml"), tuple(range(len(made))))


def test_without_a_file_every_series_goes_to_every_bundle_and_destination() -> None:
    plan = routes_for(study(("CT", "HEAD", 3), ("SR", "", 1)), by_cards(), SITE)

    assert set(plan.pairs()) == {
        RoutedPair(bundle, uid) for bundle in SITE.bundles for uid in ("1.1", "1.2")
    }
    assert (plan.bundles, plan.destinations) == (SITE.bundles, SITE.destinations)
    assert (plan.quiet_seconds, plan.priority) == (5.0, Priority.ROUTINE)


def test_the_first_route_that_names_a_bundle_and_holds_decides_about_it() -> None:
    table = routes(
        {"when": {"modality": "MR"}, "bundles": ["head"], "deliver": "none"},
        {"when": {"modality": "CT"}, "bundles": ["head"], "deliver": ["orthanc"]},
        {"bundles": "all", "deliver": ["folder"], "status_sr": True},
    )

    plan = routes_for(study(("CT", "HEAD", 3), ("MR", "HEAD", 3)), table, SITE)

    decided = {(run.bundle, run.series_instance_uid): run.route for run in plan.runs}
    assert decided == {
        ("head", "1.1"): "r1",
        ("abdomen", "1.1"): "r2",
        ("head", "1.2"): "r0",
        ("abdomen", "1.2"): "r2",
    }
    assert plan.status_destinations == ("folder",)
    assert plan.destinations_of("head") == ("orthanc",)
    assert plan.destinations_of("abdomen") == ("folder",)


def test_a_route_to_none_closes_the_way_for_later_ones_and_not_for_earlier_ones() -> None:
    table = routes(
        {"when": {"body_part": "HEAD"}, "bundles": ["head"]},
        {"when": {"calling_aet": "RESEARCH*"}, "bundles": "none"},
        {"bundles": "all"},
    )
    sent = study(("CT", "HEAD", 3), ("CT", "ABDOMEN", 3), calling_aet="RESEARCH7")

    assert routes_for(sent, table, SITE).pairs() == (RoutedPair("head", "1.1"),)


def test_a_study_that_no_route_wants_has_an_empty_plan() -> None:
    plan = routes_for(
        study(("US", "", 3)), routes({"when": {"modality": "CT"}, "bundles": "all"}), SITE
    )

    assert (plan.runs, plan.bundles, plan.destinations) == ((), (), ())
    assert (plan.quiet_seconds, plan.priority) == (5.0, Priority.ROUTINE)


def test_the_most_urgent_route_gives_quiet_time_and_priority() -> None:
    table = routes(
        {"when": {"modality": "CT"}, "bundles": ["head"], "priority": "stat", "quiet_seconds": 2},
        {"when": {"modality": "CT"}, "bundles": ["abdomen"], "priority": "stat"},
        {"bundles": "all", "priority": "low", "quiet_seconds": 60},
    )

    before = routes_for(study(("MR", "", 1)), table, SITE)
    after = routes_for(study(("MR", "", 1), ("CT", "", 1)), table, SITE)

    assert (before.priority, before.quiet_seconds) == (Priority.LOW, 60.0)
    # Of two STAT routes the longer quiet time: the site's own 5 s.
    assert (after.priority, after.quiet_seconds) == (Priority.STAT, 5.0)
    assert [p.rank for p in (Priority.STAT, Priority.HIGH, Priority.ROUTINE, Priority.LOW)] == [
        1, 2, 3, 4,
    ]  # fmt: skip


def test_ignore_body_part_silences_the_body_part_and_says_so_to_the_graph() -> None:
    table = routes({"bundles": ["head"], "ignore_body_part": True})

    assert routes_for(study(("CT", "", 3)), table, SITE).pairs() == (
        RoutedPair("head", "1.1", ask_body_part=False),
    )


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ({"modality": "ct"}, True),
        ({"modality": ["MR", "C?"]}, True),
        ({"modality": {"none_of": ["CT"]}}, False),
        ({"modality": {"any_of": "CT", "none_of": "MR"}}, True),
        ({"body_part": ""}, False),
        ({"protocol_name": ""}, True),
        ({"protocol_name": "*"}, True),
        ({"protocol_name": "?*"}, False),
        ({"image_type": "axial"}, True),
        ({"image_type": {"none_of": "PRIMARY"}}, False),
        ({"study_description": "*HEAD"}, True),
        ({"study_description": "head"}, False),
        ({"calling_aet": "CT1"}, True),
        ({"calling_aet": "ct1"}, False),
        ({"calling_aet": "CT?"}, True),
        ({"called_aet": "*"}, False),  # nobody has told whom it called
        ({"called_aet": {"none_of": "X"}}, False),
        ({"source": "listener"}, True),
        ({"source": {"none_of": "listener"}}, False),
        ({"slices": {"min": 3, "max": 3}}, True),
        ({"slices": {"min": 4}}, False),
        ({"slices": {"max": 2}}, False),
        ({"modality": "CT", "slices": {"max": 2}}, False),
    ],
)
def test_a_condition_holds_or_fails(when: dict[str, object], holds: bool) -> None:
    facts = study(("CT", "HEAD", 3))
    (route,) = routes({"when": when, "bundles": "all"}).routes

    answers = judge(route, facts, facts.series[0])

    assert [answer.condition for answer in answers] == list(route.when.asked())
    assert all(answer.holds for answer in answers) is holds
    assert bool(routes_for(facts, routes({"when": when, "bundles": "all"}), SITE).runs) is holds


def test_an_answer_says_what_was_wanted_and_found() -> None:
    when = {"modality": {"any_of": ["MR", ""], "none_of": ["PT"]}, "slices": {"min": 9, "max": 12}}
    table = routes({"when": when | {"called_aet": "X"}, "bundles": "all"})
    facts = study(("CT", "HEAD", 3))

    told = {
        a.condition: (a.wanted, a.found) for a in judge(table.routes[0], facts, facts.series[0])
    }

    assert told == {
        "called_aet": ("X", UNKNOWN),
        "modality": ('MR, ""; none of PT', "CT"),
        "slices": ("at least 9, at most 12", "3"),
    }


WORDS = st.sampled_from(["CT", "MR", "*", "C?", "[", "", "HEAD"])


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1), st.lists(WORDS), st.lists(st.sampled_from(["CT", "MR", ""])))
def test_excluding_more_never_lets_more_through(
    any_of: list[str], none_of: list[str], values: list[str]
) -> None:
    loose = Words.model_construct(any_of=tuple(any_of), none_of=())
    tight = Words.model_construct(any_of=tuple(any_of), none_of=tuple(none_of))

    assert not tight.holds(tuple(values)) or loose.holds(tuple(values))


MODALITIES = ("CT", "MR", "PT")
TABLES = st.lists(
    st.fixed_dictionaries(
        {
            "bundles": st.sampled_from([["head"], ["abdomen"], ["head", "abdomen"], "all", "none"]),
            "when": st.fixed_dictionaries(
                {},
                optional={"modality": st.sampled_from(MODALITIES), "calling_aet": st.just("CT1")},
            ),
        }
    ),
    max_size=5,
)


@settings(deadline=None)
@given(TABLES, st.lists(st.sampled_from(MODALITIES), max_size=3), st.sampled_from(["CT1", "CT2"]))
def test_a_plan_is_what_reading_the_file_from_the_top_gives(
    tables: list[dict], modalities: list[str], sender: str
) -> None:
    facts = study(*((modality, "", 1) for modality in modalities), calling_aet=sender)

    expected = set()
    for number, modality in enumerate(modalities, 1):
        for bundle in SITE.bundles:
            for table in tables:
                wants = (
                    table["when"].get("modality", modality),
                    table["when"].get("calling_aet", sender),
                )
                if wants == (modality, sender) and (
                    table["bundles"] in ("all", "none") or bundle in table["bundles"]
                ):
                    if table["bundles"] != "none":
                        expected.add(RoutedPair(bundle, f"1.{number}"))
                    break

    assert set(routes_for(facts, routes(*tables), SITE).pairs()) == expected
