"""The steps of a config as it is written, before anything is made of them.

What touches files is taken out, and the step that decides (argmax or threshold)
is cut out where it can be had in bounded memory.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from operators.errors import ModelRefusal
from operators.models.run_block import Input, Output, Run

# Steps that work channel by channel: they may follow the threshold of planes.
_CHANNEL_WISE = (
    "Invertd",
    "KeepLargestConnectedComponentd",
    "RemoveSmallObjectsd",
    "FillHolesd",
    "EnsureTyped",
    "ToDeviced",
)
# Steps whose affine says all that they do to the grid, or that leave the grid alone. Only
# behind these may the affine alone stand for `Invertd`: `Transposed` moves voxels, and it not.
_AFFINE_TELLS = re.compile(
    r"(Load|EnsureChannelFirst|AsChannelFirst|EnsureType|CastToType|ToTensor|ToDevice|Identity"
    r"|SelectItems|DeleteItems|ConcatItems|CopyItems"
    r"|ScaleIntensity\w*|ShiftIntensity|NormalizeIntensity|ThresholdIntensity|AdjustContrast"
    r"|ClipIntensityPercentiles|HistogramNormalize|GaussianSmooth|MaskIntensity"
    r"|Orientation|Spacing|Resize|Flip|Rotate90|CropForeground|SpatialCrop|CenterSpatialCrop"
    r"|SpatialPad|BorderPad|DivisiblePad|ResizeWithPadOrCrop)(d|D|Dict)?"
)
_COPY = re.compile(r"\$\s*copy\.deepcopy\(\s*(@\w+)\s*\)\s*")
# Arguments that MONAI has dropped since a bundle was published, and that decided nothing.
_DROPPED_ARGUMENTS = {"SwinUNETR": ("img_size",)}
_SUM_OF_REFERENCES = re.compile(r"\$\s*@\w+(\s*\+\s*@\w+)*\s*")
_CUDA = re.compile(r"torch\.device\((['\"])cuda(:0)?\1\)(?! if)")
_REFERENCE = re.compile(r"@(\w+)")


class StepsUnfit(ModelRefusal):
    """The card asks for an output that the config's post-processing does not give."""

    code = "RL-1441"

    def __init__(self, bundle: str, problem: str) -> None:
        super().__init__(
            f"bundle '{bundle}': {problem}. Compare `run` in its card.yaml with `postprocessing` "
            "in its inference config."
        )


class Argmax(Enum):
    """Where the labels are decided.

    OWN
        In the bundle's own post-processing; nothing is cut out.
    SLABS
        After an interpolating `Invertd`: `operators.models.resample`.
    WINDOWS
        On the network's grid, before any `Invertd`: `operators.models.windows.windowed_argmax`.
    """

    OWN = "own"
    SLABS = "slabs"
    WINDOWS = "windows"


@dataclass(frozen=True)
class Cut:
    """What was taken out of the post-processing.

    Attributes
    ----------
    argmax : Argmax
        Where the decision is taken now.
    threshold : float or None
        Of planes that are cut slab by slab, on the values that are interpolated.
    activation : str
        What stood before the decision of a classifier: ``softmax``, ``sigmoid`` or "".
    by_affine : bool
        `Invertd` was taken out as well: the labels of the windows go to the source grid by
        the affine, which tells all that it would have undone.
    """

    argmax: Argmax = Argmax.OWN
    threshold: float | None = None
    activation: str = ""
    by_affine: bool = False


class Values(Protocol):
    """Resolves references and expressions of one config."""

    def value(self, said: Any) -> Any:
        """What a value means."""

    def flag(self, step: Mapping[str, Any], name: str, *, default: bool) -> bool:
        """A yes or no of one transform."""


def target(transform: Mapping[str, Any]) -> str:
    """Last part of the class or function that a step names."""
    return str(transform.get("_target_", "")).rsplit(".", 1)[-1]


