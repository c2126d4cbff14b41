"""The gate: challenger against champion, on patients that neither trained on here.

Both run as they would serve (`LoadedBundle`, the bundle's own inference) on the same
volumes. The report is named by what it compares and has no date, so that running the
gate again gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from operators.errors import Refusal
from operators.models.bundle import InferenceFailed, LoadedBundle
from operators.models.card import Card
from training.compare import (
    BOOTSTRAP_DRAWS,
    MIN_PATIENTS,
    SEED,
    STRUCTURE_TOLERANCE,
    Comparison,
    by_patient,
    compare,
    unfit,
)
from training.dataset import Case, Manifest, file_sha256, read_manifest
from training.measure import Measure
from training.refusals import DatasetChanged, GateChanged, NoChallenger, NotGated
from training.registry import Registry, Version
from training.report import write_markdown, write_picture
from training.state import StateDir, locked, sync_folder, write_durably

GATE_JSON, GATE_MARKDOWN, GATE_PICTURE = "gate.json", "gate.md", "gate.png"
RULES = {
    "min_patients": MIN_PATIENTS,
    "structure_tolerance": STRUCTURE_TOLERANCE,
    "interval": f"95 % percentile bootstrap, {BOOTSTRAP_DRAWS} draws, seed {SEED}",
}


@dataclass(frozen=True)
class Gated:
    """A report of the gate.

    Attributes
    ----------
    folder : Path
        Holds `gate.json`, `gate.md`, `gate.png`.
    content : dict
        Of `gate.json`.
    """

    folder: Path
    content: dict[str, Any]

    @property
    def decision(self) -> str:
        """``"promote"``, ``"refused"`` or ``"undecided"``."""
        return str(self.content["decision"])

    @property
    def reasons(self) -> list[str]:
        """With the numbers."""
        return [str(reason) for reason in self.content["reasons"]]


def choose_challenger(versions: list[Version], champion: Version, bundle: str) -> Version:
    """The newest version that was trained here and does not serve.

    Raises
    ------
    NoChallenger
        There is none.
    """
    trained = [v for v in versions if v.origin == "trained" and v.number > champion.number]
    if not trained:
        raise NoChallenger(bundle, f"nothing is newer than the champion, version {champion.number}")
    return trained[-1]


def gate(
    card: Card,
    manifest: Manifest,
    registry: Registry,
    *,
    champion: Version,
    challenger: Version,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Gated:
    """Compare, decide, and keep the report.

    Labels that the challenger drew itself do not judge it.

    Parameters
    ----------
    card : Card
        The bundle.
    manifest : Manifest
        Its hold-out judges.
    registry : Registry
        The report's digest and decision are noted on the challenger's version.
    champion, challenger : Version
        Who serves, and who wants to.
    progress : callable
        Called with cases done and in all.

    Raises
    ------
    NoChallenger
        The two are one.
    ModelRefusal
        One of the two can't be run on a case, or the champion can't be loaded.
    DatasetChanged
        A hold-out file is not the one that was collected.
    """
    if challenger.sha256 == champion.sha256:
        raise NoChallenger(card.name, f"version {challenger.number} is the champion itself")
    state = registry.state
    folder = report_folder(state, challenger, champion, manifest.sha256)
    with locked(state.gates / "gate.lock", "`radloop train gate`", wait=False):
        content = _known(folder)
        if content is None:
            comparison, rows = _judge(card, manifest, registry, champion, challenger, progress)
            content = _content(card, manifest, champion, challenger, comparison, rows)
            _keep(folder, content)
        digest = file_sha256(folder / GATE_JSON)
        note = f"{folder.name} {digest} {content['decision']}"
        registry.tag(card.name, challenger, {"gate": note})
        registry.attach(challenger, folder, f"gate/{digest[:12]}")
    return Gated(folder, content)


def report_folder(state: StateDir, challenger: Version, champion: Version, manifest: str) -> Path:
    """Where the report of this comparison lies."""
    return state.gates / f"{challenger.sha256}-{champion.sha256}-{manifest}"


def read_gated(state: StateDir, bundle: str, challenger: Version, champion: Version) -> Gated:
    """The last report about exactly these two, as the gate wrote it.

    Raises
    ------
    NotGated
        There is none by today's rules.
    GateChanged
        It was changed since.
    """
    folder, digest, _ = (challenger.gate or "  ").split(" ", 2)
    if not folder.startswith(f"{challenger.sha256}-{champion.sha256}-"):
        raise NotGated(bundle, challenger.number, champion.number)
    file = state.gates / folder / GATE_JSON
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise GateChanged(file) from error
    if hashlib.sha256(raw).hexdigest() != digest:
        raise GateChanged(file)
    gated = Gated(file.parent, json.loads(raw))
    if gated.content.get("rules") != RULES:
        raise NotGated(bundle, challenger.number, champion.number)
    return gated


def ever_refused(state: StateDir, challenger: Version, champion: Version) -> Gated | None:
    """A report about these two, on whatever data set, that refused."""
    for folder in sorted(state.gates.glob(f"{challenger.sha256}-{champion.sha256}-*")):
        content = _known(folder)
        if content is not None and content["decision"] == "refused":
            return Gated(folder, content)
    return None


def _known(folder: Path) -> dict[str, Any] | None:
    """A report by today's rules that is there already."""
    try:
        content: dict[str, Any] = json.loads((folder / GATE_JSON).read_text())
    except (OSError, ValueError):
        return None
    return content if content.get("rules") == RULES else None


