"""What a bundle's inference config says, made ready to run on a volume in memory.

The config is run as published but for what is named here: file access is taken
out, disabled steps too, and where an argmax decides, it is cut out, so that it
can be taken slab by slab or window by window (see `Argmax`). Values may be
references and expressions (``@pixdim``, ``$not @fast``); they are resolved
before anything is decided by them.

A config is code: ``$`` expressions and ``_target_`` run what they name. Only
bundles whose origin is trusted may be imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

from operators.errors import ModelRefusal

CONFIG_NAMES = ("inference.yaml", "inference.yml", "inference.json")
NEEDED = ("network_def", "preprocessing", "inferer", "postprocessing")


class ConfigMissing(ModelRefusal):
    """The bundle has no inference config, or one that lacks a part we need."""

    code = "RL-0404"

    def __init__(self, bundle: str, what: str) -> None:
        super().__init__(
            f"bundle '{bundle}': {what}. An inference config needs network_def, preprocessing, "
            "inferer and postprocessing; compare it with the MONAI bundle specification."
        )


class ConfigBroken(ModelRefusal):
    """A part of the config can't be made: an expression fails, a class is unknown."""

    code = "RL-1102"

    def __init__(self, bundle: str, part: str, error: Exception) -> None:
        super().__init__(
            f"bundle '{bundle}': '{part}' of its inference config does not resolve "
            f"({type(error).__name__}). Try it with `python -m monai.bundle run` on the same "
            "version of MONAI, then import the bundle again."
        )


class Argmax(Enum):
    """Where the labels are decided.

    OWN
        In the bundle's own post-processing; nothing is cut out.
    SLABS
        After an interpolating `Invertd`: `operators.models.resample.labels_on_grid`.
    WINDOWS
        On the network's grid, before any `Invertd`: `operators.models.windows.windowed_argmax`.
    """

    OWN = "own"
    SLABS = "slabs"
    WINDOWS = "windows"


@dataclass(frozen=True)
class Inference:
    """The parts of one inference config, instantiated.

    Attributes
    ----------
    network : torch.nn.Module
        From `network_def`, without weights.
    preprocess, postprocess, finish : callables
        Compositions of dictionary transforms; `finish` follows the argmax where it was cut out.
    inferer : callable
        ``inferer(batch, network)``.
    argmax : Argmax
        Who takes the argmax.
    channel_first : bool
        The volume is handed over with a channel axis.
    checkpoint_name : str or None
        File that the config itself would load.
    checkpoint_key : str
        Under which key a checkpoint holds the network's state.
    sha256 : str
        Of config and card, which decide the labels.
    """

    network: Any
    preprocess: Any
    postprocess: Any
    finish: Any
    inferer: Any
    argmax: Argmax
    channel_first: bool
    checkpoint_name: str | None
    checkpoint_key: str
    sha256: str


def read_inference(folder: Path) -> Inference:
    """Read and instantiate a bundle's inference config.

    Parameters
    ----------
    folder : Path
        The bundle.

    Raises
    ------
    ConfigMissing
        No config, or a part is absent.
    ConfigBroken
        A part does not resolve.
    """
    from monai.bundle import ConfigParser
    from monai.inferers import SlidingWindowInferer

    file = config_file(folder)
    try:
        config = dict(ConfigParser.load_config_file(str(file)))
    except Exception as error:
        raise ConfigBroken(folder.name, file.name, error) from error
    for key in NEEDED:
        if key not in config:
            raise ConfigMissing(folder.name, f"no '{key}' in its inference config")
    for key in ("preprocessing", "postprocessing"):
        if not isinstance(config[key], dict) or not isinstance(config[key].get("transforms"), list):
            raise ConfigMissing(folder.name, f"'{key}' is no Compose with a list of transforms")
    config["bundle_root"] = str(folder)
    values = _Values(folder.name, config)
    for key in ("preprocessing", "postprocessing"):
        steps = _transforms(config, key)
        steps[:] = [step for step in steps if not values.flag(step, "_disabled_", default=False)]
    channel_first = _drop_file_access(config, values)
    exact = values.parsed("inferer")
    windowed = type(exact) is SlidingWindowInferer and not exact.with_coord
    argmax = _cut_argmax(config, values, windowed=windowed)
    loader = config.get("checkpointloader")
    loader = loader if isinstance(loader, dict) else {}
    parts = _Values(folder.name, config)
    return Inference(
        network=parts.parsed("network_def"),
        preprocess=parts.parsed("preprocessing"),
        postprocess=parts.parsed("postprocessing"),
        finish=parts.parsed("after_argmax"),
        inferer=parts.parsed("inferer"),
        argmax=argmax,
        channel_first=channel_first,
        checkpoint_name=Path(str(parts.value(loader["load_path"]))).name
        if "load_path" in loader
        else None,
        checkpoint_key=next(iter(loader.get("load_dict", {})), "model"),
        sha256=hashlib.sha256(file.read_bytes() + (folder / "card.yaml").read_bytes()).hexdigest(),
    )


