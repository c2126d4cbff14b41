"""The running graph takes other weights between two studies, and only there.

Weights are `hu_threshold`'s with another lower border of soft tissue, so that what the
next result must hold is a formula too.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from app.graph import analyse
from operators.job import StudyJob
from operators.models.card import Card, load_card
from operators.models.champion import Weights, weights_of, write_champion
from operators.models.operator import segment_all
from operators.models.warm import WarmModels
from tests.series import Ball, centred_grid, render, write_ct_series
from tests.training.making import TEST_BUNDLES, threshold_weights

BALL = Ball((0.0, 0.0, 0.0), 20.0, 120)  # soft for the shipped border of 50 HU
SHAPE_ZYX = (30, 50, 48)
NAME = "hu_threshold"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    affine = centred_grid(SHAPE_ZYX, (2.0, 1.0, 1.0))
    write_ct_series(folder, render([BALL], SHAPE_ZYX, affine), affine, body_part="PHANTOM")
    return folder


@pytest.fixture
def card() -> Card:
    return load_card(TEST_BUNDLES / NAME)


@pytest.fixture
def models(card: Card, tmp_path: Path) -> WarmModels:
    return WarmModels({NAME: card}, tmp_path / "champions")


def kept(state: Path, number: int, soft_hu: float) -> Weights:
    """Weights as the registry keeps them."""
    (state / "models").mkdir(exist_ok=True)
    file = threshold_weights(state / "new.pt", soft_hu=soft_hu)
    weights = weights_of(state, hashlib.sha256(file.read_bytes()).hexdigest(), number)
    file.rename(weights.file)
    return weights


def run(study: Path, models: WarmModels, out: Path) -> StudyJob:
    return analyse(study, out, "20260101120000", models=models)


def named_by_sr(job: StudyJob) -> set[tuple[str, str]]:
    """(version, weights sha256) of every algorithm identification (TID 4019) in the SR."""
    (sr,) = (item.path for item in job.evidence if item.kind == "SR")
    found = set()

    def visit(item: Dataset) -> None:
        children = item.get("ContentSequence", ())
        texts = {
            child.ConceptNameCodeSequence[0].CodeMeaning: str(child.TextValue)
            for child in children
            if child.get("TextValue") and "ConceptNameCodeSequence" in child
        }
        if "Algorithm Version" in texts:
            parameters = [
                str(child.TextValue)
                for child in children
                if str(child.get("TextValue", "")).startswith("weights_sha256=")
            ]
            found.add((texts["Algorithm Version"], parameters[0].split("=")[1]))
        for child in children:
            visit(child)

    visit(dcmread(sr))
    return found


def test_the_next_study_names_and_uses_the_new_weights(
    study: Path, models: WarmModels, card: Card, tmp_path: Path
) -> None:
    first = run(study, models, tmp_path / "1")
    assert named_by_sr(first) == {("1.0.0", card.weights_sha256)}
    assert models.get(NAME) is models.get(NAME), "the same weights were loaded twice"

    new = kept(tmp_path, 2, soft_hu=150.5)  # now the ball is background
    write_champion(tmp_path / "champions", NAME, new)
    second = run(study, models, tmp_path / "2")
    newest = kept(tmp_path, 3, soft_hu=110.5)
    write_champion(tmp_path / "champions", NAME, newest)
    third = run(study, models, tmp_path / "3")

    assert not second.segmentations[0].labels.any()
    assert second.segmentations[0].model.weights_sha256 == new.sha256
    assert named_by_sr(third) == {("1.0.0+mlflow.3", newest.sha256)}
    assert np.array_equal(third.segmentations[0].labels, first.segmentations[0].labels)
    uids = {item.sop_instance_uid for job in (first, third) for item in job.evidence}
    assert len(uids) == 4, "other weights, the same UIDs"


def test_one_study_has_one_set_of_weights(
    study: Path, models: WarmModels, card: Card, tmp_path: Path
) -> None:
    """Another champion comes while a study with two volumes is in work."""
    new = kept(tmp_path, 2, soft_hu=150.5)

    class Overtaken(WarmModels):
        def get(self, name: str):
            loaded = super().get(name)
            write_champion(tmp_path / "champions", name, new)
            return loaded

    job = run(study, models, tmp_path / "out")
    (volume,) = job.volumes
    two = replace(job, volumes=(volume, replace(volume, part="acquisition 2")))

    done = segment_all(two, Overtaken({NAME: card}, tmp_path / "champions"))

    assert [s.model.weights_sha256 for s in done.segmentations] == [card.weights_sha256] * 2


def test_what_cannot_be_trusted_is_refused_and_never_replaced(
    study: Path, models: WarmModels, tmp_path: Path
) -> None:
    champions = tmp_path / "champions"
    assert run(study, models, tmp_path / "1").evidence
    new = kept(tmp_path, 2, soft_hu=60.5)
    write_champion(champions, NAME, new)

    def refused(number: str) -> str:
        job = run(study, models, tmp_path / number)
        assert not job.evidence and not job.segmentations
        ((_, reason),) = ((entry.what, entry.reason) for entry in job.refused)
        return reason[:7]

    whole = new.file.read_bytes()
    new.file.write_bytes(whole[:-1])
    assert refused("2") == "RL-1303"
    new.file.unlink()
    assert refused("3") == "RL-1302"
    (champions / f"{NAME}.json").write_text("{}")
    assert refused("4") == "RL-1301"

    new.file.write_bytes(whole)
    write_champion(champions, NAME, new)
    assert run(study, models, tmp_path / "5").segmentations[0].model.version == "1.0.0+mlflow.2"
