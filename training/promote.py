"""Promotion and rollback: which weights serve, changed one step at a time.

The history is written first, then the registry's alias, then the file that workers
read. The history is therefore the intent: whatever a crash left undone after it, or a
hand changed beside it, `repair` sets right.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from operators.models.card import Card
from operators.models.champion import ChampionInvalid, Weights, read_champion, write_champion
from training.gate import Gated, ever_refused, read_gated
from training.refusals import GateSaysNo, NothingBefore, StateDamaged
from training.registry import Registry, Version
from training.state import StateDir, append_line, locked, read_lines


@dataclass(frozen=True)
class Override:
    """A person takes an undecided promotion upon themselves.

    Attributes
    ----------
    because : str
        Why.
    reader : str
        Key in the setting `readers`.
    """

    because: str
    reader: str


@dataclass(frozen=True)
class Change:
    """What a promotion or a rollback did.

    Attributes
    ----------
    before, after : Version
        Who served, and who serves now; equal where there was nothing to do.
    repaired : tuple of str
        What an earlier crash had left undone.
    """

    before: Version
    after: Version
    repaired: tuple[str, ...]


def history_file(state: StateDir, bundle: str) -> Path:
    """Every promotion and rollback of a bundle, one line each."""
    return state.champions / f"{bundle}.history.jsonl"


def champion_of(card: Card, registry: Registry) -> Version:
    """The version that serves by the history; the shipped one where there is none."""
    history = read_lines(history_file(registry.state, card.name))
    if not history:
        return registry.shipped(card)
    return registry.version(card.name, int(history[-1]["version"]))


def repair(card: Card, registry: Registry) -> tuple[str, ...]:
    """Make alias and champion file agree with the history; what had to be done.

    Raises
    ------
    StateDamaged
        A champion file without a history.
    ModelRefusal
        The weights that should serve are missing or changed; then nothing is written.
    """
    with _changing(registry.state, card.name):
        return _repair(card, registry)


def promote(
    card: Card, registry: Registry, challenger: Version, override: Override | None = None
) -> Change:
    """Let the challenger serve, if the gate says so.

    Parameters
    ----------
    card : Card
        The bundle.
    registry : Registry
        Holds both.
    challenger : Version
        Promoting the champion again changes nothing.
    override : Override or None
        Needed where the gate is undecided; of no use where it refused.

    Raises
    ------
    NotGated, GateChanged
        No report about exactly this challenger and the champion of now.
    GateSaysNo
        Refused, on this or an earlier data set; or undecided, without override.
    ModelRefusal
        The challenger's weights are missing or changed.
    """
    with _changing(registry.state, card.name):
        repaired = _repair(card, registry)
        before = champion_of(card, registry)
        if before.sha256 == challenger.sha256:
            return Change(before, before, repaired)
        gated = read_gated(registry.state, card.name, challenger, before)
        if gated.decision != "promote" and not (override and gated.decision == "undecided"):
            raise GateSaysNo(gated.decision, gated.reasons)
        if gated.decision == "undecided" and (
            earlier := ever_refused(registry.state, challenger, before)
        ):
            raise GateSaysNo(earlier.decision, earlier.reasons)
        needed = override if gated.decision == "undecided" else None
        entry = {
            "action": "promote",
            "gate": _gate_note(gated, challenger),
            "override": None if needed is None else vars(needed),
        }
        _serve(card, registry, before, challenger, entry)
        return Change(before, challenger, repaired)


def rollback(card: Card, registry: Registry) -> Change:
    """Let that serve again which served before the last promotion that still holds.

    Raises
    ------
    NothingBefore
        The weights that the bundle came with serve already.
    ModelRefusal
        The earlier weights are missing or changed.
    """
    with _changing(registry.state, card.name):
        # Alias and file are written below: what a crash left behind does not stand in the way.
        _require_history(registry.state, card.name)
        before = champion_of(card, registry)
        stack: list[dict[str, Any]] = []
        for entry in read_lines(history_file(registry.state, card.name)):
            if entry["action"] == "promote":
                stack.append(entry)
            else:
                stack.pop()
        if not stack:
            raise NothingBefore(card.name, before.number)
        after = registry.version(card.name, int(stack[-1]["before"]))
        _serve(card, registry, before, after, {"action": "rollback"})
        return Change(before, after, ())


def _changing(state: StateDir, bundle: str) -> AbstractContextManager[IO[str]]:
    lock = state.champions / f"{bundle}.lock"
    return locked(lock, "promotion", wait=True)


def _gate_note(gated: Gated, challenger: Version) -> dict[str, str]:
    digest = (challenger.gate or "  ").split(" ")[1]
    return {"report": gated.folder.name, "sha256": digest, "decision": gated.decision}


def _serve(
    card: Card, registry: Registry, before: Version, after: Version, entry: dict[str, Any]
) -> None:
    registry.weights(after).verify(card.name)
    history = history_file(registry.state, card.name)
    append_line(
        history,
        {
            "schema": 1,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "bundle": card.name,
            "version": after.number,
            "sha256": after.sha256,
            "before": before.number,
            **entry,
        },
    )
    _apply(card, registry, after)


def _apply(card: Card, registry: Registry, champion: Version) -> None:
    registry.set_alias(card.name, champion.number)
    write_champion(registry.state.champions, card.name, registry.weights(champion))


def _repair(card: Card, registry: Registry) -> tuple[str, ...]:
    state, bundle = registry.state, card.name
    _require_history(state, bundle)
    champion = champion_of(card, registry)
    done = []
    if registry.alias(bundle) != champion.number:
        registry.set_alias(bundle, champion.number)
        done.append(f"the registry's alias was not on version {champion.number}")
    weights = registry.weights(champion)
    if read_lines(history_file(state, bundle)) and not _is_served(state, bundle, weights):
        weights.verify(bundle)
        write_champion(state.champions, bundle, weights)
        done.append(f"the champion's file did not name version {champion.number}")
    return tuple(done)


def _require_history(state: StateDir, bundle: str) -> None:
    """A champion that nobody promoted is not explained away."""
    history = history_file(state, bundle)
    if (state.champions / f"{bundle}.json").exists() and not read_lines(history):
        raise StateDamaged(history, "is gone, but a champion was promoted")


def _is_served(state: StateDir, bundle: str, weights: Weights) -> bool:
    try:
        return read_champion(state.champions, bundle) == weights
    except ChampionInvalid:
        return False
