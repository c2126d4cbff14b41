"""The gate with real nets: `hu_threshold` with other borders, on volumes of known labels.

Soft tissue of a patient reaches from a border to 200 HU. A net whose border is that of
the labels has Dice 1, one with a wrong border misses or adds a known share of voxels.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from operators.models.card import Card
from tests.training.making import (
    Drawn,
    add_challenger,
    digest,
    make_dataset,
    threshold_weights,
)
from training.dataset import Manifest, file_sha256
from training.gate import GATE_JSON, GATE_MARKDOWN, GATE_PICTURE, Gated, choose_challenger, gate
from training.holdout import Split
from training.measure import MEASURED
from training.promote import champion_of
from training.refusals import DatasetChanged, NoChallenger
from training.registry import Registry
from training.state import StateDir, read_lines


def patient(
    number: int, split: Split, *, soft_hu: float, bone: bool = True, drawn_by: str = "0" * 64
) -> Drawn:
    """Noise from -100 to 400 HU with labels by threshold, none on a border of the nets."""
    rng = np.random.default_rng(number)
    values = rng.integers(-100, 401, (6, 10, 12))
    values[np.isin(values, (50, 200))] += 1
    labels = np.where(values > 200, 2, np.where(values > soft_hu, 1, 0))
    if not bone:  # nobody contoured it: unlabelled, not absent
        labels[labels == 2] = 0
    return Drawn(f"patient {number}", split, values, labels, drawn_by)


def patients(count: int, *, soft_hu: float) -> list[Drawn]:
    """Hold-out patients; bone is unlabelled in every third."""
    return [
        patient(number, "holdout", soft_hu=soft_hu, bone=number % 3 != 0) for number in range(count)
    ]


def judged(
    registry: Registry, card: Card, manifest: Manifest, tmp_path: Path, **borders: float
) -> Gated:
    """Gate of weights with other borders against the shipped ones."""
    weights = threshold_weights(tmp_path / "challenger.pt", **borders)
    champion = champion_of(card, registry)
    version = add_challenger(registry, card, weights, champion, manifest.sha256)
    return gate(card, manifest, registry, champion=champion, challenger=version)


def dice_of(drawn: list[Drawn], border_hu: float, label_hu: float) -> float:
    """Mean Dice of soft tissue by hand."""
    values = []
    for one in drawn:
        found = (one.values > border_hu) & (one.values <= 200)
        truth = (one.values > label_hu) & (one.values <= 200)
        values.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    return float(np.mean(values))


def test_the_better_net_is_let_through_with_its_numbers(
    registry: Registry, state: StateDir, card: Card, tmp_path: Path
) -> None:
    drawn = patients(12, soft_hu=20.5)
    manifest = make_dataset(state, card, drawn)

    gated = judged(registry, card, manifest, tmp_path, soft_hu=20.5)

    assert gated.decision == "promote", gated.reasons
    soft, bone = gated.content["structures"]
    assert (soft["name"], soft["patients"], soft["challenger"]) == ("soft", 12, 1.0)
    assert soft["champion"] == pytest.approx(dice_of(drawn, 50, 20.5), abs=1e-5)
    assert (bone["patients"], bone["champion"], bone["challenger"]) == (8, 1.0, 1.0)
    gain = 1 - dice_of(drawn, 50, 20.5)
    assert 0.4 * gain < gated.content["mean_difference"] < gain
    assert gated.content["patients"] == 12
    text = (gated.folder / GATE_MARKDOWN).read_text()
    assert "# Gate: hu_threshold, version 2 against 1: promote" in text
    assert "No label was drawn by either of the two." in text
    assert (gated.folder / GATE_PICTURE).read_bytes().startswith(b"\x89PNG")
    note = registry.version(card.name, 2).gate
    assert note == f"{gated.folder.name} {file_sha256(gated.folder / GATE_JSON)} promote"


def test_the_sabotaged_net_is_refused(
    registry: Registry, state: StateDir, card: Card, tmp_path: Path
) -> None:
    drawn = patients(12, soft_hu=50.0)
    manifest = make_dataset(state, card, drawn)

    gated = judged(registry, card, manifest, tmp_path, soft_hu=150.5)

    assert gated.decision == "refused"
    worse = dice_of(drawn, 150.5, 50)
    assert f"soft falls by {1 - worse:.3f} from 1.000 to {worse:.3f} (limit 0.01)" in gated.reasons


def test_nine_patients_are_undecided(
    registry: Registry, state: StateDir, card: Card, tmp_path: Path
) -> None:
    manifest = make_dataset(
        state, card, [*patients(9, soft_hu=20.5), patient(99, "train", soft_hu=20.5)]
    )

    gated = judged(registry, card, manifest, tmp_path, soft_hu=20.5)

    assert gated.decision == "undecided"
    assert gated.reasons[0] == "9 hold-out patients (at least 10 are needed)"


def test_the_champions_own_labels_let_nothing_through(
    registry: Registry, state: StateDir, card: Card, tmp_path: Path
) -> None:
    """Confirmed unchanged, the champion has Dice 1: the report says whose labels they are."""
    drawn = [
        patient(number, "holdout", soft_hu=50.0, drawn_by=card.weights_sha256)
        for number in range(10)
    ]
    manifest = make_dataset(state, card, drawn)

    gated = judged(registry, card, manifest, tmp_path, soft_hu=49.5)

    assert gated.decision == "refused"
    assert gated.content["labels_by_champion"] == 10
    assert (
        "10 of 10 labels were drawn by the champion itself"
        in (gated.folder / GATE_MARKDOWN).read_text()
    )


def test_the_gate_says_the_same_again(
    registry: Registry, state: StateDir, card: Card, tmp_path: Path
) -> None:
    manifest = make_dataset(state, card, patients(10, soft_hu=20.5))
    gated = judged(registry, card, manifest, tmp_path, soft_hu=30.5)
    before = {file.name: file.read_bytes() for file in gated.folder.iterdir()}
    shutil.rmtree(gated.folder)
    (state.gates / MEASURED).unlink()

    versions = registry.versions(card.name)
    again = gate(card, manifest, registry, champion=versions[0], challenger=versions[1])

    assert {file.name: file.read_bytes() for file in again.folder.iterdir()} == before
    assert sorted(before) == [GATE_JSON, GATE_MARKDOWN, GATE_PICTURE]


def test_a_value_is_measured_once_and_only_for_what_it_follows_from(
    registry: Registry, state: StateDir, card: Card, tmp_path: Path
) -> None:
    """The champion meets ten patients twice; the second challenger costs ten inferences."""
    measured = state.gates / MEASURED
    manifest = make_dataset(state, card, patients(10, soft_hu=20.5))
    first = judged(registry, card, manifest, tmp_path, soft_hu=30.5)
    assert len(read_lines(measured)) == 20
    second = judged(registry, card, manifest, tmp_path, soft_hu=20.5)
    assert len(read_lines(measured)) == 30
    assert [s["champion"] for s in first.content["structures"]] == [
        s["champion"] for s in second.content["structures"]
    ]

    other = make_dataset(state, card, patients(10, soft_hu=40.5))
    third = judged(registry, card, other, tmp_path, soft_hu=20.5)

    assert len(read_lines(measured)) == 50
    assert third.content["structures"][0]["challenger"] == pytest.approx(
        dice_of(patients(10, soft_hu=40.5), 20.5, 40.5), abs=1e-5
    )


def test_weights_that_do_not_load_are_refused(
    registry: Registry, state: StateDir, card: Card, tmp_path: Path
) -> None:
    import torch

    manifest = make_dataset(state, card, patients(10, soft_hu=20.5))
    champion = champion_of(card, registry)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "odd.pt")
    odd = add_challenger(registry, card, tmp_path / "odd.pt", champion, manifest.sha256)

    gated = gate(card, manifest, registry, champion=champion, challenger=odd)

    assert gated.decision == "refused"
    assert gated.reasons[0].startswith("RL-0405: bundle 'hu_threshold': weights do not load")
    assert json.loads((gated.folder / GATE_JSON).read_text())["structures"] == []


def test_changed_weights_are_refused(
    registry: Registry, state: StateDir, card: Card, tmp_path: Path
) -> None:
    manifest = make_dataset(state, card, patients(10, soft_hu=20.5))
    champion = champion_of(card, registry)
    weights = threshold_weights(tmp_path / "w.pt", soft_hu=20.5)
    version = add_challenger(registry, card, weights, champion, manifest.sha256)
    kept = registry.weights(version).file
    kept.chmod(0o644)
    threshold_weights(kept, soft_hu=21.5)

    gated = gate(card, manifest, registry, champion=champion, challenger=version)

    assert gated.decision == "refused"
    assert gated.reasons[0].startswith("RL-1303")


def test_a_changed_hold_out_judges_nobody(
    registry: Registry, state: StateDir, card: Card, tmp_path: Path
) -> None:
    manifest = make_dataset(state, card, patients(10, soft_hu=20.5))
    label = manifest.folder / manifest.of("holdout")[3].label
    label.write_bytes(b"")

    with pytest.raises(DatasetChanged, match=label.name):
        judged(registry, card, manifest, tmp_path, soft_hu=20.5)
    assert not any(state.gates.glob("*-*"))


def test_the_champion_is_no_challenger(registry: Registry, state: StateDir, card: Card) -> None:
    manifest = make_dataset(state, card, patients(10, soft_hu=20.5))
    shipped = champion_of(card, registry)

    with pytest.raises(NoChallenger, match="version 1 is the champion itself"):
        gate(card, manifest, registry, champion=shipped, challenger=shipped)
    with pytest.raises(NoChallenger, match="nothing is newer than the champion, version 1"):
        choose_challenger(registry.versions(card.name), shipped, card.name)


def test_the_same_weights_are_one_version(registry: Registry, card: Card, tmp_path: Path) -> None:
    shipped = registry.shipped(card)
    weights = threshold_weights(tmp_path / "w.pt", soft_hu=20.5)

    first = add_challenger(registry, card, weights, shipped, digest("set"))
    second = add_challenger(registry, card, weights, shipped, digest("set"))

    assert first == second and first.number == 2
    assert registry.shipped(card) == shipped
    assert [version.origin for version in registry.versions(card.name)] == ["shipped", "trained"]
