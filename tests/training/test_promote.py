"""Which weights serve: only what the gate let through, one step at a time, mended after a crash."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from operators.models.card import Card, load_card
from operators.models.champion import (
    ChampionWeightsChanged,
    ChampionWeightsMissing,
    read_champion,
    write_champion,
)
from tests.training.making import add_challenger, make_dataset, threshold_weights
from tests.training.test_gate import patient, patients
from training.dataset import Manifest, file_sha256
from training.gate import GATE_JSON, gate, read_gated
from training.promote import (
    Override,
    champion_of,
    history_file,
    promote,
    repair,
    rollback,
)
from training.refusals import (
    GateChanged,
    GateSaysNo,
    NotGated,
    NothingBefore,
    StateDamaged,
    VersionUnknown,
)
from training.registry import Registry, Version
from training.state import StateDir, read_lines

ROOT = Path(__file__).parents[2]


@pytest.fixture
def manifest(state: StateDir, card: Card) -> Manifest:
    """Ten hold-out patients whose soft tissue reaches from 20.5 to 200 HU."""
    return make_dataset(state, card, patients(10, soft_hu=20.5))


def challenger(
    registry: Registry, card: Card, manifest: Manifest, tmp_path: Path, soft_hu: float
) -> Version:
    """Weights with another lower border, registered and gated."""
    weights = threshold_weights(tmp_path / f"{soft_hu}.pt", soft_hu=soft_hu)
    champion = champion_of(card, registry)
    version = add_challenger(registry, card, weights, champion, manifest.sha256)
    gate(card, manifest, registry, champion=champion, challenger=version)
    return registry.version(card.name, version.number)


def served(state: StateDir, card: Card) -> str | None:
    weights = read_champion(state.champions, card.name)
    return weights.sha256 if weights else None


def test_promotion_and_rollback_go_step_by_step(
    registry: Registry, state: StateDir, card: Card, manifest: Manifest, tmp_path: Path
) -> None:
    second = challenger(registry, card, manifest, tmp_path, 35.5)
    assert served(state, card) is None and registry.alias(card.name) == 1
    promote(card, registry, second)
    third = challenger(registry, card, manifest, tmp_path, 21.5)
    promote(card, registry, third)
    assert served(state, card) == third.sha256 and registry.alias(card.name) == third.number

    assert rollback(card, registry).after.number == second.number
    assert served(state, card) == second.sha256
    assert rollback(card, registry).after.number == 1
    assert served(state, card) == card.weights_sha256 and registry.alias(card.name) == 1
    with pytest.raises(NothingBefore, match="nothing before version 1"):
        rollback(card, registry)

    actions = [entry["action"] for entry in read_lines(history_file(state, card.name))]
    assert actions == ["promote", "promote", "rollback", "rollback"]
    # What was gated against the shipped weights may come back without a new comparison.
    assert promote(card, registry, second).after.number == second.number


def test_promoting_twice_is_promoting_once(
    registry: Registry, state: StateDir, card: Card, manifest: Manifest, tmp_path: Path
) -> None:
    second = challenger(registry, card, manifest, tmp_path, 21.5)

    assert promote(card, registry, second).before.number == 1
    again = promote(card, registry, second)

    assert again.before == again.after
    assert len(read_lines(history_file(state, card.name))) == 1


def test_what_was_not_compared_with_this_champion_is_refused(
    registry: Registry, state: StateDir, card: Card, manifest: Manifest, tmp_path: Path
) -> None:
    second = challenger(registry, card, manifest, tmp_path, 35.5)
    third = challenger(registry, card, manifest, tmp_path, 21.5)
    weights = threshold_weights(tmp_path / "raw.pt", soft_hu=22.5)
    raw = add_challenger(registry, card, weights, second, manifest.sha256)
    with pytest.raises(NotGated):
        promote(card, registry, raw)

    promote(card, registry, second)

    with pytest.raises(NotGated, match="was not compared with the champion, version 2"):
        promote(card, registry, third)
    assert served(state, card) == second.sha256
    with pytest.raises(VersionUnknown, match="no version 9; there are: 1, 2, 3, 4"):
        registry.version(card.name, 9)


def test_a_refusal_cannot_be_overridden(
    registry: Registry, state: StateDir, card: Card, manifest: Manifest, tmp_path: Path
) -> None:
    worse = challenger(registry, card, manifest, tmp_path, 150.5)

    with pytest.raises(GateSaysNo, match="can't be overridden"):
        promote(card, registry, worse, Override("I like it", "dr_a"))
    assert served(state, card) is None and registry.alias(card.name) == 1


def test_undecided_needs_a_person_who_says_why(
    registry: Registry, state: StateDir, card: Card, tmp_path: Path
) -> None:
    few = make_dataset(state, card, patients(9, soft_hu=20.5))
    second = challenger(registry, card, few, tmp_path, 21.5)

    with pytest.raises(GateSaysNo, match="9 hold-out patients") as refusal:
        promote(card, registry, second)
    assert "--override REASON --as READER" in str(refusal.value)

    promote(card, registry, second, Override("all nine were looked at", "dr_a"))

    (entry,) = read_lines(history_file(state, card.name))
    assert entry["override"] == {"because": "all nine were looked at", "reader": "dr_a"}
    assert entry["gate"]["decision"] == "undecided"
    assert served(state, card) == second.sha256


def test_a_report_that_was_changed_is_not_believed(
    registry: Registry, state: StateDir, card: Card, manifest: Manifest, tmp_path: Path
) -> None:
    worse = challenger(registry, card, manifest, tmp_path, 150.5)
    gated = read_gated(state, card.name, worse, champion_of(card, registry))
    file = gated.folder / GATE_JSON
    file.write_text(json.dumps({**gated.content, "decision": "promote"}))

    with pytest.raises(GateChanged, match=r"gate\.json is missing, or not what the gate wrote"):
        promote(card, registry, worse)
    file.unlink()
    with pytest.raises(GateChanged):
        promote(card, registry, worse)


def test_weights_that_changed_since_the_gate_are_refused(
    registry: Registry, state: StateDir, card: Card, manifest: Manifest, tmp_path: Path
) -> None:
    second = challenger(registry, card, manifest, tmp_path, 21.5)
    file = registry.weights(second).file
    file.chmod(0o644)
    file.write_bytes(file.read_bytes() + b"\0")

    with pytest.raises(ChampionWeightsChanged):
        promote(card, registry, second)
    file.unlink()
    with pytest.raises(ChampionWeightsMissing):
        promote(card, registry, second)
    assert served(state, card) is None and registry.alias(card.name) == 1
    assert read_lines(history_file(state, card.name)) == []


CRASH = """
import os, sys
from pathlib import Path
import training.promote as promotion
from operators.models.card import load_card
from training.registry import Registry
from training.state import StateDir
def die(*arguments, **named):
    os._exit(9)
