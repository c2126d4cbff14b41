"""Dice of the network and of trivial methods on the same crops and the same loose boxes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from skimage.filters import threshold_otsu
from torch import Tensor

from operators.models.medsam.network import LiteMedSam
from operators.models.medsam.picture import Box, Crop, box_in_picture, to_mask
from operators.models.medsam.propagate import bounding_box, largest_piece

from .crops import CropSpec
from .embeddings import Kept, load


@dataclass(frozen=True)
class Score:
    """How one method did on one crop.

    Attributes
    ----------
    data, patient, structure, key : str
        Of the crop.
    method : str
        ``"published"``, ``"tuned"``, ``"filled box"``, …
    dice : float
        0 to 1, on the pixels of the slice.
    iou : float or None
        What the network says of its first mask; None for the trivial methods.
    """

    data: str
    patient: str
    structure: str
    key: str
    method: str
    dice: float
    iou: float | None = None


def dice(found: np.ndarray, wanted: np.ndarray) -> float:
    """Twice the intersection over the sum of two masks; `wanted` is not empty."""
    return float(2 * (found & wanted).sum() / (found.sum() + wanted.sum()))


def box_on_crop(spec: CropSpec) -> Box:
    """The loose box in pixel edges of the crop."""
    x0, y0, x1, y1 = spec.box
    left, top = spec.crop.left, spec.crop.top
    return x0 - left, y0 - top, x1 - left, y1 - top


def filled_box(plane: np.ndarray, box: Box) -> np.ndarray:
    """Every pixel whose centre is in the box, shape of the plane, bool."""
    y, x = _centres(plane.shape)
    x0, y0, x1, y1 = box
    return (x > x0) & (x < x1) & (y > y0) & (y < y1)


def ellipse(plane: np.ndarray, box: Box) -> np.ndarray:
    """Every pixel whose centre is in the ellipse that touches the four sides."""
    y, x = _centres(plane.shape)
    x0, y0, x1, y1 = box
    across = (2 * x - x0 - x1) / (x1 - x0)
    down = (2 * y - y0 - y1) / (y1 - y0)
    return across**2 + down**2 <= 1.0


def otsu(plane: np.ndarray, box: Box) -> np.ndarray:
    """The box's brighter or darker part, whichever fills more of the ellipse of half its size."""
    inside = filled_box(plane, box)
    values = plane[inside]
    if values.min() == values.max():
        return inside
    bright = plane > threshold_otsu(values)
    x0, y0, x1, y1 = box
    quarter_x, quarter_y = (x1 - x0) / 4, (y1 - y0) / 4
    middle = ellipse(plane, (x0 + quarter_x, y0 + quarter_y, x1 - quarter_x, y1 - quarter_y))
    chosen = bright if bright[middle].mean() >= 0.5 else ~bright
    return chosen & inside


def _centres(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Centres of rows and columns, in pixel edges."""
    return np.arange(shape[0])[:, None] + 0.5, np.arange(shape[1])[None] + 0.5


BASELINES: Mapping[str, Callable[[np.ndarray, Box], np.ndarray]] = {
    "filled box": filled_box,
    "ellipse": ellipse,
    "Otsu in the box": otsu,
}


def baseline_scores(spec: CropSpec, kept: Kept) -> list[Score]:
    """The trivial methods on one crop."""
    box = box_on_crop(spec)
    return [
        _score(spec, name, dice(method(kept.plane, box), kept.mask))
        for name, method in BASELINES.items()
    ]


def network_scores(network: LiteMedSam, name: str, spec: CropSpec, kept: Kept) -> list[Score]:
    """One network on one crop: its first mask, and the one from the tight box of the first.

    The second is what `medsam_lite` does; its method is called ``NAME, two looks``.
    """
    whole = Crop(0, 0, *kept.mask.shape)
    embedding = kept.embedding[None].float()

    def look(box: Box) -> tuple[np.ndarray, float]:
        with torch.inference_mode():
            logits, iou = network.decode(embedding, torch.tensor([box_in_picture(box, whole)]))
        return largest_piece(to_mask(logits[0], whole, kept.mask.shape)), float(iou[0])

    first, iou = look(box_on_crop(spec))
    second = look(bounding_box(first, 0.0))[0] if first.any() else first
    return [
        _score(spec, name, dice(first, kept.mask), iou),
        _score(spec, f"{name}, two looks", dice(second, kept.mask), iou),
    ]


def _score(spec: CropSpec, method: str, value: float, iou: float | None = None) -> Score:
    return Score(spec.data, spec.patient, spec.structure, spec.key, method, value, iou)


def measure(
    specs: Iterable[CropSpec],
    embeddings: Path,
    networks: Mapping[str, LiteMedSam],
    file: Path,
) -> list[Score]:
    """All methods on all crops; what stands in `file` already is not measured again.

    Parameters
    ----------
    specs : iterable of CropSpec
        Embedded.
    embeddings : Path
        Of `Lists.embeddings`.
    networks : mapping of LiteMedSam
        By the name of the method.
    file : Path
        JSON lines, one a score. Name it after the weights: it knows nothing of them.

    Returns
    -------
    list of Score
        In the order of `specs`.
    """
    known: dict[str, list[Score]] = {}
    if file.is_file():
        for line in file.read_text().splitlines():
            score = Score(**json.loads(line))
            known.setdefault(score.key, []).append(score)
    file.parent.mkdir(parents=True, exist_ok=True)
    found: list[Score] = []
    for spec in specs:
        if spec.key not in known:
            kept = load(spec, embeddings)
            scores = baseline_scores(spec, kept)
            for name, network in networks.items():
                scores += network_scores(network, name, spec, kept)
            # One write a crop: a cut leaves whole crops behind.
            with file.open("a") as stream:
                stream.write("".join(json.dumps(asdict(score)) + "\n" for score in scores))
            known[spec.key] = scores
        found += known[spec.key]
    return found


def with_decoder(network: LiteMedSam, decoder: Mapping[str, Tensor]) -> LiteMedSam:
    """The network with another mask decoder, strictly."""
    network.mask_decoder.load_state_dict(dict(decoder))
    return network.eval()