def transforms(config: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The steps under `key`; the list itself, which may be changed."""
    found: list[dict[str, Any]] = config[key]["transforms"]
    return found


def expand_steps(bundle: str, config: dict[str, Any], key: str) -> None:
    """Write steps that are given by reference (``$@loading + @scaling``) out as a list, in place.

    Raises
    ------
    StepsUnfit
        They are given in a way that can't be read without being run.
    """
    block = config[key]
    steps = block.get("transforms") if isinstance(block, dict) else None
    if isinstance(steps, str) and steps.startswith("@"):
        steps = f"${steps}"
    if isinstance(steps, str) and _SUM_OF_REFERENCES.fullmatch(steps):
        named = (config.get(name) for name in _REFERENCE.findall(steps))
        parts = [part if isinstance(part, list) else [part] for part in named]
        steps = [step for part in parts for step in copy.deepcopy(part)]
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise StepsUnfit(bundle, f"'{key}' is no Compose with a list of transforms")
    config[key] = {**block, "transforms": steps}


def on_this_device(config: dict[str, Any]) -> None:
    """Let a config that names a GPU outright run where there is none, in place."""
    import torch

    if torch.cuda.is_available():
        return
    for key, part in config.items():
        config[key] = _without_cuda(part)


def _without_cuda(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _without_cuda(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_without_cuda(value) for value in part]
    if isinstance(part, str) and part.startswith("$"):
        return _CUDA.sub("torch.device('cpu')", part)
    return part


def take_out_download(config: dict[str, Any], values: Values) -> bool:
    """Let no network fetch weights that the card's own will replace; True where one would have."""
    definition = config.get("network_def")
    if not isinstance(definition, dict) or not values.flag(definition, "pretrained", default=False):
        return False
    config["network_def"] = {**definition, "pretrained": False}
    return True


def drop_old_arguments(config: dict[str, Any]) -> None:
    """Leave out what the network's class asked for once and no longer takes, in place."""
    definition = config.get("network_def")
    if isinstance(definition, dict):
        gone = _DROPPED_ARGUMENTS.get(target(definition), ())
        config["network_def"] = {k: v for k, v in definition.items() if k not in gone}


def invert_what_ran(config: dict[str, Any]) -> None:
    """Let `Invertd` name the very steps that ran: MONAI knows them by identity, not a copy."""
    for step in transforms(config, "postprocessing"):
        said = step.get("transform")
        if target(step) == "Invertd" and isinstance(said, str):
            step["transform"] = _COPY.sub(r"\1", said)


def drop_file_access(config: dict[str, Any], values: Values) -> tuple[tuple[str, ...], bool]:
    """Take loading and saving out.

    Returns
    -------
    keys : tuple of str
        What the loader would have read.
    channel_first : bool
        Whether loading also put the channel first, or nothing else does.
    """
    before, after = transforms(config, "preprocessing"), transforms(config, "postprocessing")
    loaders = [entry for entry in before if target(entry).startswith("Load")]
    before[:] = [entry for entry in before if entry not in loaders]
    after[:] = [entry for entry in after if not _writes(target(entry))]
    keys: dict[str, None] = {}
    for loader in loaders:
        said = values.value(loader.get("keys", "image"))
        keys.update(dict.fromkeys([said] if isinstance(said, str) else map(values.value, said)))
    first = any(values.flag(entry, "ensure_channel_first", default=False) for entry in loaders)
    made_first = any(target(entry).startswith("EnsureChannelFirst") for entry in before)
    return tuple(keys) or ("image",), first or not made_first


def _writes(name: str) -> bool:
    return name.startswith("Save") or "Saver" in name


def cut_decision(config: dict[str, Any], values: Values, run: Run, *, windowed: bool) -> Cut:
    """Take the step that decides out of post-processing; what follows goes to `after_argmax`."""
    steps = transforms(config, "postprocessing")
    config["after_argmax"] = {"_target_": "Compose", "transforms": []}
    rest = config["after_argmax"]["transforms"]
    if run.output is Output.BOXES:
        del steps[:]  # boxes are moved to the patient by the affine, see `heads.py`
        return Cut()
    if run.output is Output.CLASSES:
        return _cut_classes(steps, values)
    if run.output is Output.PLANES:
        _keep_planes(config, steps, values)
    if run.input is not Input.VOLUME:
        return Cut()
    _invert_labels_by_nearest(steps, values)
    # A softmax does not change which channel is largest.
    first = 1 if steps and _is_softmax(steps[0], values) else 0
    told = all(_affine_tells(before) for before in transforms(config, "preprocessing"))
    if windowed and len(steps) > first and _is_argmax(steps[first], values):
        rest[:] = steps[first + 1 :]
        del steps[:]
        by_affine = told and bool(rest) and _only_inverts(rest[0], values)
        if by_affine:
            del rest[0]
        return Cut(Argmax.WINDOWS, by_affine=by_affine)
    for at, step in enumerate(steps):
        if not _only_inverts(step, values) or values.flag(step, "nearest_interp", default=True):
            continue
        decided = _decision(steps[at + 1 :], values, run)
        if decided is None:
            continue
        if not told:
            return Cut()
        length, threshold = decided
        rest[:] = steps[at + 1 + length :]
        del steps[at:]
        return Cut(Argmax.SLABS, threshold)
    return Cut()


def _only_inverts(step: Mapping[str, Any], values: Values) -> bool:
    """Whether a step is an `Invertd` of the prediction that does nothing else."""
    keys = values.value(step.get("keys"))
    return (
        target(step) == "Invertd"
        and (keys if isinstance(keys, str) else list(keys or ())) in ("pred", ["pred"])
        and values.value(step.get("post_func")) is None
    )


def _invert_labels_by_nearest(steps: list[dict[str, Any]], values: Values) -> None:
    """Between the labels 2 and 0 lies no 1: what is decided is not interpolated, whoever says so.

    Left alone where a later step decides anew.
    """
    for at, step in enumerate(steps):
        before, after = steps[:at], steps[at + 1 :]
        decided = any(_decides(s, values) for s in before)
        if target(step) == "Invertd" and decided and not any(_decides(s, values) for s in after):
            step["nearest_interp"] = True


def _decision(
    steps: list[dict[str, Any]], values: Values, run: Run
) -> tuple[int, float | None] | None:
    """How many steps decide, and the threshold on what comes before them; None: others do."""
    if run.output is Output.LABELS:
        first = 1 if steps and _is_softmax(steps[0], values) else 0
        decides = len(steps) > first and _is_argmax(steps[first], values)
        return (first + 1, None) if decides else None
    first = 1 if steps and _is_sigmoid(steps[0], values) else 0
    cut = _threshold(steps[first], values) if len(steps) > first else None
    if cut is None:
        return None
    if first and not 0 < cut < 1:
        return None
    # A sigmoid is monotone: cutting what it is taken of cuts the same voxels.
    return first + 1, math.log(cut / (1 - cut)) if first else cut


def _keep_planes(config: Mapping[str, Any], steps: list[dict[str, Any]], values: Values) -> None:
    """Leave out what would merge the channels after their threshold."""
    at = next((n for n, step in enumerate(steps) if _threshold(step, values) is not None), None)
    if at is None:
        bundle = str(config["bundle_root"]).rsplit("/", 1)[-1]
        raise StepsUnfit(bundle, "its card says planes, but nothing in it cuts at a threshold")
    steps[:] = [*steps[: at + 1], *(s for s in steps[at + 1 :] if target(s) in _CHANNEL_WISE)]


def _cut_classes(steps: list[dict[str, Any]], values: Values) -> Cut:
    """All steps out: the scores are wanted, not only which is largest."""
    activation = ""
    for step in steps:
        if _is_softmax(step, values):
            activation = "softmax"
        elif _is_sigmoid(step, values):
            activation = "sigmoid"
    del steps[:]
    return Cut(activation=activation)


def _is_softmax(step: Mapping[str, Any], values: Values) -> bool:
    return (
        target(step) == "Activationsd"
        and values.flag(step, "softmax", default=False)
        and not values.flag(step, "sigmoid", default=False)
        and step.get("other") is None
    )


def _is_sigmoid(step: Mapping[str, Any], values: Values) -> bool:
    return (
        target(step) == "Activationsd"
        and values.flag(step, "sigmoid", default=False)
        and not values.flag(step, "softmax", default=False)
        and step.get("other") is None
    )


def _is_argmax(step: Mapping[str, Any], values: Values) -> bool:
    return (
        target(step) == "AsDiscreted"
        and values.flag(step, "argmax", default=False)
        and all(step.get(name) is None for name in ("to_onehot", "threshold", "rounding"))
    )


def _affine_tells(step: Mapping[str, Any]) -> bool:
    said = str(step.get("_target_", ""))
    of_monai = "." not in said or said.startswith("monai.")
    if of_monai and re.fullmatch(r"Lambda(d|D|Dict)?", target(step)):
        return step.get("inv_func") is None  # `Invertd` would undo nothing either
    return of_monai and _AFFINE_TELLS.fullmatch(target(step)) is not None


def _decides(step: Mapping[str, Any], values: Values) -> bool:
    return _is_argmax(step, values) or _threshold(step, values) is not None


def _threshold(step: Mapping[str, Any], values: Values) -> float | None:
    """Where a step cuts; None where it does anything else."""
    if target(step) != "AsDiscreted" or values.flag(step, "argmax", default=False):
        return None
    if any(step.get(name) is not None for name in ("to_onehot", "rounding")):
        return None
    said = values.value(step.get("threshold"))
    return float(said) if isinstance(said, int | float) and not isinstance(said, bool) else None