def _judge(
    card: Card,
    manifest: Manifest,
    registry: Registry,
    champion: Version,
    challenger: Version,
    progress: Callable[[int, int], None],
) -> tuple[Comparison, list[dict[str, Any]]]:
    if reason := _trained_on_hold_out(registry.state, manifest, challenger):
        return unfit(reason), []
    serving = LoadedBundle(card, registry.weights(champion))
    try:
        candidate = LoadedBundle(card, registry.weights(challenger))
    except Refusal as refusal:
        return unfit(refusal.reason), []
    measure = Measure(registry.state, manifest)
    cases = _judging(manifest, challenger)
    names = tuple(segment.name for segment in card.segments)
    before: dict[str, list[np.ndarray]] = defaultdict(list)
    after: dict[str, list[np.ndarray]] = defaultdict(list)
    for done, case in enumerate(cases):
        progress(done, len(cases))
        try:
            before[case.patient].append(measure.dice(serving, case))
            after[case.patient].append(measure.dice(candidate, case))
        except (RuntimeError, ValueError, MemoryError) as error:
            # Perhaps only short of memory: no decision, so that it can be asked again.
            raise InferenceFailed(card.name, case.series_instance_uid, error) from error
    progress(len(cases), len(cases))
    shape = (len(before), len(names))
    serves, wants = (by_patient(found).reshape(shape) for found in (before, after))
    rows = [
        {
            "patient": patient,
            "champion": _by_name(names, serves[row]),
            "challenger": _by_name(names, wants[row]),
        }
        for row, patient in enumerate(before)
    ]
    return compare(serves, wants, names), rows


def _judging(manifest: Manifest, challenger: Version) -> list[Case]:
    """Hold-out cases but those whose labels the challenger drew: it would have Dice 1 there."""
    return [case for case in manifest.of("holdout") if case.weights_sha256 != challenger.sha256]


def _trained_on_hold_out(state: StateDir, manifest: Manifest, challenger: Version) -> str | None:
    """Splits are frozen, so this never happens; where it did, nothing here would be true."""
    if challenger.dataset is None:
        return None
    try:
        learned = read_manifest(state, challenger.dataset)
    except DatasetChanged:
        return f"the data set {challenger.dataset[:12]}… that it learned from is gone or changed"
    seen = {case.patient for case in learned.cases if case.split != "holdout"}
    judging = {case.patient for case in manifest.of("holdout")}
    common = len(seen & judging)
    return f"it learned from {common} of the hold-out patients" if common else None


def _by_name(names: tuple[str, ...], values: np.ndarray) -> dict[str, float | None]:
    return {
        name: None if np.isnan(value) else round(float(value), 6)
        for name, value in zip(names, values, strict=True)
    }


def _content(
    card: Card,
    manifest: Manifest,
    champion: Version,
    challenger: Version,
    comparison: Comparison,
    rows: list[dict[str, Any]],
) -> dict[str, Any]:
    judging = _judging(manifest, challenger)
    return {
        "schema": 1,
        "bundle": card.name,
        "decision": comparison.decision,
        "reasons": list(comparison.reasons),
        "champion": {"version": champion.number, "sha256": champion.sha256},
        "challenger": {"version": challenger.number, "sha256": challenger.sha256},
        "manifest": manifest.sha256,
        "rules": RULES,
        "patients": comparison.patients,
        "cases": len(judging),
        # A label that was confirmed unchanged is its model's own answer.
        "labels_by_champion": sum(c.weights_sha256 == champion.sha256 for c in judging),
        "left_out_as_labelled_by_challenger": len(manifest.of("holdout")) - len(judging),
        "mean_difference": _rounded(comparison.mean_difference),
        "interval": [_rounded(bound) for bound in comparison.interval or ()] or None,
        "structures": [
            {**asdict(s), "champion": _rounded(s.champion), "challenger": _rounded(s.challenger)}
            for s in comparison.structures
        ],
        "per_patient": rows,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _keep(folder: Path, content: dict[str, Any]) -> None:
    """All three files or none: the folder appears when it is complete."""
    partial = folder.with_name(f".partial-{hashlib.sha256(folder.name.encode()).hexdigest()[:16]}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_markdown(content, partial / GATE_MARKDOWN, picture=GATE_PICTURE)
    write_picture(content, partial / GATE_PICTURE)
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    write_durably(partial / GATE_JSON, text.encode())
    shutil.rmtree(folder, ignore_errors=True)  # by older rules
    partial.rename(folder)
    sync_folder(folder.parent)
