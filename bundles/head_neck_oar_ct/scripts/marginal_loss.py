"""Learning from partly labelled patients.

An organ that nobody contoured is still in the image, as "background" of the
label map. Its probability is therefore added to that of the background before
the loss is taken: the network is neither rewarded nor punished for finding it
(marginal loss; Shi et al., Medical Image Analysis 70, 2021).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

Target = tuple[torch.Tensor, torch.Tensor]


def prepare_batch(
    batch: dict[str, Any], device: torch.device | str, non_blocking: bool = False, **_: object
) -> tuple[torch.Tensor, Target]:
    """Image, and (label, labelled) as one target, so that the loss sees both."""
    image = batch["image"].to(device, non_blocking=non_blocking)
    label = batch["label"].to(device, non_blocking=non_blocking)
    labelled = torch.stack([torch.as_tensor(column) for column in batch["labelled"]], dim=1)
    plain = image.as_tensor() if hasattr(image, "as_tensor") else image
    target = label.as_tensor() if hasattr(label, "as_tensor") else label
    plain = plain.contiguous(memory_format=torch.channels_last_3d)
    return plain, (target, labelled.to(device=device, dtype=torch.float32))


class MarginalDiceCELoss(nn.Module):
    """Cross-entropy plus soft Dice over the organs that were contoured.

    Parameters
    ----------
    class_weights : list of float
        Weight of a voxel of each class in the cross-entropy; background first.
    dice_weight : float
        Weight of the Dice term against the cross-entropy.
    smooth : float
        Added to numerator and denominator of the Dice, voxels.
    """

    def __init__(
        self, class_weights: list[float], dice_weight: float = 1.0, smooth: float = 10.0
    ) -> None:
        super().__init__()
        self.register_buffer("class_weights", torch.tensor(class_weights))
        self.dice_weight = dice_weight
        self.smooth = smooth

    def forward(self, logits: torch.Tensor, target: Target) -> torch.Tensor:
        """Loss of a batch.

        Parameters
        ----------
        logits : torch.Tensor, shape (B, C, X, Y, Z)
            Raw scores; channel 0 is background.
        target : tuple
            Label ids, shape (B, 1, X, Y, Z); labelled flags, shape (B, C).

        Returns
        -------
        torch.Tensor, shape ()
        """
        label, labelled = target
        batch, channels = logits.shape[:2]
        index = label.reshape(batch, 1, -1).long()
        probability = logits.float().softmax(dim=1).reshape(batch, channels, -1)
        unlabelled = (1.0 - labelled)[:, :, None]
        background = probability[:, :1] + (probability * unlabelled).sum(dim=1, keepdim=True)

        chosen = probability.gather(1, index)
        chosen = torch.where(index == 0, background, chosen)
        weight = self.class_weights.to(logits.device)[index]
        cross_entropy = -(chosen.clamp_min(1e-7).log() * weight).sum() / weight.sum()

        # Per class without a one-hot volume: only the probability at the true class overlaps.
        overlap = torch.zeros(batch, channels, device=logits.device)
        overlap.scatter_add_(1, index[:, 0], chosen[:, 0])
        truth = torch.zeros(batch, channels, device=logits.device)
        truth.scatter_add_(1, index[:, 0], torch.ones_like(chosen[:, 0]))
        predicted = probability.sum(dim=2)
        weights = labelled[:, 1:]
        dice = (2 * (overlap * labelled)[:, 1:].sum(0) + self.smooth) / (
            ((predicted + truth) * labelled)[:, 1:].sum(0) + self.smooth
        )
        present = (weights.sum(0) > 0).float()
        dice_loss = ((1 - dice) * present).sum() / present.sum().clamp_min(1.0)
        return cross_entropy + self.dice_weight * dice_loss
