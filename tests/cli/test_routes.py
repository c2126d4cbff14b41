"""`radloop routes` as an administrator meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.series import centred_grid, write_ct_series

SHAPE = (45, 8, 9)
FILE = """\
version: 1
routes:
  - id: research
    when: {calling_aet: "RESEARCH*"}
    bundles: none
  - id: stat-head-ct
    when:
      calling_aet: CT_ER
      modality: CT
      series_description: "*phantom*"
      slices: {min: 60}
    bundles: [head_neck_oar_ct]
    quiet_seconds: 2
    priority: stat
    deliver: [folder]
  - id: head-ct
    when: {body_part: "*HEAD*"}
    bundles: [head_neck_oar_ct]
    deliver: [folder]
"""
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def radloop(tmp_path: Path) -> Call:
    (tmp_path / "routes.yaml").write_text(FILE)

    def call(*arguments: str | Path, **settings: object) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RADLOOP_")}
        own = {"routes": tmp_path / "routes.yaml", "deliver_to_folder": tmp_path / "to"} | settings
        environment |= {f"RADLOOP_{k.upper()}": str(v) for k, v in own.items() if v is not None}
        return subprocess.run(
            [sys.executable, "-m", "app.cli.main", "routes", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )

    return call


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    grid = centred_grid(SHAPE, (2.5, 0.8, 1.1))
    for series, body_part in (("a", "HEADNECK"), ("b", "FOOT")):
        array = np.zeros(SHAPE, np.int16)
        write_ct_series(
            folder / series, array, grid, series=series, body_part=body_part, patient_id="SECRET-1"
        )
    (folder / "note.txt").write_text("no DICOM")
    return folder


def test_explain_says_for_every_series_and_route_what_matched_and_what_failed(
    radloop: Call, study: Path
) -> None:
    done = radloop("explain", study, "--calling-aet", "CT_ER", "--json")

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (explained,) = told["studies"]
    by_part = {}
    for series in explained["series"]:
        routes = {route["id"]: route for route in series["routes"]}
        (head_ct,) = (a for a in routes["head-ct"]["answers"])
        by_part[head_ct["found"]] = (routes, series["ends"][0])
    routes, end = by_part["HEADNECK"]
    assert [(r["id"], r["line"]) for r in routes.values()] == [
        ("research", 3),
        ("stat-head-ct", 6),
        ("head-ct", 16),
    ]
    stat = {
        a["condition"]: (a["holds"], a["wanted"], a["found"])
        for a in routes["stat-head-ct"]["answers"]
    }
    assert stat == {
        "calling_aet": (True, "CT_ER", "CT_ER"),
        "modality": (True, "CT", "CT"),
        "series_description": (True, "*phantom*", "Phantom series"),
        "slices": (False, "at least 60", "45"),
    }
    assert routes["head-ct"]["outcome"] == "decides"
    assert (end["runs"], end["says"]) == (True, "runs, by route head-ct")
    foot = by_part["FOOT"]
    assert foot[0]["head-ct"]["outcome"] == "no"
    assert (foot[1]["runs"], foot[1]["says"]) == (False, "no route sends it there")
    assert explained["plan"]["destinations"] == ["folder"]
    assert [entry["what"] for entry in told["refused"]] == ["note.txt"]
    assert "SECRET" not in done.stdout and "Analytic" not in done.stdout


def test_explain_for_people_has_the_same_and_no_patient(radloop: Call, study: Path) -> None:
    done = radloop("explain", study, "--calling-aet", "CT_ER")

    assert done.returncode == 0, done.stderr
    assert "route stat-head-ct (line 6): no" in done.stdout
    assert "failed  slices: at least 60 found 45" in done.stdout
    assert "plan: routine; complete after 5 quiet seconds; deliver to folder" in done.stdout
    assert "SECRET" not in done.stdout and "Phantom^Analytic" not in done.stdout


def test_explain_ends_with_3_where_nothing_would_run(radloop: Call, study: Path) -> None:
    routed_away = radloop("explain", study, "--calling-aet", "RESEARCH2")
    assert routed_away.returncode == 3
    assert "route research sends it nowhere" in routed_away.stdout
    assert "plan: no route wants this study" in routed_away.stdout

    by_cards = radloop("explain", study / "b", routes=None)
    assert by_cards.returncode == 3
    assert "route everything sends it, but its card says: body part 'FOOT'" in by_cards.stdout


@pytest.mark.parametrize(
    "arguments", [["explain", "nowhere"], ["explain", ".", "--source", "fax"], ["explain"]]
)
def test_wrong_usage_is_2(radloop: Call, tmp_path: Path, arguments: list[str]) -> None:
    done = radloop(*(tmp_path if word == "." else word for word in arguments))

    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_check_accepts_a_good_file_and_lists_it(radloop: Call) -> None:
    done = radloop("check")

    assert done.returncode == 0, done.stderr
    assert "stat-head-ct: head_neck_oar_ct; stat; after 2 s; to folder" in done.stdout
    assert json.loads(radloop("check", "--json").stdout)["usable"] is True


def test_check_tells_every_mistake_with_its_line(radloop: Call, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        FILE.replace("slices", "slises").replace("deliver: [folder]", "deliver: [cstore]")
    )

    done = radloop("check", bad)
    assert done.returncode == 1 and done.stdout == ""
    assert f"{bad}:11: routes[2].when: there is no slises (did you mean slices?)" in done.stderr
    assert f"{bad}:19: route head-ct: destination cstore is not configured" in done.stderr

    as_json = radloop("check", bad, "--json")
    assert as_json.returncode == 1
    assert [problem["line"] for problem in json.loads(as_json.stdout)["problems"]] == [11, 19]


def test_a_file_that_is_not_there_is_one_sentence(radloop: Call, study: Path) -> None:
    for command in (["check"], ["explain", study]):
        done = radloop(*command, routes="nowhere.yaml")
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith("RL-0651: ") and len(done.stderr.splitlines()) == 1