where, state, bundle, number = sys.argv[1:]
registry = Registry(StateDir(Path(state)))
card = load_card(Path(bundle))
if where == "alias":
    registry.set_alias = die
else:
    promotion.write_champion = die
promotion.promote(card, registry, registry.version(card.name, int(number)))
"""


@pytest.mark.parametrize("where", ["alias", "file"])
def test_a_crash_in_between_is_mended_by_the_next_look(
    where: str,
    registry: Registry,
    state: StateDir,
    card: Card,
    manifest: Manifest,
    tmp_path: Path,
) -> None:
    """The process dies after the history, before the alias or before the file."""
    second = challenger(registry, card, manifest, tmp_path, 21.5)
    done = subprocess.run(
        [sys.executable, "-c", CRASH, where, state.root, card.folder, str(second.number)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 9
    assert served(state, card) is None
    assert registry.alias(card.name) == (1 if where == "alias" else second.number)

    assert repair(card, registry)

    assert served(state, card) == second.sha256
    assert registry.alias(card.name) == second.number
    assert repair(card, registry) == ()
    assert rollback(card, registry).after.number == 1


def test_a_hand_on_alias_or_file_is_undone(
    registry: Registry, state: StateDir, card: Card, manifest: Manifest, tmp_path: Path
) -> None:
    second = challenger(registry, card, manifest, tmp_path, 35.5)
    third = challenger(registry, card, manifest, tmp_path, 21.5)
    promote(card, registry, second)
    registry.set_alias(card.name, third.number)
    write_champion(state.champions, card.name, registry.weights(third))

    assert len(repair(card, registry)) == 2

    assert served(state, card) == second.sha256
    (state.champions / f"{card.name}.json").write_text("{")
    assert repair(card, registry) == ("the champion's file did not name version 2",)
    assert served(state, card) == second.sha256


def test_a_champion_without_history_is_not_explained_away(
    registry: Registry, state: StateDir, card: Card, manifest: Manifest, tmp_path: Path
) -> None:
    second = challenger(registry, card, manifest, tmp_path, 21.5)
    write_champion(state.champions, card.name, registry.weights(second))

    with pytest.raises(StateDamaged, match="is gone, but a champion was promoted"):
        repair(card, registry)


PROMOTE = """
import sys
from pathlib import Path
from operators.models.card import load_card
from training.promote import promote
from training.registry import Registry
from training.state import StateDir
state, bundle, number = sys.argv[1:]
registry, card = Registry(StateDir(Path(state))), load_card(Path(bundle))
version = registry.version(card.name, int(number))
print("ready", flush=True); sys.stdin.readline()
try:
    print(promote(card, registry, version).before.number)
