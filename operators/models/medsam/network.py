"""SAM's three parts put together, with the names of the published weights; LiteMedSAM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from operators.models.medsam.decoder import MaskDecoder
from operators.models.medsam.encoder import ImageEncoder
from operators.models.medsam.prompt import PromptEncoder


class Sam(nn.Module):
    """Picture and prompt to mask; what differs from network to network is the encoder.

    Parameters
    ----------
    image_encoder : torch.nn.Module
        Pictures to embeddings (n, 256, 64, 64).
    picture_side : int
        Rows and columns of its pictures.
    """

    def __init__(self, image_encoder: nn.Module, picture_side: int) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder(picture_side)
        self.mask_decoder = MaskDecoder()

    def encode(self, pictures: Tensor) -> Tensor:
        """Embeddings (n, 256, 64, 64) of pictures (n, 3, side, side) with values 0 to 1."""
        return self.image_encoder(pictures)

    def decode(
        self,
        embedding: Tensor,
        boxes: Tensor | None = None,
        *,
        points: Tensor | None = None,
        inside: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks of n prompts on one picture, or of one prompt on each of n pictures.

        Parameters
        ----------
        embedding : torch.Tensor, shape (1 or n, 256, 64, 64)
            Of `encode`.
        boxes : torch.Tensor or None, shape (n, 4), float32
            x0, y0, x1, y1: pixel edges on the picture, the far corner one
            past the last pixel.
        points : torch.Tensor or None, shape (n, p, 2), float32
            x, y on the picture. Boxes or points must be given.
        inside : torch.Tensor or None, shape (n, p), bool
            Whether each point is in the structure; given with `points`.
        masks : torch.Tensor or None, shape (n, 1, 256, 256), float32
            Logits of an earlier mask.

        Returns
        -------
        logits : torch.Tensor, shape (n, 256, 256)
            Above 0 is inside.
        iou : torch.Tensor, shape (n,)
            The network's own estimate of its IoU, not calibrated.
        """
        encoder = self.prompt_encoder
        tokens = []
        if points is not None and inside is not None:
            tokens.append(encoder.point_tokens(points, inside))
            if boxes is None:
                tokens.append(encoder.no_point(len(points)))
        if boxes is not None:
            tokens.append(encoder.box_tokens(boxes))
        prompt = torch.cat(tokens, dim=1)
        added = encoder.without_mask() if masks is None else encoder.with_mask(masks)
        image = embedding.expand(len(prompt), -1, -1, -1) + added
        return self.mask_decoder(image, encoder.grid(), prompt)

    def forward(self, pictures: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Encode and decode: one box on each picture."""
        return self.decode(self.encode(pictures), boxes)


class LiteMedSam(Sam):
    """SAM with a TinyViT, for pictures of 256 x 256.

    Examples
    --------
    >>> network = LiteMedSam().eval()
    >>> embedding = network.encode(torch.zeros(1, 3, 256, 256))
    >>> logits, iou = network.decode(embedding, torch.tensor([[60.0, 60.0, 200.0, 180.0]]))
    >>> logits.shape, iou.shape
    (torch.Size([1, 256, 256]), torch.Size([1]))
    """

    PICTURE_SIDE = 256

    def __init__(self) -> None:
        super().__init__(ImageEncoder(), self.PICTURE_SIDE)
