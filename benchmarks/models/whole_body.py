"""A bundle of the size of the zoo's whole-body segmentation, with RANDOM weights, and its CT.

104 structures, SegResNet of 32 filters, windows of 96³: what matters for time and memory.
It finds nothing. The short mode takes a small network and window instead.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from operators.job import Volume

CLASSES = 105
AIR_HU, BALL_HU, BALL_STEP_HU = -1000, 100, 10


def write_bundle(folder: Path, pixdim_mm: float, *, short: bool) -> Path:
    """Write config, metadata, card and weights; the folder's name is the bundle's."""
    import torch
    from monai.networks.nets import SegResNet

    window = 32 if short else 96
    network: dict[str, Any] = {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": CLASSES,
        "init_filters": 8 if short else 32,
        "blocks_down": [1, 1] if short else [1, 2, 2, 4],
        "blocks_up": [1] if short else [1, 1, 1],
        "dropout_prob": 0.2,
    }
    config = {
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": "SegResNet", **network},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureTyped", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
                {
                    "_target_": "Spacingd",
                    "keys": "image",
                    "pixdim": [pixdim_mm] * 3,
                    "mode": "bilinear",
                },
                {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True},
                {"_target_": "ScaleIntensityd", "keys": "image", "minv": -1.0, "maxv": 1.0},
            ],
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [window] * 3,
            "sw_batch_size": 1,
            "overlap": 0.25,
            "padding_mode": "replicate",
            "mode": "gaussian",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": True,
                    "to_tensor": True,
                },
            ],
        },
    }
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    image = {"num_channels": 1, "spatial_shape": [window] * 3, "type": "image", "format": "hu"}
    pred = {**image, "num_channels": CLASSES, "format": "segmentation"}
    metadata = {
        "version": "0.0.1",
        "monai_version": "1.6.1",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    torch.manual_seed(0)
    torch.save(SegResNet(**network).state_dict(), folder / "models" / "model.pt")
    sha256 = hashlib.sha256((folder / "models" / "model.pt").read_bytes()).hexdigest()
    (folder / "card.yaml").write_text(yaml.safe_dump(_card(sha256)))
    return folder


def _card(sha256: str) -> dict[str, Any]:
    anatomy = {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"}
    spleen = {"value": "78961009", "scheme": "SCT", "meaning": "Spleen"}
    return {
        "title": "RANDOM weights, finds nothing (benchmark)",
        "manufacturer": "radloop benchmark",
        "unit": "HU",
        "accepts": {"modality": ["CT"], "slices": {"min": 8}},
        "segments": [
            {
                "number": number,
                "name": f"random_{number}",
                "label": f"RANDOM {number}",
                "category": anatomy,
                "type": spleen,
                "colour": [200, number, 40],
            }
            for number in range(1, CLASSES)
        ],
        "weights": {
            "file": "models/model.pt",
            "sha256": sha256,
            "origin": "RANDOM",
            "licence": "Apache-2.0",
            "commercial_use": "yes",
        },
        "intended_use": "Benchmark only: RANDOM weights.",
        "limits": ["RANDOM weights."],
    }


def hounsfield(shape: tuple[int, int, int]) -> np.ndarray:
    """A body with 104 balls, each of its own HU (`BALL_HU`), in air; shape (z, y, x), int16."""
    rng = np.random.RandomState(7)
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    inside = ((y / shape[1] - 0.5) / 0.4) ** 2 + ((x / shape[2] - 0.5) / 0.45) ** 2 < 1
    hu = np.empty(shape, np.int16)
    for k in range(shape[0]):
        noise = rng.normal(0, 5, shape[1:])
        hu[k] = np.where(inside[0], 40 + noise, AIR_HU + np.abs(noise)).astype(np.int16)
    layers, around = 8, 13
    for n in range(CLASSES - 1):
        layer, place = divmod(n, around)
        angle = 2 * np.pi * place / around
        centre = (
            shape[0] * (layer + 0.5) / layers,
            shape[1] * (0.5 + 0.22 * np.sin(angle)),
            shape[2] * (0.5 + 0.22 * np.cos(angle)),
        )
        radii = (shape[0] / layers * 0.35, shape[1] * 0.035, shape[2] * 0.035)
        ball = sum(
            ((axis - c) / r) ** 2 for axis, c, r in zip((z, y, x), centre, radii, strict=True)
        )
        hu[ball < 1] = BALL_HU + BALL_STEP_HU * (n + 1)
    return hu


def find_balls(window: Any, scores: Any) -> Any:
    """Scores that find the balls, in the place of random ones: as many voxels as organs have.

    Random weights would scatter labels over the whole body, which no SEG or SR is made for.

    Parameters
    ----------
    window : torch.Tensor, shape (n, 1, x, y, z)
        As preprocessed: the whole range of HU brought to -1 to 1.
    scores : torch.Tensor, shape (n, 105, x, y, z)
        Overwritten.
    """
    import torch

    top = BALL_HU + BALL_STEP_HU * (CLASSES - 1)
    hu = (window.as_subclass(torch.Tensor) + 1) / 2 * (top - AIR_HU) + AIR_HU
    label = ((hu - BALL_HU) / BALL_STEP_HU).round()
    # The rim of a ball is blurred by resampling and passes through the steps of others: only
    # what has one step around it counts.
    high = torch.nn.functional.max_pool3d(label, 3, stride=1, padding=1)
    low = -torch.nn.functional.max_pool3d(-label, 3, stride=1, padding=1)
    label = torch.where((low == high) & (label >= 1) & (label < CLASSES), label, 0.0)
    return scores.zero_().scatter_(1, label.long(), 1.0)


def volume(hu: np.ndarray, pixel_mm: float, slice_mm: float) -> Volume:
    """The same in memory, as the volume builder would hand it over."""
    return Volume(
        array=hu,
        lps_from_index=np.diag([pixel_mm, pixel_mm, slice_mm, 1.0]),
        unit="HU",
        frame_of_reference_uid="1.2.3",
        headers=(),
        series_instance_uid="1.2.3.4",
        bundle="whole_body",
    )
