"""Image encoder of LiteMedSAM: a TinyViT that keeps the full 256 x 256 resolution at its start.

Four stages: one of convolutions at 256 x 256, three of window attention at
128, 64 and 64. The names of the modules are those of the published weights, which
load strictly; the attention bias is looked up at each pass, so that loading and
`eval()` may come in any order.

References
----------
Wu et al., TinyViT: Fast Pretraining Distillation for Small Vision Transformers,
ECCV 2022. Ma et al., Segment anything in medical images, Nature Communications
15, 654 (2024), and its LiteMedSAM.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

STAGE_CHANNELS = (64, 128, 160, 320)
STAGE_DEPTHS = (2, 2, 6, 2)
STAGE_HEADS = (0, 4, 5, 10)  # the first stage has convolutions only
STAGE_WINDOWS = (0, 7, 14, 7)
DOWNSAMPLE_STRIDES = (2, 2, 1)  # after each stage but the last
EXPANSION = 4
EMBEDDING_CHANNELS = 256


class ConvNorm(nn.Sequential):
    """Convolution without bias, then batch norm; "c" and "bn" in the weights."""

    def __init__(
        self, channels_in: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        convolution = nn.Conv2d(
            channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        super().__init__(OrderedDict(c=convolution, bn=nn.BatchNorm2d(channels)))


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of (n, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PatchEmbedding(nn.Module):
    """Pixels to features, one by one: LiteMedSAM's patches are single pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, channels // 2), nn.GELU(), ConvNorm(channels // 2, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class InvertedBottleneck(nn.Module):
    """Widen, convolve each channel 3 x 3, narrow, add to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = EXPANSION * channels
        self.conv1 = ConvNorm(channels, wide)
        self.conv2 = ConvNorm(wide, wide, 3, groups=wide)
        self.conv3 = ConvNorm(wide, channels)

    def forward(self, x: Tensor) -> Tensor:
        wide = functional.gelu(self.conv1(x))
        wide = functional.gelu(self.conv2(wide))
        return functional.gelu(self.conv3(wide) + x)


class Downsample(nn.Module):
    """To the width of the next stage, and to half the grid where the stride is 2."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels_in, channels)
        self.conv2 = ConvNorm(channels, channels, 3, stride, groups=channels)
        self.conv3 = ConvNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.conv1(x))
        return self.conv3(functional.gelu(self.conv2(x)))


class WindowAttention(nn.Module):
    """Attention among the positions of one window, biased by their distance.

    Parameters
    ----------
    channels, heads : int
        Of the stage.
    window : int
        Side of the window, positions.
    """

    bias_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        # One learned bias for each |row distance|, |column distance|.
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        position = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        distance = (position[:, None] - position[None]).abs()
        index = distance[..., 0] * window + distance[..., 1]
        self.register_buffer("bias_index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of each window, shape (windows, positions, channels)."""
        windows, positions, channels = x.shape
        qkv = self.qkv(self.norm(x)).view(windows, positions, self.heads, 3, -1)
        query, key, value = qkv.permute(3, 0, 2, 1, 4)
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=self.attention_biases[:, self.bias_index].to(query.dtype)
        )
        return self.proj(attended.transpose(1, 2).reshape(windows, positions, channels))


class FeedForward(nn.Module):
    """Norm, widen, narrow."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, EXPANSION * channels)
        self.fc2 = nn.Linear(EXPANSION * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(self.norm(x))))


class AttentionBlock(nn.Module):
    """Window attention, a 3 x 3 convolution of each channel, a feed-forward part."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(channels, heads, window)
        self.local_conv = ConvNorm(channels, channels, 3, groups=channels)
        self.mlp = FeedForward(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        tokens = self.local_conv(x).permute(0, 2, 3, 1)
        return (tokens + self.mlp(tokens)).permute(0, 3, 1, 2)

    def _attend(self, x: Tensor) -> Tensor:
        """Attention in each window of (n, h, w, c); the last ones are filled up with zeros."""
        n, height, width, channels = x.shape
        side = self.window
        # The published weights were trained with zeros put in before the norm.
        x = functional.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        x = x.view(n, rows, side, columns, side, channels).transpose(2, 3)
        x = self.attn(x.reshape(-1, side * side, channels))
        x = x.view(n, rows, columns, side, side, channels).transpose(2, 3)
        return x.reshape(n, rows * side, columns * side, channels)[:, :height, :width]


class Stage(nn.Module):
    """Blocks of one width, and what leads to the next."""

    def __init__(self, blocks: list[nn.Module], downsample: Downsample | None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return x if self.downsample is None else self.downsample(x)


def _stage(number: int) -> Stage:
    channels, heads, window = (
        STAGE_CHANNELS[number],
        STAGE_HEADS[number],
        STAGE_WINDOWS[number],
    )
    blocks: list[nn.Module] = [
        AttentionBlock(channels, heads, window) if heads else InvertedBottleneck(channels)
        for _ in range(STAGE_DEPTHS[number])
    ]
    if number == len(STAGE_CHANNELS) - 1:
        return Stage(blocks, None)
    stride = DOWNSAMPLE_STRIDES[number]
    return Stage(blocks, Downsample(channels, STAGE_CHANNELS[number + 1], stride))


class ImageEncoder(nn.Module):
    """Pictures to embeddings: (n, 3, 256, 256), 0 to 1, to (n, 256, 64, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(STAGE_CHANNELS[0])
        self.layers = nn.Sequential(*(_stage(number) for number in range(len(STAGE_CHANNELS))))
        self.neck = nn.Sequential(
            nn.Conv2d(STAGE_CHANNELS[-1], EMBEDDING_CHANNELS, 1, bias=False),
            LayerNorm2d(EMBEDDING_CHANNELS),
            nn.Conv2d(EMBEDDING_CHANNELS, EMBEDDING_CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(EMBEDDING_CHANNELS),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        return self.neck(self.layers(self.patch_embed(pictures)))
