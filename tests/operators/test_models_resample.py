"""Labels and planes on another grid, against interpolating every channel everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from operators.models.resample import labels_on_grid, nearest_on_grid, planes_on_grid

TIE = 1e-5  # nearer to one another than this, either of two classes is right


def blobs(channels: int, shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    """Smooth probabilities with a border through most of the volume."""
    torch.manual_seed(seed)
    coarse = torch.randn(1, channels, *[max(2, n // 5) for n in shape])
    fine = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0]
    return (3 * fine).softmax(0)


def turned(degrees: float, zoom: float, shift: tuple[float, float, float]) -> torch.Tensor:
    """Index of the wanted grid → index of the source: turned about two axes, finer, shifted."""
    a = np.deg2rad(degrees)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_z @ about_x / zoom
    matrix[:3, 3] = shift
    return torch.from_numpy(matrix)


FLIPPED = torch.tensor(
    [[0, -0.4, 0, 19.3], [0.7, 0, 0, -0.9], [0, 0, 0.31, 0.2], [0, 0, 0, 1]], dtype=torch.float64
)
GRIDS = {
    "finer, axes swapped, one flipped, beyond the border": FLIPPED,
    "oblique": turned(17, 1.8, (3, 4, -2)),
    "coarser": turned(0, 0.43, (1, 1, -0.4)),
}
TARGET = (45, 50, 40)


def everywhere(source: np.ndarray, matrix: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Each channel, trilinear by scipy, and whether the source reaches there."""
    index = np.stack(np.meshgrid(*map(np.arange, TARGET), indexing="ij")).reshape(3, -1)
    at = matrix.numpy()[:3, :3] @ index + matrix.numpy()[:3, 3:]
    last = np.array(source.shape[1:])[:, None] - 1
    inside = ((at >= -0.5) & (at <= last + 0.5)).all(axis=0)
    at = np.clip(at, 0, last)
    values = np.stack([ndimage.map_coordinates(channel, at, order=1) for channel in source])
    return values.reshape(-1, *TARGET), inside.reshape(TARGET)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shape", [(20, 24, 22), (20, 24, 1)])
@pytest.mark.parametrize("channels", [2, 9])
def test_labels_are_those_of_interpolating_every_channel(grid, shape, channels):
    source = blobs(channels, shape, 3) if shape[2] > 1 else blobs(channels, (*shape[:2], 5), 3)
    source = source[..., : shape[2]]
    made = labels_on_grid(MetaTensor(source, affine=torch.eye(4)), GRIDS[grid], TARGET).numpy()

    values, inside = everywhere(source.numpy(), GRIDS[grid])
    best, second = np.sort(values, axis=0)[[-1, -2]]
    clear = (best - second > TIE) & inside
    assert np.array_equal(made[clear], values.argmax(axis=0)[clear])
    assert clear.sum() > 0.9 * inside.sum() and not made[~inside].any()
    if shape[2] > 1:
        assert len(np.unique(made)) == channels and 0 < inside.mean() <= 1


def test_a_class_that_is_second_at_every_voxel_is_found_between_them():
    # Two classes change places from one voxel to the next and have 0.35 in the middle; the
    # third, which is at neither voxel the largest, has 0.4 all along.
    source = torch.tensor([[0.6, 0.1], [0.1, 0.6], [0.4, 0.4]]).reshape(3, 2, 1, 1)
    made = labels_on_grid(
        MetaTensor(source, affine=torch.eye(4)),
        torch.diag(torch.tensor([0.25, 1, 1, 1], dtype=torch.float64)),
        (5, 1, 1),
    )
    assert made.flatten().tolist() == [0, 0, 2, 1, 1]


@pytest.mark.parametrize("grid", GRIDS)
def test_planes_are_those_of_interpolating_every_channel(grid):
    source = blobs(9, (20, 24, 22), 5)
    made = planes_on_grid(MetaTensor(source, affine=torch.eye(4)), GRIDS[grid], TARGET, 0.2, 7)

    values, inside = everywhere(source.numpy()[:7], GRIDS[grid])
    for n, channel in enumerate(values):
        clear = (abs(channel - 0.2) > TIE) & inside
        assert np.array_equal((made >> n & 1)[clear] > 0, channel[clear] >= 0.2)
        assert (channel[clear] >= 0.2).any()
    assert made.dtype == np.uint8 and not made[~inside].any()


@pytest.mark.parametrize("grid", GRIDS)
def test_decided_labels_go_to_the_nearest_voxel(grid):
    labels = torch.randint(0, 200, (20, 24, 22), dtype=torch.uint8)
    made = nearest_on_grid(labels, torch.eye(4), GRIDS[grid], TARGET).numpy()

    index = np.stack(np.meshgrid(*map(np.arange, TARGET), indexing="ij")).reshape(3, -1)
    matrix = GRIDS[grid].numpy()
    at = matrix[:3, :3] @ index + matrix[:3, 3:]
    last = np.array(labels.shape)[:, None] - 1
    inside = ((at >= -0.5) & (at <= last + 0.5)).all(axis=0).reshape(TARGET)
    at = np.clip(at, 0, last)
    clear = (abs(at % 1 - 0.5) > TIE).all(axis=0).reshape(TARGET) & inside
    wanted = labels.numpy()[tuple(np.rint(at).astype(int))].reshape(TARGET)
    assert np.array_equal(made[clear], wanted[clear]) and clear.sum() > 0.5 * inside.sum() > 0
    assert not made[~inside].any()


@pytest.mark.parametrize("degrees", [0, 3, 11, 29, 44, 61, 83])
def test_a_slice_that_ends_where_the_source_ends_is_not_lost_to_rounding(degrees):
    # 14 voxels of 0.5 mm under 7 of 1 mm: the outer voxels' centres lie on the very edge.
    own = turned(degrees, 1.0, (290.5, 305.05, 8.57))
    wanted = own @ torch.diag(torch.tensor([0.5, 0.5, 0.5, 1.0], dtype=torch.float64))
    wanted[:3, 3] = own[:3, 3] + own[:3, :3] @ torch.full((3,), -0.5, dtype=torch.float64)
    labels = torch.ones((7, 7, 7), dtype=torch.uint8)
    assert nearest_on_grid(labels, own, wanted, (15, 15, 15)).all()
    scores = MetaTensor(torch.stack([torch.zeros(7, 7, 7), torch.ones(7, 7, 7)]), affine=own)
    assert labels_on_grid(scores, wanted, (15, 15, 15)).all()


def test_half_way_between_two_voxels_nothing_moves_to_one_side():
    twice_as_fine = torch.diag(torch.tensor([0.5, 1, 1, 1], dtype=torch.float64))
    labels = torch.arange(1, 8, dtype=torch.uint8).reshape(7, 1, 1)
    made = nearest_on_grid(labels, torch.eye(4), twice_as_fine, (13, 1, 1)).flatten()
    assert made.tolist() == [1, 1, 2, 3, 3, 3, 4, 5, 5, 5, 6, 7, 7]