def config_file(folder: Path) -> Path:
    """The bundle's inference config.

    Raises
    ------
    ConfigMissing
        There is none.
    """
    for name in CONFIG_NAMES:
        if (file := folder / "configs" / name).is_file():
            return file
    raise ConfigMissing(folder.name, f"no configs/{CONFIG_NAMES[0]}")


class _Values:
    """Resolves references and expressions of one config."""

    def __init__(self, bundle: str, config: Mapping[str, Any]) -> None:
        from monai.bundle import ConfigParser

        self._bundle = bundle
        self._config = config
        # One parser, so that `@preprocessing` in Invertd is the very object that ran.
        self._parser = ConfigParser(dict(config))

    def parsed(self, key: str) -> Any:
        """A part of the config, instantiated."""
        try:
            return self._parser.get_parsed_content(key)
        except Exception as error:
            raise ConfigBroken(self._bundle, key, error) from error

    def value(self, said: Any) -> Any:
        """What a value means: itself, or what it refers to."""
        if not isinstance(said, str) or not ("@" in said or said.startswith("$")):
            return said
        return _Values(self._bundle, {**self._config, "value_sought": said}).parsed("value_sought")

    def flag(self, step: Mapping[str, Any], name: str, *, default: bool) -> bool:
        """A yes or no of one transform; MONAI also takes one per key, and "true"."""
        said = self.value(step.get(name, default))
        if isinstance(said, list | tuple) and len(said) == 1:
            said = said[0]
        return said.strip().lower() == "true" if isinstance(said, str) else bool(said)


def _transforms(config: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    transforms: list[dict[str, Any]] = config[key]["transforms"]
    return transforms


def _target(transform: Mapping[str, Any]) -> str:
    return str(transform.get("_target_", "")).rsplit(".", 1)[-1]


def _drop_file_access(config: dict[str, Any], values: _Values) -> bool:
    """Take loading and saving out; True where loading also put the channel first."""
    before, after = _transforms(config, "preprocessing"), _transforms(config, "postprocessing")
    loaders = [entry for entry in before if _target(entry).startswith("LoadImage")]
    before[:] = [entry for entry in before if entry not in loaders]
    after[:] = [entry for entry in after if not _target(entry).startswith("SaveImage")]
    return any(values.flag(entry, "ensure_channel_first", default=False) for entry in loaders)


def _cut_argmax(config: dict[str, Any], values: _Values, *, windowed: bool) -> Argmax:
    """Take the argmax out of post-processing where it can be had in bounded memory.

    What follows it goes to `after_argmax`.
    """
    steps = _transforms(config, "postprocessing")
    config["after_argmax"] = {"_target_": "Compose", "transforms": []}
    rest = config["after_argmax"]["transforms"]
    # A softmax does not change which channel is largest.
    first = 1 if steps and _is_softmax(steps[0], values) else 0
    if windowed and len(steps) > first and _is_argmax(steps[first], values):
        rest[:] = steps[first + 1 :]
        del steps[:]
        return Argmax.WINDOWS
    for at, (step, after) in enumerate(pairwise(steps)):
        smooth = _target(step) == "Invertd" and not values.flag(
            step, "nearest_interp", default=True
        )
        if smooth and _is_argmax(after, values):
            rest[:] = steps[at + 2 :]
            del steps[at:]
            return Argmax.SLABS
    return Argmax.OWN


def _is_softmax(step: Mapping[str, Any], values: _Values) -> bool:
    return (
        _target(step) == "Activationsd"
        and values.flag(step, "softmax", default=False)
        and not values.flag(step, "sigmoid", default=False)
        and step.get("other") is None
    )


def _is_argmax(step: Mapping[str, Any], values: _Values) -> bool:
    return (
        _target(step) == "AsDiscreted"
        and values.flag(step, "argmax", default=False)
        and all(step.get(name) is None for name in ("to_onehot", "threshold", "rounding"))
    )
