"""`radloop bundles` as its user meets it, and an imported bundle in `radloop run`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.series import centred_grid, write_ct_series
from tests.zoo import smooth_noise, spleen_config, write_bundle

SHIPPED = Path(__file__).parent.parent.parent / "bundles"


@pytest.fixture
def radloop(tmp_path):
    """The installed command's entry point, with a state folder of its own."""

    def call(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RADLOOP_")}
        environment |= {"RADLOOP_STATE_DIR": str(tmp_path / "state"), "COLUMNS": "180"} | more
        return subprocess.run(
            [sys.executable, "-m", "app.cli.main", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )

    return call


def test_an_imported_bundle_is_listed_shown_and_runs(radloop, tmp_path):
    folder = write_bundle(tmp_path / "random_spleen", spleen_config())
    archive = tmp_path / "random_spleen_v0.0.1.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for file in sorted(folder.rglob("*")):
            target.write(file, f"random_spleen/{file.relative_to(folder)}")

    done = radloop("bundles", "import", archive, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["name"], said["outcome"]) == ("random_spleen", "installed")
    assert Path(said["folder"]) == tmp_path / "state" / "bundles" / "random_spleen"

    listed = {row["bundle"]: row for row in json.loads(radloop("bundles", "list", "--json").stdout)}
    assert listed["random_spleen"]["state"] == "unverified"
    assert listed["random_spleen"]["weights_sha256"] == said["weights_sha256"]
    assert listed["spleen_ct_segmentation"]["state"] == "not installed"
    shown = radloop("bundles", "show", "random_spleen")
    assert shown.returncode == 0 and said["weights_sha256"] in shown.stdout

    affine = centred_grid((16, 30, 30), (2.7, 1.5, 1.5))
    noise = (smooth_noise((16, 30, 30), seed=2) * 400 - 150).astype(np.int16)
    write_ct_series(tmp_path / "in", noise, affine, body_part="PHANTOM")
    ran = radloop("run", tmp_path / "in", "-o", tmp_path / "out", "--json")
    assert ran.returncode == 0, ran.stderr
    (result,) = json.loads(ran.stdout)["results"]
    assert result["bundle"] == "random_spleen"
    assert result["weights_sha256"] == said["weights_sha256"]


def test_a_zoo_card_is_shown_with_what_its_publisher_says(radloop):
    shown = radloop("bundles", "show", "wholeBody_ct_segmentation")

    assert shown.returncode == 0, shown.stderr
    assert "not installed" in shown.stdout
    assert "md5 aded45dea52f9c00b37922bcd0a98502" in shown.stdout
    assert "Left seventh rib" in shown.stdout and "SCT 24915002" in shown.stdout
    said = json.loads(radloop("bundles", "show", "wholeBody_ct_segmentation", "--json").stdout)
    assert (said["hash_state"], said["runs_here"], len(said["labels"])) == ("unpinned", True, 104)
    assert said["published"][0]["path"] == "wholeBody_ct_segmentation_v0.2.5.zip"


@pytest.mark.parametrize("columns", [80, 100])
def test_the_list_fits_and_says_who_can_not_run_and_why(radloop, columns):
    listed = radloop("bundles", "list", COLUMNS=str(columns))

    assert listed.returncode == 0, listed.stderr
    lines = listed.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    rows = {row["bundle"]: row for row in json.loads(radloop("bundles", "list", "--json").stdout)}
    assert len(rows) >= 26
    for name, row in rows.items():
        begins = [name, row["version"]] if columns == 100 else [name]
        table = lines[: len(rows) + 1]  # with its heading
        (line,) = [line for line in table if line.split()[: len(begins)] == begins]
        assert row["commercial_use"] in line.split() and "…" not in line.split()[0]
        state = row["state"] if row["runs_here"] else "can't run here"
        assert line.rstrip().endswith(f" {state}")
    clicks = rows["pathology_nuclick_annotation"]
    assert clicks["runs_here"] is False and "clicks" in clicks["why_not"]
    said = " ".join(listed.stdout.split())
    assert f"pathology_nuclick_annotation can't run here. {clicks['why_not']}" in said


def test_list_show_and_json_say_alike_that_weights_are_not_here(radloop, tmp_path):
    (tmp_path / "more").mkdir()
    lacking = tmp_path / "more" / "lacking"
    shutil.copytree(SHIPPED / "medsam_lite", lacking, ignore=shutil.ignore_patterns("models"))
    where = {"RADLOOP_BUNDLES": str(tmp_path / "more")}

    listed = radloop("bundles", "list", **where)
    as_json = radloop("bundles", "list", "--json", **where)
    rows = {row["bundle"]: row for row in json.loads(as_json.stdout)}
    shown = radloop("bundles", "show", "lacking", **where)

    said = "weights not here: `radloop bundles fetch lacking`"
    assert (listed.returncode, shown.returncode, shown.stderr) == (0, 0, "")
    assert f"lacking: {said}" in listed.stdout and f"State: {said}" in shown.stdout
    assert "lite_medsam.pth, not here, sha256 must be 79d8c9dca6db" in shown.stdout
    row = rows["lacking"]
    assert f"{row['state']}: {row['brought_by']}" == said


def test_a_refused_import_is_one_sentence(radloop, tmp_path):
    done = radloop("bundles", "import", tmp_path / "nowhere.zip")

    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("RL-1111: ") and len(done.stderr.splitlines()) == 1
