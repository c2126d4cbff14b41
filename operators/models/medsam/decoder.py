"""Mask decoder of SAM: tokens and an image embedding look at each other, a mask comes out.

References
----------
Kirillov et al., Segment Anything, ICCV 2023, appendix A.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from operators.models.medsam.encoder import EMBEDDING_CHANNELS, LayerNorm2d

_HEADS = 8
_DEPTH = 2
_MLP_CHANNELS = 2048
_MASKS = 4  # one for an unambiguous prompt such as a box, then three for ambiguous ones
_MASK_CHANNELS = 32


class Attention(nn.Module):
    """Multi-head attention, inside `channels` wide.

    Between a few tokens and the many places of an image, the products are taken in another
    order, which costs half: a token's query is carried back through the projection of the
    keys once, where else every place would be carried forward.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(EMBEDDING_CHANNELS, channels)
        self.k_proj = nn.Linear(EMBEDDING_CHANNELS, channels)
        self.v_proj = nn.Linear(EMBEDDING_CHANNELS, channels)
        self.out_proj = nn.Linear(channels, EMBEDDING_CHANNELS)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attended = functional.scaled_dot_product_attention(
            _heads(self.q_proj(query)), _heads(self.k_proj(key)), _heads(self.v_proj(value))
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def of_few(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The same for a few queries over many places.

        The bias of the keys adds one number to all scores of a query, and softmax drops it.
        """
        asked = _heads(self.q_proj(query)) @ _by_head(self.k_proj.weight) * self._scale
        share = (asked.flatten(1, 2) @ key.transpose(1, 2)).softmax(dim=2)
        seen = (share @ value).unflatten(1, (_HEADS, -1))
        attended = seen @ _by_head(self.v_proj.weight).transpose(1, 2)
        attended = attended + self.v_proj.bias.view(_HEADS, 1, -1)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def over_few(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The same for many places that look at a few keys."""
        keys = _heads(self.k_proj(key)) * self._scale
        known = (keys @ _by_head(self.q_proj.weight)).flatten(1, 2)
        added = (keys * self.q_proj.bias.view(_HEADS, 1, -1)).sum(dim=3).flatten(1)
        # Places last: a softmax over so few keys is fast only across many places at once.
        scores = torch.baddbmm(added[..., None], known, query.transpose(1, 2))
        share = scores.unflatten(1, (_HEADS, -1)).softmax(dim=2).flatten(1, 2)
        out = self.out_proj.weight.unflatten(1, (_HEADS, -1)).permute(1, 2, 0)
        answers = (_heads(self.v_proj(value)) @ out).flatten(1, 2)
        return torch.baddbmm(self.out_proj.bias, share.transpose(1, 2), answers)

    @property
    def _scale(self) -> float:
        return float(self.q_proj.out_features // _HEADS) ** -0.5


def _by_head(weight: Tensor) -> Tensor:
    """Weights of a projection, (channels, in) to (heads, channels of a head, in)."""
    return weight.unflatten(0, (_HEADS, -1))


def _heads(x: Tensor) -> Tensor:
    """(n, tokens, channels) to (n, heads, tokens, channels of a head)."""
    return x.unflatten(2, (_HEADS, -1)).transpose(1, 2)


class TokenMlp(nn.Module):
    """Widen, narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.lin1 = nn.Linear(EMBEDDING_CHANNELS, _MLP_CHANNELS)
        self.lin2 = nn.Linear(_MLP_CHANNELS, EMBEDDING_CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(functional.relu(self.lin1(x)))


class TwoWayBlock(nn.Module):
    """Tokens look at themselves, then at the image; the image looks at the tokens.

    Parameters
    ----------
    first : bool
        The first block's tokens are still their own positions: they replace, not add.
    """

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(EMBEDDING_CHANNELS)
        self.norm1 = nn.LayerNorm(EMBEDDING_CHANNELS)
        self.cross_attn_token_to_image = Attention(EMBEDDING_CHANNELS // 2)
        self.norm2 = nn.LayerNorm(EMBEDDING_CHANNELS)
        self.mlp = TokenMlp()
        self.norm3 = nn.LayerNorm(EMBEDDING_CHANNELS)
        self.norm4 = nn.LayerNorm(EMBEDDING_CHANNELS)
        self.cross_attn_image_to_token = Attention(EMBEDDING_CHANNELS // 2)

    def forward(
        self, tokens: Tensor, image: Tensor, token_position: Tensor, image_position: Tensor
    ) -> tuple[Tensor, Tensor]:
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + token_position
            tokens = tokens + self.self_attn(placed, placed, tokens)
        tokens = self.norm1(tokens)
        placed_image = image + image_position
        seen = self.cross_attn_token_to_image.of_few(tokens + token_position, placed_image, image)
        tokens = self.norm2(tokens + seen)
        tokens = self.norm3(tokens + self.mlp(tokens))
        seen = self.cross_attn_image_to_token.over_few(
            placed_image, tokens + token_position, tokens
        )
        return tokens, self.norm4(image + seen)


class TwoWayTransformer(nn.Module):
    """Blocks in a row, and a last look of the tokens at the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(first=n == 0) for n in range(_DEPTH))
        self.final_attn_token_to_image = Attention(EMBEDDING_CHANNELS // 2)
        self.norm_final_attn = nn.LayerNorm(EMBEDDING_CHANNELS)

    def forward(self, prompt: Tensor, image: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (n, t, c), image and its position (n, places, c); tokens and image out."""
        tokens = prompt
        for layer in self.layers:
            tokens, image = layer(tokens, image, prompt, position)
        seen = self.final_attn_token_to_image.of_few(tokens + prompt, image + position, image)
        return self.norm_final_attn(tokens + seen), image


class Perceptron(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, channels_out: int) -> None:
        super().__init__()
        inner = [nn.Linear(EMBEDDING_CHANNELS, EMBEDDING_CHANNELS) for _ in range(2)]
        self.layers = nn.ModuleList([*inner, nn.Linear(EMBEDDING_CHANNELS, channels_out)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        return self.layers[-1](x)


class MaskDecoder(nn.Module):
    """An image embedding and prompt tokens to a mask and an estimate of its IoU."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer()
        self.iou_token = nn.Embedding(1, EMBEDDING_CHANNELS)
        self.mask_tokens = nn.Embedding(_MASKS, EMBEDDING_CHANNELS)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(EMBEDDING_CHANNELS, 2 * _MASK_CHANNELS, 2, 2),
            LayerNorm2d(2 * _MASK_CHANNELS),
            nn.GELU(),
            nn.ConvTranspose2d(2 * _MASK_CHANNELS, _MASK_CHANNELS, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            Perceptron(_MASK_CHANNELS) for _ in range(_MASKS)
        )
        self.iou_prediction_head = Perceptron(_MASKS)

    def forward(self, image: Tensor, position: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Decode one mask a prompt: the one for unambiguous prompts.

        Parameters
        ----------
        image : torch.Tensor, shape (n, 256, 64, 64)
            Embedding, with what the prompted mask adds to it.
        position : torch.Tensor, shape (1, 256, 64, 64)
            Position of its places.
        prompt : torch.Tensor, shape (n, t, 256)
            Tokens of the prompts.

        Returns
        -------
        logits : torch.Tensor, shape (n, 256, 256)
            Above 0 is inside.
        iou : torch.Tensor, shape (n,)
            The network's own estimate, not calibrated.
        """
        count, channels, height, width = image.shape
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(count, -1, -1), prompt], dim=1)
        tokens, places = self.transformer(
            tokens,
            image.flatten(2).transpose(1, 2).contiguous(),
            position.flatten(2).transpose(1, 2).contiguous(),
        )
        features = self.output_upscaling(
            places.transpose(1, 2).reshape(count, channels, height, width)
        )
        weights = self.output_hypernetworks_mlps[0](tokens[:, 1])
        logits = torch.einsum("nc,nchw->nhw", weights, features)
        return logits, self.iou_prediction_head(tokens[:, 0])[:, 0]
