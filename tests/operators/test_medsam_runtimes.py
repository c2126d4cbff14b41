"""A prompted network with its encoder in other runtimes: a small one, and the real decoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from operators.job import Volume
from operators.models.medsam.compare import dice_of_boxes
from operators.models.medsam.network import LiteMedSam
from operators.models.medsam.parts import exportable_parts, modules_of, take_over
from operators.models.runtimes.export import export_network
from operators.models.runtimes.interface import Subject
from operators.models.runtimes.serve import serve
from tests.zoo import smooth_noise

SUBJECT = Subject("small_sam", "a" * 64, "b" * 64)


def small_sam(seed: int) -> LiteMedSam:
    """LiteMedSAM's own prompt encoder and decoder, random, behind one convolution."""
    torch.manual_seed(seed)
    network = LiteMedSam()
    network.image_encoder = torch.nn.Conv2d(3, 256, 4, stride=4)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> LiteMedSam:
    return small_sam(3)


@pytest.mark.parametrize(("format_", "kind"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_any_prompt_gets_the_mask_that_torch_gives(tmp_path, network, format_, kind):
    parts = modules_of(network)
    export_network(exportable_parts(network), SUBJECT, format_, "float32", tmp_path)
    picture = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[20.0, 30.0, 120.0, 140.0], [100.0, 90.0, 230.0, 240.0], [5, 5, 60, 70]])
    points = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(2)) * 256
    inside = torch.tensor([[True, True, False, True]] * 3)
    earlier = torch.randn(3, 1, 256, 256, generator=torch.Generator().manual_seed(4))

    def answers() -> list[torch.Tensor]:
        with torch.inference_mode():
            embedding = network.encode(picture)
            return [
                embedding,
                *network.decode(embedding, boxes[:1]),
                *network.decode(embedding, boxes),
                *network.decode(embedding, points=points, inside=inside),
                *network.decode(embedding, boxes, points=points, inside=inside, masks=earlier),
            ]

    right = answers()
    serving = serve(parts, torch.device("cpu"), SUBJECT, tmp_path, (kind,))
    take_over(network, serving)
    found = answers()
    take_over(network, serve(parts, torch.device("cpu"), SUBJECT, None, ("torch",)))

    assert serving.name.startswith(f"{kind}-cpu-float32-")
    for mine, expected in zip(found, right, strict=True):
        assert mine.shape == expected.shape
        assert (mine - expected).abs().max() <= 1e-3 * expected.abs().max()
    assert modules_of(network) == parts  # torch has them back


class Loaded:
    """As much of a loaded bundle as the comparison looks at."""

    def __init__(self, network: LiteMedSam) -> None:
        self.network = network


def test_masks_of_another_encoder_lose_dice_and_those_of_the_same_do_not(network):
    array = (smooth_noise((8, 64, 64), seed=1) * 400 - 100).astype(np.int16)
    volume = Volume(array, np.eye(4), "HU", "1.2", (), "1.2.3", "small_sam")
    own = serve(modules_of(network), torch.device("cpu"), SUBJECT, None, ("torch",))
    other = serve(modules_of(small_sam(8)), torch.device("cpu"), SUBJECT, None, ("torch",))

    same = dice_of_boxes(Loaded(network), own, [volume])
    changed = dice_of_boxes(Loaded(network), other, [volume])

    assert same and all(dice == pytest.approx(1.0, abs=1e-4) for dice in same.values())
    assert min(changed.values()) < 0.9
