"""What a hospital's CT holds and the challenge's masked CTs don't: a table and noisy air."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable

AIR_HU = -1000.0


class RandTabled(Randomizable, MapTransform):
    """Put a couch behind the patient and noise into the air, sometimes.

    The data set is exactly -1024 HU outside the body mask, so a network trained
    on it alone has never seen a table. Input is (1, X, Y, Z) in RAS, HU: smaller
    Y is posterior.

    Parameters
    ----------
    keys : KeysCollection
        Images to change.
    prob : float
        How often.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.5) -> None:
        MapTransform.__init__(self, keys)
        self.prob = prob

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """A copy of `data` with the images changed."""
        out = dict(data)
        if self.R.random() >= self.prob:
            return out
        gap, thickness = self.R.randint(0, 4), self.R.randint(1, 5)
        shell_hu = float(self.R.uniform(-300, 400))
        core_hu = float(self.R.uniform(-980, -700))
        noise_hu = float(self.R.uniform(0, 25))
        for key in self.key_iterator(out):
            image = out[key].clone()
            body = image[0] > -400.0
            rows = torch.nonzero(body.any(dim=2).any(dim=0))
            outside = image[0] <= AIR_HU
            if rows.numel():
                top = int(rows.min()) - int(gap)
                bottom = max(0, top - int(thickness))
                if top > 0:
                    slab = torch.zeros_like(outside)
                    slab[:, bottom:top, :] = True
                    edge = torch.zeros_like(outside)
                    edge[:, bottom, :] = True
                    edge[:, top - 1, :] = True
                    image[0][slab & outside] = core_hu
                    image[0][edge & outside] = shell_hu
            noise = self.R.normal(0.0, max(noise_hu, 1e-3), tuple(image.shape)).astype(np.float32)
            image = image + torch.from_numpy(noise) * outside[None]
            out[key] = image
        return out
