"""`radloop run` as its user meets it: exit codes, tables, JSON, second run, wrong folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.series import Ball, centred_grid, render, write_ct_series

TEST_BUNDLES = Path(__file__).parent.parent / "bundles"
SHAPE_ZYX = (20, 48, 40)


def radloop(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The installed command's entry point, with the test bundle beside the shipped ones."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "RADLOOP_BUNDLES": str(TEST_BUNDLES), "COLUMNS": "160"},
        check=False,
    )


@pytest.fixture
def phantom(tmp_path) -> Path:
    """A small CT with one soft ball; too few slices for the head-and-neck bundle."""
    affine = centred_grid(SHAPE_ZYX, (2.5, 1.0, 1.0))
    array = render([Ball((0, 0, 0), 12.0, 120)], SHAPE_ZYX, affine)
    write_ct_series(tmp_path / "in", array, affine, body_part="PHANTOM")
    return tmp_path / "in"


def test_a_study_becomes_seg_sr_and_a_table(phantom, tmp_path):
    out = tmp_path / "out"
    done = radloop("run", phantom, "-o", out)

    assert done.returncode == 0, done.stderr
    assert "Soft ball" in done.stdout and "7.2" in done.stdout  # 4/3 pi 12^3 = 7.24 mL
    assert "NOT_ASSESSED" in done.stdout
    result = json.loads((out / "result.json").read_text())
    kinds = [item["kind"] for item in result["results"][0]["evidence"]]
    assert kinds == ["SEG", "SR"]
    assert all(Path(item["path"]).is_file() for item in result["results"][0]["evidence"])

    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = radloop("run", phantom, "-o", out, "--json")

    assert again.returncode == 0
    assert json.loads(again.stdout) == result
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_study_that_no_bundle_wants_says_why(tmp_path):
    affine = centred_grid(SHAPE_ZYX, (2.5, 1.0, 1.0))
    array = render([], SHAPE_ZYX, affine)
    write_ct_series(tmp_path / "in", array, affine, body_part="ABDOMEN")

    done = radloop("run", tmp_path / "in", "-o", tmp_path / "out")

    assert done.returncode == 3
    assert "ABDOMEN" in done.stdout
    assert not list((tmp_path / "out").glob("*.dcm"))


def test_a_refusal_has_its_own_exit_code_and_no_traceback(phantom, tmp_path):
    (phantom / "broken.dcm").write_bytes(b"")

    done = radloop("run", phantom, "-o", tmp_path / "out")

    assert done.returncode == 4
    assert "broken.dcm" in done.stdout and "RL-01" in done.stdout
    assert "Soft ball" in done.stdout  # the rest goes on
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("make", [False, True])
def test_a_missing_or_empty_folder_is_named(tmp_path, make):
    folder = tmp_path / "nothing"
    if make:
        folder.mkdir()

    done = radloop("run", folder, "-o", tmp_path / "out")

    assert done.returncode == 2
    assert str(folder) in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_bundle_is_answered_with_those_there_are(phantom, tmp_path):
    done = radloop("run", phantom, "-o", tmp_path / "out", "--bundle", "no_such")

    assert done.returncode == 1
    assert "no_such" in done.stderr and "hu_threshold" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_map_entry_point_does_the_same(phantom, tmp_path):
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "app"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "HOLOSCAN_INPUT_PATH": str(phantom),
            "HOLOSCAN_OUTPUT_PATH": str(out),
            "HOLOSCAN_MODEL_PATH": str(TEST_BUNDLES),
        },
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["bundle"] == "hu_threshold"
    assert len(list(out.glob("*.dcm"))) == 2
