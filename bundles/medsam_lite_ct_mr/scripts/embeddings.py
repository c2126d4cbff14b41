"""Embeddings of crops, computed once and kept on disk as float16.

The encoder is not trained, and it is by far the slowest part: with its answers on
disk a training step or a measurement costs the decoder only. A crop whose file is
there is not computed again, so that the work can be done in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from operators.models.medsam.network import LiteMedSam
from operators.models.medsam.picture import PICTURE_SIDE, box_in_picture, fitted_shape, to_picture

from .boxes import tight_box
from .crops import CropSpec, show
from .volumes import Source

Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Kept:
    """What is on disk of one crop.

    Attributes
    ----------
    embedding : torch.Tensor, shape (256, 64, 64), float16
    mask : numpy.ndarray, shape (rows, columns), bool
        The outline on the pixels of the crop.
    plane : numpy.ndarray, shape (rows, columns), float32
        The values of the crop, for baselines that look at them.
    """

    embedding: Tensor
    mask: np.ndarray
    plane: np.ndarray


def encoder(network: LiteMedSam) -> Encode:
    """The encoder in bfloat16, channels last: far faster than float32 on a CPU."""
    network.image_encoder.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(picture: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            return network.encode(picture.to(memory_format=torch.channels_last))

    return encode


def keep(
    specs: Iterable[CropSpec],
    sources: Iterable[Source],
    folder: Path,
    encode: Encode,
    said: Callable[[int], None] = lambda count: None,
) -> None:
    """Compute what is missing of some crops' embeddings.

    Parameters
    ----------
    specs : iterable of CropSpec
        The crops.
    sources : iterable of Source
        Where their volumes are.
    folder : Path
        Where the embeddings are kept; made if missing.
    encode : callable
        Pictures (1, 3, 256, 256) to embeddings (1, 256, 64, 64).
    said : callable
        Is told after every crop how many were computed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_case = {(source.data, source.case): source for source in sources}
    missing = [spec for spec in specs if not file_of(spec, folder).is_file()]
    done = 0
    for case, of_case in groupby(missing, key=lambda spec: (spec.data, spec.case)):
        volume = by_case[case].read()
        for spec in of_case:
            shown = show(volume, spec)
            plane = spec.crop.of(shown.plane)
            embedding = encode(to_picture(plane, volume.window))[0].to(torch.float16)
            partial = file_of(spec, folder).with_suffix(".partial")
            with partial.open("wb") as file:
                np.savez(
                    file,
                    embedding=embedding.numpy(),
                    mask=spec.crop.of(shown.mask),
                    plane=plane.astype(np.float32),
                )
            partial.replace(file_of(spec, folder))
            done += 1
            said(done)


def file_of(spec: CropSpec, folder: Path) -> Path:
    """Where the embedding of a crop is kept."""
    return folder / f"{spec.key}.npz"


def load(spec: CropSpec, folder: Path) -> Kept:
    """What `keep` has written of one crop."""
    with np.load(file_of(spec, folder), allow_pickle=False) as stored:
        return Kept(torch.from_numpy(stored["embedding"]), stored["mask"], stored["plane"])


def picture_mask(mask: np.ndarray) -> Tensor:
    """The outline on the picture that the network sees.

    Parameters
    ----------
    mask : numpy.ndarray, shape (rows, columns), bool
        On the pixels of the crop.

    Returns
    -------
    torch.Tensor, shape (256, 256), float32
        0 or 1; 0 where the picture is padded.
    """
    height, width = fitted_shape(mask.shape)
    values = torch.from_numpy(mask.astype(np.float32))[None, None]
    fitted = functional.interpolate(values, (height, width), mode="bilinear")[0, 0] >= 0.5
    return functional.pad(fitted.float(), (0, PICTURE_SIDE - width, 0, PICTURE_SIDE - height))


def tight_in_picture(spec: CropSpec, mask: np.ndarray) -> Tensor:
    """The tight box of a crop's outline, shape (4,), in pixel edges of the 256 x 256 picture."""
    x0, y0, x1, y1 = tight_box(mask)
    on_slice = (
        x0 + spec.crop.left,
        y0 + spec.crop.top,
        x1 + spec.crop.left,
        y1 + spec.crop.top,
    )
    return torch.tensor(box_in_picture(on_slice, spec.crop))
