"""What was taken back is found in every version that it went into, by its parents too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from operators.models.card import load_card
from tests.training.making import TEST_BUNDLES, add_challenger, make_dataset, threshold_weights
from tests.training.test_gate import patients
from training.registry import Registry
from training.state import StateDir
from training.taken_back import learned_from


def test_versions_that_learned_from_it_and_their_children_are_named(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.root.mkdir()
    card = load_card(TEST_BUNDLES / "hu_threshold")
    registry = Registry(state)
    shipped = registry.shipped(card)
    drawn = [
        replace(one, split="holdout" if number == 5 else "train")
        for number, one in enumerate(patients(6, soft_hu=20.5))
    ]
    manifest = make_dataset(state, card, drawn)  # case k is of study 1.2.k
    parent = shipped
    for number, dataset in ((2, manifest.sha256), (3, "0" * 64)):
        file = threshold_weights(tmp_path / f"{number}.pt", soft_hu=10.5 * number)
        parent = add_challenger(registry, card, file, parent, dataset)
    second, third = registry.versions(card.name)[1:]

    def counts(*studies: str) -> list[int | None]:
        found = learned_from([shipped, second, third], state, studies)
        return [found[version.number] for version in (shipped, second, third)]

    assert counts("1.2.0", "1.2.1") == [0, 2, None]  # the third's own data set is gone
    assert counts("1.2.5") == [0, 0, None]  # held out: nothing learned from it
    assert counts("1.3.9") == [0, 0, None]
    assert counts() == [0, 0, 0]
    third = replace(third, dataset=None)
    assert counts("1.2.0") == [0, 1, 1]  # by its parent
