"""Data sets and challengers made by hand: manifests from arrays, weights from numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from operators.models.card import Card
from training.dataset import (
    MANIFEST,
    Case,
    Manifest,
    encode_manifest,
    point_to_latest,
    read_manifest,
    write_nifti,
)
from training.holdout import Split
from training.registry import Registry, Version
from training.state import StateDir

TEST_BUNDLES = Path(__file__).parents[1] / "bundles"


@dataclass(frozen=True)
class Drawn:
    """One case: values and labels, shape (z, y, x), of which patient and split."""

    patient: str
    split: Split
    values: np.ndarray
    labels: np.ndarray
    drawn_by: str = "0" * 64


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_dataset(state: StateDir, card: Card, drawn: Iterable[Drawn], affine=None) -> Manifest:
    """Write a data set as `collect` would, without an archive."""
    affine = np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine
    folder = state.datasets / "being-made"
    for name in ("image", "label"):
        (folder / name).mkdir(parents=True)
    cases = []
    for number, one in enumerate(drawn):
        name = digest(f"case {number}")[:16]
        image, label = f"image/{name}.nii.gz", f"label/{name}.nii.gz"
        present = set(np.unique(one.labels).tolist())
        cases.append(
            Case(
                case=name,
                patient=digest(one.patient),
                split=one.split,
                study_instance_uid=f"1.2.{number}",
                series_instance_uid=f"1.3.{number}",
                part="",
                sr_sop_instance_uid=f"1.4.{number}",
                sr_sha256=digest(f"sr {number}"),
                seg_sop_instance_uid=f"1.5.{number}",
                seg_sha256=digest(f"seg {number}"),
                weights_sha256=one.drawn_by,
                labelled=tuple(s.name for s in card.segments if s.number in present),
                image=image,
                image_sha256=write_nifti(one.values.astype(np.int16), affine, folder / image),
                label=label,
                label_sha256=write_nifti(one.labels.astype(np.uint8), affine, folder / label),
            )
        )
    content = encode_manifest(card.name, card.version, card.unit, card.segments, tuple(cases))
    sha256 = hashlib.sha256(content).hexdigest()
    (folder / MANIFEST).write_bytes(content)
    folder.rename(state.datasets / sha256)
    point_to_latest(state, card.name, sha256)
    return read_manifest(state, sha256)


def threshold_weights(file: Path, *, soft_hu: float = 50.0, bone_hu: float = 200.0) -> Path:
    """Weights of `hu_threshold` with other borders: background, soft, bone by HU.

    Lines 0, h - soft, 2 h - (soft + bone) cross at `soft` and at `bone`.
    """
    import torch

    state = {
        "weight": torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1, 1, 1),
        "bias": torch.tensor([0.0, -soft_hu, -(soft_hu + bone_hu)]),
    }
    torch.save(state, file)
    return file


def add_challenger(
    registry: Registry, card: Card, weights: Path, parent: Version, dataset: str
) -> Version:
    """Register weights as if `train run` had made them."""
    return registry.register(
        card,
        weights,
        name="by hand",
        parent=parent.sha256,
        dataset=dataset,
        params={"epochs": 0},
        metrics={},
    )
