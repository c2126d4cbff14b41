"""One small bundle for each shape that zoo bundles have, whose answer can be computed by hand.

Laid out as the zoo's are, written by us. All work voxel by voxel on HU (one
1 x 1 x 1 convolution), so that the truth is a comparison of numbers.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

IMAGE = "image"
ANATOMY = {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"}
REGION = {"value": "111099", "scheme": "DCM", "meaning": "Selected region"}
NODULE = {"value": "27925004", "scheme": "SCT", "meaning": "Nodule"}

CUTS = (0.5, 100.5, 300.5)  # HU, no whole numbers: each plane holds all that is above its cut
CLASS_CUT = 50.0  # HU: the mean of an image that is "dense"
BOX_CUT = 300.0  # HU: what a box is drawn round

# A detector and a classifier in the bundle's own package, as the zoo's have theirs.
SCRIPTS = '''
import numpy as np
import torch


class Mean(torch.nn.Module):
    """Two logits from the mean value: 0 and mean - cut, at a scale."""

    def __init__(self, cut):
        super().__init__()
        self.cut = torch.nn.Parameter(torch.tensor(float(cut)))

    def forward(self, image):
        mean = image.flatten(1).mean(dim=1)
        return torch.stack([torch.zeros_like(mean), (mean - self.cut) / 10], dim=1)


class Findings(Mean):
    """Three logits from the mean value, each one lower than that before."""

    def forward(self, image):
        mean = image.flatten(1).mean(dim=1)
        return torch.stack([(mean - self.cut) / 10 - n for n in range(3)], dim=1)


class OneBox:
    """A box round everything above the cut, with the highest value as score."""

    def __call__(self, inputs, network):
        found = []
        for image in network(inputs):
            where = torch.nonzero(image[0] > 0).float()
            if not len(where):
                empty = torch.zeros(0)
                found.append({"box": torch.zeros(0, 6), "label": empty, "label_scores": empty})
                continue
            box = torch.cat([where.amin(dim=0) - 0.5, where.amax(dim=0) + 0.5])
            found.append(
                {
                    "box": box[None],
                    "label": torch.zeros(1, dtype=torch.long),
                    "label_scores": torch.tensor([0.75]),
                }
            )
        return found


class PutTogether:
    """Two images to one, as a numpy array that knows no place: what is known, the dict has."""

    def __call__(self, data):
        data["image"] = np.concatenate([data["late"], data["early"]])
        data["image_meta_dict"] = data["late_meta_dict"]
        return data
'''


def _step(target: str, keys: str = IMAGE, **arguments: Any) -> dict[str, Any]:
    return {"_target_": target, "keys": keys, **arguments}


def _invert(*, nearest: bool) -> dict[str, Any]:
    return _step(
        "Invertd",
        "pred",
        transform="@preprocessing",
        orig_keys=IMAGE,
        nearest_interp=nearest,
        to_tensor=True,
    )


SIGMOID = _step("Activationsd", "pred", sigmoid=True)
SOFTMAX = _step("Activationsd", "pred", softmax=True)
ARGMAX = _step("AsDiscreted", "pred", argmax=True)
HALF = _step("AsDiscreted", "pred", threshold=0.5)
MERGE = _step("Lambdad", "pred", func="$lambda x: x.sum(dim=0, keepdim=True)")
SAVE = _step("SaveImaged", "pred", output_dir="/nowhere")
LOAD = [_step("LoadImaged"), _step("EnsureChannelFirstd")]
TURN = [*LOAD, _step("Orientationd", axcodes="RAS", labels=None)]
WINDOWS = {"_target_": "SlidingWindowInferer", "roi_size": [24, 24, 24], "overlap": 0.25}
SIMPLE = {"_target_": "SimpleInferer"}


def convolution(inputs: int, outputs: int, dimensions: int = 3) -> dict[str, Any]:
    """A network of one weight for each pair of channels."""
    return {
        "_target_": f"torch.nn.Conv{dimensions}d",
        "in_channels": inputs,
        "out_channels": outputs,
        "kernel_size": 1,
    }


def config(
    network: dict[str, Any] | None,
    inferer: dict[str, Any],
    before: list[dict[str, Any]],
    after: list[dict[str, Any]],
) -> dict[str, Any]:
    """An inference config."""
    return {
        "imports": ["$import torch"],
        **({} if network is None else {"network_def": network}),
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "inferer": inferer,
        "postprocessing": {"_target_": "Compose", "transforms": after},
    }


def linear(weights: list[list[float]], biases: list[float], dimensions: int = 3) -> dict[str, Any]:
    """The state of a `convolution`: a row of weights for each output."""
    import torch

    shape = (len(weights), len(weights[0]), *[1] * dimensions)
    return {
        "weight": torch.tensor(weights, dtype=torch.float32).reshape(shape),
        "bias": torch.tensor(biases, dtype=torch.float32),
    }


def segments(*numbers: int) -> list[dict[str, Any]]:
    """Entries of a card for labels that mean nothing."""
    return [
        {
            "number": number,
            "name": f"part_{number}",
            "label": f"Part {number}",
            "category": ANATOMY,
            "type": REGION,
            "colour": [40 * number % 256, 200, 90],
        }
        for number in numbers
    ]


def write(
    folder: Path,
    content: dict[str, Any],
    state: Any,
    *,
    run: dict[str, Any] | None = None,
    labels: tuple[int, ...] = (),
    weights: str = "models/model.pt",
    scripts: str = "",
) -> Path:
    """Write a bundle with its card, its weights pinned.

    Parameters
    ----------
    folder : Path
        Made here.
    content : dict
        Inference config.
    state : dict or torch.jit.ScriptModule
        Weights.
    run : dict or None
        The card's block.
    labels : tuple of int
        Segment numbers.
    weights : str
        Their place.
    scripts : str
        Content of the bundle's own module ``scripts.parts``.
    """
    import torch

    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(content))
    (folder / "configs" / "metadata.json").write_text(json.dumps({"version": "0.1.0"}))
    if scripts:
        (folder / "scripts").mkdir()
        (folder / "scripts" / "__init__.py").write_text("")
        (folder / "scripts" / "parts.py").write_text(scripts)
    file = folder / weights
    if isinstance(state, torch.jit.ScriptModule):
        torch.jit.save(state, str(file))
    else:
        torch.save(state, file)
    card = {
        "title": f"{folder.name} (test bundle)",
        "manufacturer": "radloop tests",
        "unit": "HU",
        "accepts": {"modality": ["CT"], "body_part": ["PHANTOM"], "slices": {"min": 4}},
        "segments": segments(*labels),
        **({} if run is None else {"run": run}),
        "weights": {
            "file": weights,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "origin": "computed by hand",
            "licence": "Apache-2.0",
            "commercial_use": "yes",
        },
        "intended_use": "Tests only.",
        "limits": ["No anatomy whatsoever."],
    }
    (folder / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    return folder


def planes(folder: Path, *, clean: bool = False) -> Path:
    """Overlapping: plane n holds what is above `CUTS[n]`; the config then merges them.

    `clean`: of each plane only the largest piece.
    """
    state = linear([[1.0]] * 3, [-cut for cut in CUTS])
    largest = {"applied_labels": [0, 1, 2], "is_onehot": True, "independent": True}
    tidy = [_step("KeepLargestConnectedComponentd", "pred", **largest)]
    steps = [SIGMOID, _invert(nearest=False), HALF, *(tidy if clean else []), MERGE, SAVE]
    return write(
        folder,
        config(convolution(1, 3), WINDOWS, TURN, steps),
        state,
        run={"output": "planes"},
        labels=(1, 2, 3),
    )


def channels(folder: Path) -> Path:
    """Two series: label 1 where their difference is above 0."""
    rules = [
        {"name": "late", "when": {"description": {"any_of": ["late"]}}},
        {"name": "early", "when": {"description": {"any_of": ["early"], "none_of": ["late"]}}},
    ]
    content = config(convolution(2, 2), WINDOWS, [_step("LoadImaged")], [SOFTMAX, ARGMAX, SAVE])
    state = linear([[0.0, 0.0], [1.0, -1.0]], [0.0, 0.0])
    return write(folder, content, state, run={"channels": rules}, labels=(1,))


def phases(folder: Path) -> Path:
    """The same of a config that loads two images apart and puts them together by itself."""
    rules = [
        {"name": "late", "when": {"description": {"any_of": ["late"]}}},
        {"name": "early", "when": {"description": {"any_of": ["early"], "none_of": ["late"]}}},
    ]
    both = ["late", "early"]
    before = [
        _step("LoadImaged", [*both, "label"], image_only=False),
        _step("EnsureChannelFirstd", both),
        _step("Orientationd", both, axcodes="LPS", labels=None),
        {"_target_": "scripts.parts.PutTogether"},
        _step("EnsureTyped"),
    ]
    back = {**_invert(nearest=False), "orig_keys": "late", "meta_keys": "pred_meta_dict"}
    state = linear([[1.0, -1.0]], [-0.5])  # no tie: values are whole numbers
    return write(
        folder,
        config(convolution(2, 1), WINDOWS, before, [back, SIGMOID, HALF, SAVE]),
        state,
        run={"channels": rules},
        labels=(1,),
        scripts=SCRIPTS,
    )


def detector(folder: Path) -> Path:
    """A box round what is above `BOX_CUT`."""
    inferer = {"_target_": "scripts.parts.OneBox"}
    after = [_step("ClipBoxToImaged", "box")]
    classes = [{"name": "nodule", "label": "Nodule", "code": NODULE}]
    return write(
        folder,
        config(convolution(1, 1), inferer, TURN, after),
        linear([[1.0]], [-BOX_CUT]),
        run={"output": "boxes", "classes": classes, "min_score": 0.5},
        scripts=SCRIPTS,
    )


def classifier(folder: Path, *, by_slice: bool = False, **run: Any) -> Path:
    """Dense or not, by the mean of the image: of the volume, or of each slice."""
    import torch

    after = [_step("AsDiscreted", "pred", argmax=True, to_onehot=2)]
    network = {"_target_": "scripts.parts.Mean", "cut": CLASS_CUT}
    classes = [{"name": "light", "label": "Light"}, {"name": "dense", "label": "Dense"}]
    return write(
        folder,
        config(network, SIMPLE, list(LOAD), after),
        {"cut": torch.tensor(CLASS_CUT)},
        run={
            "output": "classes",
            "input": "slices" if by_slice else "volume",
            "classes": classes,
            **run,
        },
        scripts=SCRIPTS,
    )


def findings(folder: Path, **run: Any) -> Path:
    """Three findings, each with a sigmoid of its own: (mean - CLASS_CUT) / 10 - 0, 1, 2."""
    import torch

    network = {"_target_": "scripts.parts.Findings", "cut": CLASS_CUT}
    names = ("pneumothorax", "effusion", "nodule")
    return write(
        folder,
        config(network, SIMPLE, list(LOAD), [SIGMOID, HALF]),
        {"cut": torch.tensor(CLASS_CUT)},
        run={
            "output": "classes",
            "classes": [{"name": n, "label": n.capitalize(), "code": NODULE} for n in names],
            **run,
        },
        scripts=SCRIPTS,
    )


def slices(folder: Path, *, sliced_by_config: bool = False) -> Path:
    """A network of two dimensions: label 1 above `CUTS[1]`."""
    inferer = SIMPLE
    if sliced_by_config:
        inferer = {"_target_": "SliceInferer", "roi_size": [24, 24], "spatial_dim": 2}
    return write(
        folder,
        config(convolution(1, 2, 2), inferer, list(LOAD), [SOFTMAX, ARGMAX, SAVE]),
        linear([[0.0], [1.0]], [0.0, -CUTS[1]], 2),
        run={"input": "volume" if sliced_by_config else "slices"},
        labels=(1,),
    )


def torchscript(folder: Path, *, allowed: bool = True) -> Path:
    """Label 1 above `CUTS[1]`, by a network that only TorchScript holds."""
    import torch

    network = torch.nn.Conv3d(1, 2, 1)
    network.load_state_dict(linear([[0.0], [1.0]], [0.0, -CUTS[1]]))
    after = [SOFTMAX, ARGMAX, SAVE]
    return write(
        folder,
        config(None if allowed else convolution(1, 2), WINDOWS, list(LOAD), after),
        torch.jit.script(network),
        run={"torchscript": allowed},
        labels=(1,),
        weights="models/model.ts",
    )


def identity(
    folder: Path,
    count: int,
    before: list[dict[str, Any]],
    decides: str,
    inferer: dict[str, Any] = SIMPLE,
) -> Path:
    """Each whole number from 0 to `count` is the label it is; `before` moves the grid.

    `decides`: "after" an interpolating inverse, "before" a nearest one, or
    "before, interpolated": a config that would interpolate label numbers.
    """
    # 2 k v - k² is largest for the k that is nearest to v.
    rows = [[2.0 * k] for k in range(count + 1)]
    state = linear(rows, [-float(k * k) for k in range(count + 1)])
    after = {
        "after": [SOFTMAX, _invert(nearest=False), ARGMAX],
        "before": [ARGMAX, _invert(nearest=True)],
        "before, interpolated": [ARGMAX, _invert(nearest=False)],
    }[decides]
    return write(
        folder,
        config(convolution(1, count + 1), inferer, before, after),
        state,
        labels=tuple(range(1, count + 1)),
    )