except Exception as refusal:
    print(type(refusal).__name__)
"""


def test_of_two_promotions_at_once_one_is_done(
    registry: Registry, state: StateDir, card: Card, manifest: Manifest, tmp_path: Path
) -> None:
    """Both were gated against version 1; the second finds another champion."""
    two = [challenger(registry, card, manifest, tmp_path, hu) for hu in (35.5, 21.5)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTE, state.root, card.folder, str(version.number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for version in two
    ]
    for process in running:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].strip() for process in running]

    assert sorted(said) == ["1", "NotGated"]
    winner = two[said.index("1")]
    assert served(state, card) == winner.sha256
    assert registry.alias(card.name) == winner.number
    assert len(read_lines(history_file(state, card.name))) == 1


def test_new_shipped_weights_serve_where_nothing_was_promoted(
    registry: Registry, card: Card, tmp_path: Path
) -> None:
    """An upgrade brings other weights: they are a version of their own, and champion."""
    assert registry.shipped(card).number == 1
    folder = shutil.copytree(card.folder, tmp_path / "new" / card.name)
    threshold_weights(folder / "models" / "model.pt", soft_hu=40.0)
    newer = replace(load_card(folder), weights_sha256=file_sha256(folder / "models" / "model.pt"))

    assert champion_of(newer, registry).number == 2
    assert repair(newer, registry) == ("the registry's alias was not on version 2",)
    assert registry.alias(card.name) == 2


def test_a_patient_of_the_hold_out_that_was_learned_from_is_found(
    registry: Registry, state: StateDir, card: Card, tmp_path: Path
) -> None:
    """Splits are frozen; where they were tampered with, the gate refuses."""
    learned = make_dataset(state, card, [patient(0, "train", soft_hu=20.5)])
    judging = make_dataset(state, card, patients(10, soft_hu=20.5))
    champion = champion_of(card, registry)
    weights = threshold_weights(tmp_path / "w.pt", soft_hu=21.5)
    version = add_challenger(registry, card, weights, champion, learned.sha256)

    gated = gate(card, judging, registry, champion=champion, challenger=version)

    assert gated.decision == "refused"
    assert gated.reasons == ["it learned from 1 of the hold-out patients"]
