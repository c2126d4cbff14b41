"""Dice of a model on a hold-out case, measured once.

Inference is what a gate's time goes into, and the champion meets the same patients
again and again. A value is kept under everything that it follows from (weights, config,
runtime, both files, meaning of the labels), so a gate that was killed goes on, too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple
from pathlib import Path

import numpy as np

from operators.job import Volume
from operators.models.bundle import LoadedBundle
from training.compare import dice
from training.dataset import Case, Manifest, load_case, verify_case
from training.state import StateDir, append_line, read_lines

MEASURED = "dice.jsonl"


class Measure:
    """Dice of every structure of a bundle's card; the caller holds the gate's lock.

    Parameters
    ----------
    state : StateDir
        Keeps what was measured.
    manifest : Manifest
        Holds the cases.
    """

    def __init__(self, state: StateDir, manifest: Manifest) -> None:
        self._file: Path = state.gates / MEASURED
        self._manifest = manifest
        self._known = {entry["key"]: entry["dice"] for entry in read_lines(self._file)}
        self._loaded: tuple[str, Volume, np.ndarray] | None = None

    def dice(self, model: LoadedBundle, case: Case) -> np.ndarray:
        """Dice by segment, shape (segments,), in the card's order; nan where unlabelled.

        Raises
        ------
        DatasetChanged
            A file of the case is not the one that was collected.
        Refusal, RuntimeError, ValueError
            The model fails on it.
        """
        verify_case(self._manifest, case)
        key = _key(model, case)
        if key not in self._known:
            volume, labels = self._load(case)
            found = model.segment(volume)
            values = [
                dice(found.mask(segment.number), labels == segment.number)
                if segment.name in case.labelled
                else None
                for segment in model.card.segments
            ]
            append_line(self._file, {"key": key, "dice": values})
            self._known[key] = values
        return np.array(self._known[key], float)  # None becomes nan

    def _load(self, case: Case) -> tuple[Volume, np.ndarray]:
        if self._loaded is None or self._loaded[0] != case.case:
            self._loaded = None  # first: two volumes may not fit
            self._loaded = (case.case, *load_case(self._manifest, case))
        return self._loaded[1:]


def _key(model: LoadedBundle, case: Case) -> str:
    """sha256 of all that a value follows from."""
    segments = [(segment.number, segment.name) for segment in model.card.segments]
    identity = model.identity
    follows_from = (
        identity.weights_sha256,
        identity.config_sha256,
        identity.runtime,
        segments,
        astuple(case),
    )
    return hashlib.sha256(json.dumps(follows_from).encode()).hexdigest()
