"""Training of the mask decoder on kept embeddings: exact to the step, cut and resumed.

Everything that a step draws comes from the seed and the number of the step, and the
learning rate from that number too. A run that was cut and goes on from its last
checkpoint therefore takes the same steps as one that was never cut.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.losses import DiceCELoss
from torch import Tensor
from torch.nn import functional

from operators.models.medsam.network import LiteMedSam
from operators.models.medsam.picture import PICTURE_SIDE

from .crops import CropSpec
from .embeddings import Kept, load, picture_mask, tight_in_picture

CHECKPOINT = "checkpoint.pt"
DECODER = "mask_decoder."


@dataclass(frozen=True)
class Recipe:
    """How the decoder is tuned.

    Attributes
    ----------
    seed : int
        Decides the order of the crops and all boxes.
    steps : int
        Length of the whole run; the learning rate ends at 0.
    batch : int
        Crops of a step.
    learning_rate : float
        At its highest; cosine after `warmup` steps.
    warmup : int
        Steps of a linear rise.
    loose_share : float
        Each side of a box moves outward by up to this share of the box's longer side.
    loose_px : float
        And by no less than up to this many pixels of the source.
    iou_weight : float
        Weight of the error of the predicted IoU.
    every : int
        Steps between checkpoints.
    """

    seed: int
    steps: int
    batch: int
    learning_rate: float
    warmup: int
    loose_share: float
    loose_px: float
    iou_weight: float
    every: int


def rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step, 0 to `steps` - 1."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    share = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def chosen(recipe: Recipe, step: int, count: int) -> np.ndarray:
    """Which of `count` crops a step takes: every crop once before any comes again."""
    first = step * recipe.batch
    places = np.arange(first, first + recipe.batch)
    orders = {
        turn: np.random.default_rng([recipe.seed, 1, turn]).permutation(count)
        for turn in np.unique(places // count)
    }
    return np.array([orders[place // count][place % count] for place in places])


def jittered(tight: Tensor, px: float, recipe: Recipe, random: np.random.Generator) -> Tensor:
    """A tight box with each side moved outward at random, inside the picture.

    Parameters
    ----------
    tight : torch.Tensor, shape (4,), float32
        Pixel edges of the 256 x 256 picture.
    px : float
        Side of a source pixel on the picture.
    recipe : Recipe
        How far.
    random : numpy.random.Generator
        Draws four numbers.

    Returns
    -------
    torch.Tensor, shape (4,), float32
    """
    longer = float(max(tight[2] - tight[0], tight[3] - tight[1]))
    most = max(recipe.loose_px * px, recipe.loose_share * longer)
    outward = torch.from_numpy(random.uniform(0.0, most, 4)).float()
    return (tight + outward * torch.tensor([-1.0, -1.0, 1.0, 1.0])).clamp(0, PICTURE_SIDE)


class Tuning:
    """One run of training.

    Parameters
    ----------
    network : LiteMedSam
        With the published weights; its mask decoder is changed.
    specs : sequence of CropSpec
        Training crops, all embedded.
    embeddings : Path
        Folder of `embeddings.keep`.
    folder : Path
        Where checkpoints go; a checkpoint that is there is gone on from.
    recipe : Recipe
        How.
    """

    def __init__(
        self,
        network: LiteMedSam,
        specs: Sequence[CropSpec],
        embeddings: Path,
        folder: Path,
        recipe: Recipe,
    ) -> None:
        self.network = network.requires_grad_(False).eval()
        self.network.mask_decoder.requires_grad_(True).train()
        self.specs, self.embeddings = specs, Path(embeddings)
        self.folder, self.recipe = Path(folder), recipe
        self.optimizer = torch.optim.AdamW(
            network.mask_decoder.parameters(), recipe.learning_rate, weight_decay=0.0
        )
        self.mask_loss = DiceCELoss(sigmoid=True)
        self.step = 0
        self.seen: dict[int, tuple[Kept, Tensor, Tensor]] = {}

    def run(self, until: int | None = None) -> None:
        """Go on from the last checkpoint to the end, or to step `until`."""
        self.resume()
        began, first = time.monotonic(), self.step
        last = self.recipe.steps if until is None else min(until, self.recipe.steps)
        while self.step < last:
            loss = self.take_step()
            if self.step % 10 == 0:
                each = (time.monotonic() - began) / (self.step - first)
                print(f"step {self.step}: loss {loss:.4f}, {each:.2f} s a step", flush=True)
            if self.step % self.recipe.every == 0 or self.step == last:
                self.save()

    def take_step(self) -> float:
        """One step; the loss before it."""
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = rate(recipe, self.step)
        embeddings, boxes, masks = self.batch(self.step)
        # The decoder in bfloat16; the masks' last product and the loss in float32.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, iou = self.network.decode(embeddings, boxes)
        logits, iou = logits.float(), iou.float()
        loss = self.mask_loss(logits[:, None], masks[:, None])
        loss = loss + recipe.iou_weight * functional.mse_loss(iou, overlap(logits > 0, masks > 0))
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.mask_decoder.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (n, 256, 64, 64), boxes (n, 4) and masks (n, 256, 256) of a step."""
        random = np.random.default_rng([self.recipe.seed, 2, step])
        embeddings, boxes, masks = [], [], []
        for n in chosen(self.recipe, step, len(self.specs)):
            kept, mask, tight = self._of(int(n))
            px = PICTURE_SIDE / max(kept.mask.shape)
            embeddings.append(kept.embedding.float())
            boxes.append(jittered(tight, px, self.recipe, random))
            masks.append(mask)
        return torch.stack(embeddings), torch.stack(boxes), torch.stack(masks)

    def _of(self, n: int) -> tuple[Kept, Tensor, Tensor]:
        """A crop, from memory after the first time: 2.5 MB each."""
        if n not in self.seen:
            kept = load(self.specs[n], self.embeddings)
            tight = tight_in_picture(self.specs[n], kept.mask)
            self.seen[n] = kept, picture_mask(kept.mask), tight
        return self.seen[n]

    def save(self) -> None:
        """Write decoder, optimizer and step; a cut while writing leaves the last one whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "decoder": self.network.mask_decoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = self.folder / f"{CHECKPOINT}.partial"
        torch.save(state, partial)
        partial.replace(self.folder / CHECKPOINT)

    def resume(self) -> None:
        """Take up the last checkpoint, where there is one."""
        file = self.folder / CHECKPOINT
        if not file.is_file():
            return
        state = torch.load(file, map_location="cpu", weights_only=True)
        self.network.mask_decoder.load_state_dict(state["decoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])


def overlap(found: Tensor, wanted: Tensor) -> Tensor:
    """Intersection over union of pairs of masks (n, 256, 256), bool; 1 where both are empty."""
    both = (found & wanted).flatten(1).sum(1)
    either = (found | wanted).flatten(1).sum(1)
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both / 1))


def blend(
    published: dict[str, Tensor], tuned: dict[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Weights between two decoders: 0 is the published one, 1 the tuned one."""
    return {
        name: torch.lerp(value, tuned[name], share) if value.is_floating_point() else value
        for name, value in published.items()
    }
