"""Small bundles laid out as the MONAI model zoo lays them out, with RANDOM weights.

Their inference configs say what those of spleen_ct_segmentation 0.5.9 and
wholeBody_ct_segmentation 0.2.5 say, but for the size of network and window:
references, expressions, order of the steps, checkpoint loader and all. They
find nothing: the weights are drawn from a seed, and the title says so.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.ndimage import gaussian_filter

IMAGE_KEY = "@image_key"


def _frame(network: dict[str, Any], inferer: dict[str, Any], **own: Any) -> dict[str, Any]:
    """What both published configs share."""
    load_all = "$@checkpointloader(@evaluator) if @load_pretrain else None"
    return {
        "imports": ["$import glob", "$import numpy", "$import os"],
        "bundle_root": ".",
        "image_key": "image",
        "output_dir": "$@bundle_root + '/eval'",
        "output_ext": ".nii.gz",
        "output_dtype": "$numpy.float32",
        "output_postfix": "trans",
        "separate_folder": True,
        "load_pretrain": True,
        "dataset_dir": "/nowhere",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': i} for i in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": inferer,
        "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": True,
        },
        "checkpointloader": {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
        },
        "initialize": ["$monai.utils.set_determinism(seed=123)", load_all],
        "run": ["$@evaluator.run()"],
        **own,
    }


def _keyed(target: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": target, "keys": IMAGE_KEY, **arguments}


def _invert(*, nearest: bool) -> dict[str, Any]:
    return {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": IMAGE_KEY,
        "nearest_interp": nearest,
        "to_tensor": True,
    }


SOFTMAX = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
ARGMAX = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
SAVE = {
    "_target_": "SaveImaged",
    "keys": "pred",
    "output_dir": "@output_dir",
    "output_ext": "@output_ext",
    "output_dtype": "@output_dtype",
    "output_postfix": "@output_postfix",
    "separate_folder": "@separate_folder",
}


def spleen_config() -> dict[str, Any]:
    """Interpolated probabilities, then the argmax; here a UNet of a few channels."""
    network = {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "channels": [4, 8, 8],
        "strides": [2, 2],
        "num_res_units": 2,
        "norm": "batch",
    }
    inferer = {
        "_target_": "SlidingWindowInferer",
        "roi_size": [16, 16, 16],
        "sw_batch_size": 4,
        "overlap": 0.5,
    }
    window = {"a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1, "clip": True}
    preprocessing = [
        _keyed("LoadImaged"),
        _keyed("EnsureChannelFirstd"),
        _keyed("Orientationd", axcodes="RAS"),
        _keyed("Spacingd", pixdim=[1.5, 1.5, 2.0], mode="bilinear"),
        _keyed("ScaleIntensityRanged", **window),
        _keyed("EnsureTyped"),
    ]
    return _frame(
        network,
        inferer,
        preprocessing={"_target_": "Compose", "transforms": preprocessing},
        postprocessing={
            "_target_": "Compose",
            "transforms": [SOFTMAX, _invert(nearest=False), ARGMAX, SAVE],
        },
    )


def whole_body_config(classes: int = 6) -> dict[str, Any]:
    """The argmax first, then the inverse by nearest neighbour; a switch chooses the spacing."""
    network = {
        "_target_": "SegResNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": classes,
        "init_filters": 8,
        "blocks_down": [1, 1],
        "blocks_up": [1],
        "dropout_prob": 0.2,
    }
    inferer = {
        "_target_": "SlidingWindowInferer",
        "roi_size": [16, 16, 16],
        "sw_batch_size": "@displayable_configs#sw_batch_size",
        "overlap": "@displayable_configs#sw_overlap",
        "padding_mode": "replicate",
        "mode": "gaussian",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    }
    preprocessing = [
        _keyed("LoadImaged"),
        _keyed("EnsureTyped"),
        _keyed("EnsureChannelFirstd"),
        _keyed("Orientationd", axcodes="RAS"),
        _keyed("Spacingd", pixdim="@pixdim", mode="bilinear"),
        _keyed("NormalizeIntensityd", nonzero=True),
        _keyed("ScaleIntensityd", minv=-1.0, maxv=1.0),
    ]
    return _frame(
        network,
        inferer,
        displayable_configs={"highres": True, "sw_overlap": 0.25, "sw_batch_size": 1},
        pixdim="$[1.5, 1.5, 1.5] if @displayable_configs#highres else [3.0, 3.0, 3.0]",
        modelname="$'model.pt' if @displayable_configs#highres else 'model_lowres.pt'",
        checkpointloader={
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/' + @modelname",
            "load_dict": {"model": "@network"},
        },
        preprocessing={"_target_": "Compose", "transforms": preprocessing},
        postprocessing={
            "_target_": "Compose",
            "transforms": [SOFTMAX, ARGMAX, _invert(nearest=True), SAVE],
        },
    )


def card(classes: int, **changes: Any) -> dict[str, Any]:
    """A card for labels that mean nothing."""
    anatomy = {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"}
    spleen = {"value": "78961009", "scheme": "SCT", "meaning": "Spleen"}
    segments = [
        {
            "number": number,
            "name": f"random_{number}",
            "label": f"RANDOM {number}",
            "category": anatomy,
            "type": spleen,
            "colour": [200, number % 256, 40],
        }
        for number in range(1, classes)
    ]
    return {
        "title": "RANDOM weights, finds nothing (test bundle)",
        "manufacturer": "radloop tests",
        "unit": "HU",
        "accepts": {"modality": ["CT"], "body_part": ["PHANTOM"], "slices": {"min": 8}},
        "segments": segments,
        "weights": {
            "file": "models/model.pt",
            "sha256": None,
            "origin": "RANDOM",
            "licence": "Apache-2.0",
            "commercial_use": "yes",
        },
        "intended_use": "Tests only: RANDOM weights.",
        "limits": ["RANDOM weights."],
        **changes,
    }


def write_bundle(
    folder: Path,
    config: dict[str, Any],
    *,
    seed: int = 5,
    wrapped: bool = False,
    version: str = "0.0.1",
    channels: dict[str, str] | None = None,
    own_card: bool = True,
    pinned: bool = False,
) -> Path:
    """Write a bundle in the zoo's layout.

    Parameters
    ----------
    folder : Path
        Made here.
    config : dict
        Inference config.
    seed : int
        Of the weights.
    wrapped : bool
        The checkpoint is ``{"model": state}``, not the plain state.
    version : str
        In its metadata.
    channels : dict or None
        `channel_def` of its metadata.
    own_card : bool
        Put a card in.
    pinned : bool
        The card names the weights, as after an import.
    """
    import torch

    for part in ("configs", "models", "docs"):
        (folder / part).mkdir(parents=True)
    (folder / "LICENSE").write_text("Apache-2.0\n")
    (folder / "docs" / "README.md").write_text("RANDOM weights, for tests.\n")
    (folder / "configs" / "inference.json").write_text(json.dumps(config, indent=2))
    classes = config["network_def"]["out_channels"]
    named = {str(number): f"random_{number}" for number in range(1, classes)}
    outputs = {"pred": {"channel_def": channels or {"0": "background", **named}}}
    metadata = {
        "version": version,
        "changelog": {version: "first"},
        "monai_version": "1.6.1",
        "pytorch_version": "2.13.0",
        "numpy_version": "2.4.6",
        "task": "none: RANDOM weights",
        "network_data_format": {"inputs": {}, "outputs": outputs},
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata, indent=2))
    state = random_state(config["network_def"], seed)
    weights = folder / "models" / "model.pt"
    torch.save({"model": state} if wrapped else state, weights)
    if own_card:
        content = card(classes)
        if pinned:
            content["weights"]["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
        (folder / "card.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


def random_state(network_def: dict[str, Any], seed: int) -> dict[str, Any]:
    """Random weights whose last bias is shifted until no class wins everywhere."""
    import torch
    from monai.bundle import ConfigParser

    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        network = ConfigParser({"n": network_def}).get_parsed_content("n").eval()
        like = torch.from_numpy(smooth_noise((32, 32, 32), seed=1).astype(np.float32))
        scores = network(like.expand(1, network_def["in_channels"], *like.shape))[0]
        state = network.state_dict()
        last = [name for name in state if name.endswith("bias")][-1]
        assert state[last].shape == (network_def["out_channels"],)
        state[last] -= scores.mean(dim=(1, 2, 3))
    return {name: value.clone() for name, value in state.items()}


def smooth_noise(shape: tuple[int, ...], *, seed: int) -> np.ndarray:
    """Blobs of a few voxels with values from 0 to 1, float64."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2.5)
    return np.asarray((noise - noise.min()) / np.ptp(noise))
