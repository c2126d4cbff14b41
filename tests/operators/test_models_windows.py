"""The windowed argmax is that of MONAI's sliding windows, in a fraction of the memory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from operators.models.windows import windowed_argmax


class Random(torch.nn.Module):
    """A convolution with random weights; each window is seen with zeros around it."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(classes)
            self.layer = torch.nn.Conv3d(1, classes, 3, padding=1)
        self.largest = 0

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        self.largest = max(self.largest, len(windows))
        return self.layer(windows)


def peak_mb(*, reset: bool = False) -> float:
    """Largest resident size of this process since the last reset, MB (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


CASES = {
    "blocks": ((40, 31, 25), {"roi_size": (16, 16, 16), "overlap": 0.25}),
    "gaussian": ((30, 33, 47), {"roi_size": (16, 12, 20), "overlap": 0.5, "mode": "gaussian"}),
    "overlap per axis": ((33, 20, 41), {"roi_size": 16, "overlap": (0.1, 0.5, 0.8)}),
    "one window": ((16, 16, 16), {"roi_size": (16, 16, 16)}),
    "smaller than the window": (
        (9, 40, 14),
        {"roi_size": (16, 16, 16), "padding_mode": "replicate", "mode": "gaussian"},
    ),
    "padded with a value": ((10, 11, 12), {"roi_size": (16, 16, 16), "cval": -3.0}),
    "whole axis": ((20, 24, 40), {"roi_size": (16, -1, 16), "overlap": 0.25}),
}


@pytest.mark.parametrize("sw_batch_size", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_labels_are_those_of_monais_sliding_windows(case, sw_batch_size):
    size, arguments = CASES[case]
    inferer = SlidingWindowInferer(sw_batch_size=sw_batch_size, **arguments)
    network = Random(7)
    image = torch.rand((1, 1, *size), generator=torch.Generator().manual_seed(1))

    with torch.inference_mode():
        expected = inferer(image, network)[0].argmax(dim=0)
        network.largest = 0
        labels = windowed_argmax(inferer, image, network)

    assert labels.dtype == torch.uint8 and labels.shape == size
    assert len(labels.unique()) > 3  # the comparison is not of two empty maps
    assert (labels != expected).float().mean() < 1e-4  # sums in another order: ties
    assert network.largest <= sw_batch_size


def test_more_than_256_classes_do_not_wrap_round():
    inferer = SlidingWindowInferer(roi_size=8)

    def network(windows: torch.Tensor) -> torch.Tensor:
        scores = torch.zeros(len(windows), 300, *windows.shape[2:])
        scores[:, 299] = 1.0
        return scores

    labels = windowed_argmax(inferer, torch.zeros(1, 1, 8, 8, 12), network)

    assert labels.unique().tolist() == [299]


def test_a_network_that_answers_in_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"window \(8, 8, 8\)"):
        windowed_argmax(
            SlidingWindowInferer(roi_size=8), torch.zeros(1, 1, 8, 8, 8), lambda w: w[..., ::2]
        )


def test_105_classes_of_a_long_volume_need_the_band_and_no_more():
    """All channels at once would be 105 x 32 x 32 x 1024 float32 = 440 MB; the band is 14 MB."""
    inferer = SlidingWindowInferer(roi_size=32, overlap=0.25)

    def network(windows: torch.Tensor) -> torch.Tensor:
        return windows.expand(-1, 105, -1, -1, -1)

    image = torch.rand(1, 1, 32, 32, 1024)
    with torch.inference_mode():
        windowed_argmax(inferer, image[..., :64], network)  # libraries are warm
        before_mb = peak_mb(reset=True)
        labels = windowed_argmax(inferer, image, network)
        grown_mb = peak_mb() - before_mb

    assert labels.shape == (32, 32, 1024)
    assert grown_mb < 150
