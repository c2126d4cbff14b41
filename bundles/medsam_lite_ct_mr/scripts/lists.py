"""The four lists of crops, and their embeddings: what is trained on, chosen by, and measured."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from operators.models.medsam.network import LiteMedSam
from operators.models.medsam.picture import CropRule

from .crops import CropSpec, Draw, measured_crops, sample, training_crops, write_manifest
from .embeddings import encoder, keep
from .volumes import Source, never_trained_on, trained_on

OF_TRAINED = {"head-neck CT": Draw(7, 1), "hippocampus MR": Draw(1, 1)}
OF_UNSEEN = {
    "abdominal CT": Draw(99, 1),
    "sarcoma CT": Draw(1, 4),
    "sarcoma MR": Draw(1, 4),
    "sarcoma PET": Draw(1, 4),
}


@dataclass(frozen=True)
class Lists:
    """Where the images are, and where what is computed from them is kept.

    Attributes
    ----------
    data : Path
        The folder RADLOOP_DATA names.
    cache : Path
        Made if missing; 2.1 MB a crop.
    base_weights : Path
        The published LiteMedSAM weights.
    rule : CropRule
        The bundle's own, for all but the training crops.
    per_structure : int
        Training crops of each structure.
    validation_count : int
        Crops by which weights are chosen and the confidence is calibrated.
    seed : int
        Of the training list; the others follow.
    threads : int
        Of the encoder.
    """

    data: Path
    cache: Path
    base_weights: Path
    rule: CropRule
    per_structure: int
    validation_count: int
    seed: int
    threads: int

    @property
    def embeddings(self) -> Path:
        """Folder of the embeddings."""
        return self.cache / "embeddings"

    def network(self) -> LiteMedSam:
        """The network with the published weights."""
        network = LiteMedSam()
        network.load_state_dict(
            torch.load(self.base_weights, map_location="cpu", weights_only=True)
        )
        return network.eval()

    def training(self) -> list[CropSpec]:
        """Crops of training patients, embedded."""
        sources = trained_on(self.data, "train")
        return self._kept("train", sources, training_crops(sources, self.per_structure, self.seed))

    def validation(self) -> list[CropSpec]:
        """Crops of validation patients, embedded."""
        sources = trained_on(self.data, "validation")
        seed = self.seed + 1
        all_crops = measured_crops(sources, OF_TRAINED, self.rule, seed)
        return self._kept("validation", sources, sample(all_crops, self.validation_count, seed))

    def test(self) -> list[CropSpec]:
        """The frozen test lists: every organ of every head and neck, one part of a hippocampus."""
        sources = trained_on(self.data, "test")
        crops = measured_crops(sources, OF_TRAINED, self.rule, self.seed + 2)
        return self._kept("test", sources, crops)

    def unseen(self) -> list[CropSpec]:
        """Slices of the sets that were never trained on, embedded."""
        sources = never_trained_on(self.data)
        crops = measured_crops(sources, OF_UNSEEN, self.rule, self.seed + 3)
        return self._kept("unseen", sources, crops)

    def _kept(
        self, name: str, sources: Sequence[Source], crops: Iterable[CropSpec]
    ) -> list[CropSpec]:
        """The list as it was first drawn, with every crop's embedding on disk."""
        specs = write_manifest(crops, self.cache / f"{name}.json")
        torch.set_num_threads(self.threads)
        began = time.monotonic()

        def said(done: int) -> None:
            if done % 20 == 0:
                each = (time.monotonic() - began) / done
                print(f"{name}: {done} crops embedded, {each:.1f} s each", flush=True)

        keep(specs, sources, self.embeddings, encoder(self.network()), said)
        return specs
