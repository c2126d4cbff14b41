"""How much another runtime changes the masks of a prompted network, on real images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from operators.job import Volume
from operators.models.medsam.parts import ENCODER
from operators.models.medsam.picture import display_window, to_picture
from operators.models.runtimes.interface import Serving
from operators.models.runtimes.refusals import CheckNeeded

if TYPE_CHECKING:
    from operators.models.medsam.model import LoadedMedSam

SLICES = (0.25, 0.5, 0.75)
# x0, y0, x1, y1 in parts of the picture: large and small, in the middle and beside it.
BOXES = (
    (0.30, 0.30, 0.70, 0.70),
    (0.20, 0.35, 0.45, 0.60),
    (0.55, 0.35, 0.80, 0.60),
    (0.42, 0.42, 0.58, 0.58),
)
MIN_PIXELS = 100


def dice_of_boxes(
    loaded: LoadedMedSam, serving: Serving, volumes: Iterable[Volume]
) -> dict[str, float]:
    """Dice of another runtime's masks against torch's, each place of the boxes by itself.

    Parameters
    ----------
    loaded : LoadedMedSam
        Answering by torch.
    serving : Serving
        The other runtime.
    volumes : iterable of Volume
        Real images; three slices of each are asked four boxes.

    Raises
    ------
    CheckNeeded
        No box holds anything.
    """
    import torch

    network = loaded.network
    agree, found = [0] * len(BOXES), [0] * len(BOXES)
    with torch.inference_mode():
        boxes = torch.tensor(BOXES) * network.PICTURE_SIDE
        for volume in volumes:
            window = display_window(volume)
            for part in SLICES:
                plane = volume.array[int(part * len(volume.array))]
                picture = to_picture(plane, window, network.PICTURE_SIDE)
                ours, _ = network.decode(network.encode(picture), boxes)
                theirs, _ = network.decode(serving.parts[ENCODER](picture), boxes)
                for n, (a, b) in enumerate(zip(ours > 0, theirs > 0, strict=True)):
                    agree[n] += int((a & b).sum())
                    found[n] += int(a.sum()) + int(b.sum())
    dice = {
        f"box {n + 1}": 2 * same / total
        for n, (same, total) in enumerate(zip(agree, found, strict=True))
        if total >= 2 * MIN_PIXELS
    }
    if not dice:
        raise CheckNeeded(loaded.card.name, "its boxes hold nothing in that study")
    return dice
