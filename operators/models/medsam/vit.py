"""SAM with a ViT-B image encoder, as the MedSAM of 2024 has it: 1024 x 1024 pictures.

The names of the modules are those of `medsam_vit_b.pth`, which loads strictly; prompt
encoder and mask decoder are those of LiteMedSAM. How weights in another layout come
into this one is in `layout.py`.

References
----------
Kirillov et al., Segment Anything, ICCV 2023. Li et al., Exploring plain vision
transformer backbones for object detection, ECCV 2022 (windows, relative positions).
Ma et al., Segment anything in medical images, Nature Communications 15, 654 (2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from operators.models.medsam.encoder import EMBEDDING_CHANNELS, LayerNorm2d
from operators.models.medsam.network import Sam
from operators.models.medsam.prompt import EMBEDDING_SIDE

PATCH = 16  # pixels
EXPANSION = 4
NORM_EPS = 1e-6


@dataclass(frozen=True)
class VitSize:
    """How large an encoder is; the default is ViT-B.

    Attributes
    ----------
    depth, width, heads : int
        Blocks, channels of a token, heads of an attention.
    window : int
        Side of the windows of a block, tokens.
    all_round : tuple of int
        Blocks whose attention sees the whole picture instead of a window.
    """

    depth: int = 12
    width: int = 768
    heads: int = 12
    window: int = 14
    all_round: tuple[int, ...] = (2, 5, 8, 11)


VIT_B = VitSize()


class PatchEmbedding(nn.Module):
    """Patches of 16 x 16 pixels to tokens: (n, 3, h, w) to (n, h / 16, w / 16, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.proj(pictures).permute(0, 2, 3, 1)


class PositionedAttention(nn.Module):
    """Attention among the tokens of a square, biased by their distance in rows and in columns.

    Parameters
    ----------
    width, heads : int
        Of the encoder.
    side : int
        Of the square, tokens.
    """

    distance: Tensor

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        # One learned vector for each distance, -(side - 1) to side - 1.
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        place = torch.arange(side)
        distance = place[:, None] - place[None] + side - 1
        self.register_buffer("distance", distance, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of each square, shape (squares, side, side, width)."""
        squares, side, _, width = x.shape
        qkv = self.qkv(x).view(squares, side * side, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if side == EMBEDDING_SIDE:
            # The bias of all heads at once would be 800 MB.
            heads = [
                self._attend(query[:, h : h + 1], key[:, h : h + 1], value[:, h : h + 1])
                for h in range(self.heads)
            ]
            attended = torch.cat(heads, dim=1)
        else:
            attended = self._attend(query, key, value)
        return self.proj(attended.transpose(1, 2).reshape(squares, side, side, width))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Queries, keys and values (squares, heads, tokens, channels of a head)."""
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=self._bias(query)
        )

    def _bias(self, query: Tensor) -> Tensor:
        """What is added to each query's (not yet scaled) look at each key.

        Returns
        -------
        torch.Tensor, shape (squares, heads, tokens, tokens)
        """
        side = self.side
        placed = query.unflatten(2, (side, side))
        rows = torch.einsum("nhyxc,ykc->nhyxk", placed, self.rel_pos_h[self.distance])
        columns = torch.einsum("nhyxc,xkc->nhyxk", placed, self.rel_pos_w[self.distance])
        return (rows[..., :, None] + columns[..., None, :]).flatten(4, 5).flatten(2, 3)


class TokenMlp(nn.Module):
    """Widen, narrow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, EXPANSION * width)
        self.lin2 = nn.Linear(EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(functional.gelu(self.lin1(x)))


class VitBlock(nn.Module):
    """Attention, in windows or all round, then a feed-forward part.

    Parameters
    ----------
    width, heads : int
        Of the encoder.
    window : int
        Side of the windows; 0: all round.
    """

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = PositionedAttention(width, heads, window or EMBEDDING_SIDE)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = TokenMlp(width)

    def forward(self, x: Tensor) -> Tensor:
        placed = self.norm1(x)
        x = x + (self._in_windows(placed) if self.window else self.attn(placed))
        return x + self.mlp(self.norm2(x))

    def _in_windows(self, x: Tensor) -> Tensor:
        """Attention in each window of (n, h, w, c); the last ones are filled up with zeros."""
        n, height, width, channels = x.shape
        side = self.window
        # After the norm, and seen by the others: the published weights were trained so.
        x = functional.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        x = x.view(n, rows, side, columns, side, channels).transpose(2, 3)
        x = self.attn(x.reshape(-1, side, side, channels))
        x = x.view(n, rows, columns, side, side, channels).transpose(2, 3)
        return x.reshape(n, rows * side, columns * side, channels)[:, :height, :width]


class VitEncoder(nn.Module):
    """Pictures to embeddings: (n, 3, 1024, 1024), 0 to 1, to (n, 256, 64, 64)."""

    def __init__(self, size: VitSize) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(size.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, EMBEDDING_SIDE, EMBEDDING_SIDE, size.width))
        self.blocks = nn.Sequential(
            *(
                VitBlock(size.width, size.heads, 0 if n in size.all_round else size.window)
                for n in range(size.depth)
            )
        )
        self.neck = nn.Sequential(
            nn.Conv2d(size.width, EMBEDDING_CHANNELS, 1, bias=False),
            LayerNorm2d(EMBEDDING_CHANNELS),
            nn.Conv2d(EMBEDDING_CHANNELS, EMBEDDING_CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(EMBEDDING_CHANNELS),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        tokens = self.blocks(self.patch_embed(pictures) + self.pos_embed)
        return self.neck(tokens.permute(0, 3, 1, 2))


class MedSamVit(Sam):
    """SAM with a ViT, for pictures of 1024 x 1024.

    Parameters
    ----------
    size : VitSize
        Of the encoder.

    Examples
    --------
    >>> network = MedSamVit().eval()
    >>> embedding = network.encode(torch.zeros(1, 3, 1024, 1024))
    >>> logits, iou = network.decode(embedding, torch.tensor([[240.0, 240.0, 800.0, 720.0]]))
    >>> logits.shape, iou.shape
    (torch.Size([1, 256, 256]), torch.Size([1]))
    """

    PICTURE_SIDE = PATCH * EMBEDDING_SIDE

    def __init__(self, size: VitSize = VIT_B) -> None:
        super().__init__(VitEncoder(size), self.PICTURE_SIDE)
