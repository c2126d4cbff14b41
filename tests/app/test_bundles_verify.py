"""Trials of bundles: one that hangs, grows or dies is told of, and stops no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.bundles.verify import (
    Limits,
    NoSuchBundle,
    NoZoo,
    as_markdown,
    run_trial,
    verify,
    zoo_bundles,
)
from operators.models.outline_card import outline_card
from tests import shapes
from tests.zoo import spleen_config, write_bundle

AMPLE = Limits(seconds=500, memory_mb=8000)


def published(folder: Path) -> Path:
    """The bundle as a checkout of a zoo has it: no card, no weights."""
    (folder / "card.yaml").unlink()
    for file in (folder / "models").glob("*"):
        file.unlink()
    return folder


def test_a_bundle_without_card_and_weights_is_made_from_its_config_and_runs(tmp_path):
    folder = published(write_bundle(tmp_path / "models" / "spleen", spleen_config()))
    before = sorted(tmp_path.rglob("*"))

    trial = run_trial(folder, AMPLE)

    assert (trial.outcome, trial.version) == ("ran", "0.0.1"), trial.detail
    assert trial.shape == "volume → labels"
    assert trial.detail.endswith("of 1 segments on the source grid")
    assert sorted(tmp_path.rglob("*")) == before  # a checkout is read only


def test_an_installed_bundle_runs_with_its_own_weights(tmp_path):
    trial = run_trial(shapes.planes(tmp_path / "planes"), AMPLE)

    assert (trial.outcome, trial.shape) == ("ran", "volume → planes"), trial.detail
    assert trial.detail == "3 of 3 segments on the source grid"


def test_one_that_hangs_or_grows_is_stopped_and_the_next_one_runs(tmp_path):
    hangs = shapes.detector(tmp_path / "models" / "hangs")
    (hangs / "scripts" / "__init__.py").write_text("import time\ntime.sleep(600)\n")

    slow = run_trial(hangs, Limits(seconds=1.0))
    large = run_trial(hangs, Limits(memory_mb=1.0))

    assert (slow.outcome, slow.detail) == ("not here", "not done after 1 s")
    assert large.outcome == "not here" and large.detail.startswith("more than 1 MB")


def test_one_that_dies_says_so_in_one_line_and_a_missing_package_is_named(tmp_path):
    dies = shapes.detector(tmp_path / "dies")
    (dies / "scripts" / "__init__.py").write_text("import os\nos._exit(3)\n")
    lacks = shapes.detector(tmp_path / "lacks")
    (lacks / "scripts" / "__init__.py").write_text("import no_such_package_of_anyone\n")

    died, lacking = verify([dies, lacks], AMPLE)

    assert died.outcome == "failed" and "\n" not in died.detail
    assert lacking.outcome == "not here" and "'no_such_package_of_anyone'" in lacking.detail


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path):
    folder = tmp_path / "models" / "one"
    kept = tmp_path / "kept"
    entry = {"bundle": "one", "version": "1", "outcome": "ran", "shape": "", "detail": "x"}
    kept.write_text(json.dumps({**entry, "seconds": 2.0}) + "\n")
    seen: list[tuple[int, int]] = []

    (trial,) = verify([folder], AMPLE, lambda *count: seen.append(count), kept)

    assert trial.detail == "x" and seen == [(0, 1), (1, 1)]
    assert "1 of 1 ran" in as_markdown([trial], "abc") and "`abc`" in as_markdown([trial], "abc")


def test_a_folder_that_is_no_zoo_and_a_bundle_that_is_not_in_it_are_refused(tmp_path):
    with pytest.raises(NoZoo, match="holds no models/NAME/configs"):
        zoo_bundles(tmp_path)
    write_bundle(tmp_path / "models" / "spleen", spleen_config())
    assert [folder.name for folder in zoo_bundles(tmp_path)] == ["spleen"]
    with pytest.raises(NoSuchBundle, match=f"{tmp_path} is called 'liver'; there are: spleen"):
        zoo_bundles(tmp_path, "liver")


@pytest.mark.parametrize(
    ("inputs", "outputs", "why"),
    [
        ({"type": "noise"}, {"type": "feature"}, "makes images"),
        ({}, {"format": "points"}, "landmarks"),
        (
            {"channel_def": {"0": "moving", "1": "fixed"}},
            {"type": "image", "format": "magnitude"},
            "registers two images",
        ),
    ],
)
def test_what_is_no_analysis_is_told_from_its_metadata(tmp_path, inputs, outputs, why):
    folder = write_bundle(tmp_path / "b", spleen_config())
    file = folder / "configs" / "metadata.json"
    metadata = json.loads(file.read_text())
    metadata["network_data_format"] = {"inputs": {"image": inputs}, "outputs": {"pred": outputs}}
    file.write_text(json.dumps(metadata))

    assert why in outline_card(folder, spleen_config())["run"]["unfit"]


def test_a_bundle_of_the_zoo_runs(zoo_dir):
    """One small network of the real zoo; `radloop bundles verify --zoo` tries all."""
    (folder,) = zoo_bundles(zoo_dir, "ventricular_short_axis_3label")

    trial = run_trial(folder, AMPLE)

    assert trial.outcome == "ran", trial.detail
