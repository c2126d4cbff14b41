"""Prompt encoder of SAM: points and the corners of a box become tokens, a mask is added.

Tokens come in the order of the published code: points, then, where there is no box, one
that means "nothing here", else the two corners. A mask is no token: it is brought to the
grid of the embedding and added to it.

References
----------
Kirillov et al., Segment Anything, ICCV 2023. Tancik et al., Fourier features let
networks learn high frequency functions in low dimensional domains, NeurIPS 2020.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from operators.models.medsam.encoder import EMBEDDING_CHANNELS, LayerNorm2d

EMBEDDING_SIDE = 64
_POINT_KINDS = 4  # background, foreground, first and second corner of a box
_INSIDE, _FIRST_CORNER = 1, 2
_MASK_CHANNELS = 16


class FourierPosition(nn.Module):
    """Positions (x, y), each 0 to 1, as sines and cosines of fixed random frequencies."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        frequencies = torch.randn(2, EMBEDDING_CHANNELS // 2)
        self.register_buffer("positional_encoding_gaussian_matrix", frequencies)

    def forward(self, positions: Tensor) -> Tensor:
        """Shape (..., 2) to (..., 256)."""
        phase = (2 * math.pi) * ((2 * positions - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


class PromptEncoder(nn.Module):
    """Prompts to tokens, and the position of each place of an embedding.

    Parameters
    ----------
    picture_side : int
        Rows and columns of the picture that prompts are drawn on.
    """

    def __init__(self, picture_side: int) -> None:
        super().__init__()
        self.picture_side = picture_side
        self.pe_layer = FourierPosition()
        self.point_embeddings = nn.ModuleList(
            nn.Embedding(1, EMBEDDING_CHANNELS) for _ in range(_POINT_KINDS)
        )
        self.not_a_point_embed = nn.Embedding(1, EMBEDDING_CHANNELS)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, _MASK_CHANNELS // 4, 2, 2),
            LayerNorm2d(_MASK_CHANNELS // 4),
            nn.GELU(),
            nn.Conv2d(_MASK_CHANNELS // 4, _MASK_CHANNELS, 2, 2),
            LayerNorm2d(_MASK_CHANNELS),
            nn.GELU(),
            nn.Conv2d(_MASK_CHANNELS, EMBEDDING_CHANNELS, 1),
        )
        self.no_mask_embed = nn.Embedding(1, EMBEDDING_CHANNELS)
        self._grid: tuple[Tensor, Tensor] | None = None  # frequencies, and their grid

    def box_tokens(self, boxes: Tensor) -> Tensor:
        """Tokens of the two corners.

        Parameters
        ----------
        boxes : torch.Tensor, shape (n, 4), float32
            x0, y0, x1, y1 in pixels of the picture.

        Returns
        -------
        torch.Tensor, shape (n, 2, 256)
        """
        # SAM adds half a pixel to every coordinate; the weights are used to it.
        corners = (boxes.view(-1, 2, 2) + 0.5) / self.picture_side
        first = torch.zeros(1, dtype=torch.long, device=boxes.device)
        kinds = torch.cat([embed(first) for embed in self.point_embeddings[_FIRST_CORNER:]])
        return self.pe_layer(corners) + kinds

    def point_tokens(self, points: Tensor, inside: Tensor) -> Tensor:
        """Tokens of points.

        Parameters
        ----------
        points : torch.Tensor, shape (n, p, 2), float32
            x, y in pixels of the picture.
        inside : torch.Tensor, shape (n, p), bool
            True: the structure is there; False: it is not.

        Returns
        -------
        torch.Tensor, shape (n, p, 256)
        """
        first = torch.zeros(1, dtype=torch.long, device=points.device)
        outside, within = (embed(first) for embed in self.point_embeddings[: _INSIDE + 1])
        kinds = torch.where(inside[..., None], within, outside)
        return self.pe_layer((points + 0.5) / self.picture_side) + kinds

    def no_point(self, count: int) -> Tensor:
        """What stands for the missing box after points, shape (count, 1, 256)."""
        return self.not_a_point_embed.weight.expand(count, 1, -1)

    def with_mask(self, masks: Tensor) -> Tensor:
        """What a mask adds to an embedding: (n, 1, 256, 256) logits to (n, 256, 64, 64)."""
        return self.mask_downscaling(masks)

    def grid(self) -> Tensor:
        """Position tokens of all places of an embedding, shape (1, 256, 64, 64).

        Worked out once, as long as the frequencies stay the same.
        """
        frequencies = self.pe_layer.positional_encoding_gaussian_matrix
        device = frequencies.device
        if self._grid is not None:
            known, grid = self._grid
            if known.device == device and torch.equal(known, frequencies):
                return grid
        # What inference mode makes, no later training can use.
        with torch.inference_mode(False), torch.no_grad():
            centre = (torch.arange(EMBEDDING_SIDE, device=device) + 0.5) / EMBEDDING_SIDE
            y, x = torch.meshgrid(centre, centre, indexing="ij")
            grid = self.pe_layer(torch.stack([x, y], dim=-1)).permute(2, 0, 1)[None]
            self._grid = frequencies.clone(), grid
        return grid

    def without_mask(self) -> Tensor:
        """What is added to an embedding where no mask is prompted, shape (1, 256, 1, 1)."""
        return self.no_mask_embed.weight.view(1, -1, 1, 1)
