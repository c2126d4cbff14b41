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
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from operators.errors import ModelRefusal
from operators.models.bundle_code import own_modules
from operators.models.config_steps import (
    Argmax,
    cut_decision,
    drop_file_access,
    drop_old_arguments,
    expand_steps,
    invert_what_ran,
    on_this_device,
    take_out_download,
    target,
    transforms,
)
from operators.models.run_block import Run

IMPORT_RECORD = "import.json"  # beside a bundle that `radloop bundles import` put in place
DECIDING = "deciding_sha256"  # in it: `deciding_sha256` of what was imported
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


class BundleChanged(ModelRefusal):
    """What decides a bundle's answers is not what was imported and tried out."""

    code = "RL-0411"

    def __init__(self, bundle: str, found: str, imported: str) -> None:
        said = (
            "its config, card, metadata or scripts were changed after the import (sha256 "
            f"{found[:12]}…, imported {imported[:12]}…)"
            if imported
            else "its import.json does not say what was imported: damaged, or of an older radloop"
        )
        super().__init__(
            f"bundle '{bundle}': {said}. Import what you mean to run, with --replace; nothing of "
            "it was run."
        )


class PackageMissing(ModelRefusal):
    """The config imports a Python package that radloop does not bring."""

    code = "RL-1440"

    def __init__(self, bundle: str, package: str) -> None:
        self.package = package
        super().__init__(
            f"bundle '{bundle}' needs the Python package '{package}', which is not installed. "
            "Install it into radloop's environment, in a version that fits its torch."
        )


def missing_package(error: BaseException | None) -> str | None:
    """The package whose absence is behind an error; None where that is not the reason."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.partition(".")[0]
        if type(error).__name__ == "OptionalImportError":
            found = re.search(r"No module named '(\w+)|from (\w+)|import (\w+)", str(error))
            return next(filter(None, found.groups())) if found else "?"
        error = error.__cause__ or error.__context__
    return None


@dataclass(frozen=True)
class Inference:
    """The parts of one inference config, instantiated.

    Attributes
    ----------
    network : torch.nn.Module or None
        From `network_def`, without weights; None where TorchScript brings it.
    preprocess, postprocess, finish : callables
        Compositions of dictionary transforms; `finish` follows the argmax where it was cut out.
    inferer : callable
        ``inferer(batch, network)``.
    argmax : Argmax
        Who takes the argmax, or the threshold.
    threshold : float or None
        Where planes are cut slab by slab: on the values as they are interpolated.
    activation : str
        What the config does to a classifier's output: ``softmax``, ``sigmoid`` or "".
    by_affine : bool
        Labels of the windows go to the source grid by the affine: see `Cut`.
    keys : tuple of str
        Of the images that its loader would read.
    channel_first : bool
        The volume is handed over with a channel axis.
    checkpoint_name : str or None
        File that the config itself would load.
    checkpoint_key : str
        Under which key a checkpoint holds the network's state.
    sha256 : str
        Of all but the weights that decides the labels: see `deciding_sha256`.
    """

    network: Any
    preprocess: Any
    postprocess: Any
    finish: Any
    inferer: Any
    argmax: Argmax
    threshold: float | None
    activation: str
    by_affine: bool
    keys: tuple[str, ...]
    channel_first: bool
    checkpoint_name: str | None
    checkpoint_key: str
    sha256: str


def read_inference(folder: Path, run: Run | None = None) -> Inference:
    """Read and instantiate a bundle's inference config.

    Parameters
    ----------
    folder : Path
        The bundle.
    run : Run or None
        The card's `run` block; None: one series in, labels out.

    Raises
    ------
    ConfigMissing
        No config, or a part is absent.
    ConfigBroken
        A part does not resolve.
    PackageMissing
        A part needs a Python package that is not installed.
    """
    import torch
    from monai.bundle import ConfigParser

    run = Run() if run is None else run
    file = config_file(folder)
    try:
        config = dict(ConfigParser.load_config_file(str(file)))
    except Exception as error:
        raise ConfigBroken(folder.name, file.name, error) from error
    for key, value in run.switches:
        _switch(folder.name, config, key, value)
    for key in NEEDED:
        if key not in config and not (key == "network_def" and run.torchscript):
            raise ConfigMissing(folder.name, f"no '{key}' in its inference config")
    config["bundle_root"] = str(folder)
    # A file that a config loads by itself may hold arrays beside tensors, and nothing else.
    with own_modules(folder), torch.serialization.safe_globals(_array_types()):
        return _instantiate(folder, file, config, run)


def _switch(bundle: str, config: dict[str, Any], key: str, value: bool | float) -> None:
    """Set a value that stands in the config already, by its path (``a#b``)."""
    *above, last = key.split("#")
    place: Any = config
    for part in above:
        place = place.get(part) if isinstance(place, dict) else None
    if not isinstance(place, dict) or last not in place:
        raise ConfigMissing(bundle, f"no '{key}', which its card sets, in its inference config")
    place[last] = value


def _instantiate(folder: Path, file: Path, config: dict[str, Any], run: Run) -> Inference:
    from monai.inferers import SlidingWindowInferer

    on_this_device(config)
    for key in ("preprocessing", "postprocessing"):
        expand_steps(folder.name, config, key)
    values = ConfigValues(folder.name, config)
    for key in ("preprocessing", "postprocessing"):
        steps = transforms(config, key)
        steps[:] = [step for step in steps if not values.flag(step, "_disabled_", default=False)]
    drop_old_arguments(config)
    invert_what_ran(config)
    keys, channel_first = drop_file_access(config, values)
    exact = values.parsed("inferer")
    windowed = type(exact) is SlidingWindowInferer and not exact.with_coord
    cut = cut_decision(config, values, run, windowed=windowed)
    checkpoint = _checkpoint(config)
    pretrained = take_out_download(config, values)
    parts = ConfigValues(folder.name, config)
    network = parts.parsed("network_def") if "network_def" in config else None
    if pretrained and network is not None:
        for module in network.modules():
            if hasattr(module, "transform_input"):
                module.transform_input = True  # as torchvision sets it with its own weights
    inferer = parts.parsed("inferer")
    if "detector_ops" in config:  # settings of the detector that nothing refers to
        parts.parsed("detector_ops")
    named = parts.value(checkpoint["load_path"]) if "load_path" in checkpoint else None
    return Inference(
        network=network,
        preprocess=parts.parsed("preprocessing"),
        postprocess=parts.parsed("postprocessing"),
        finish=parts.parsed("after_argmax"),
        inferer=inferer,
        argmax=cut.argmax,
        threshold=cut.threshold,
        activation=cut.activation,
        by_affine=cut.by_affine,
        keys=keys,
        channel_first=channel_first,
        checkpoint_name=None if named is None else Path(str(named)).name,
        checkpoint_key=next(iter(checkpoint.get("load_dict", {})), "model"),
        sha256=deciding_sha256(folder, file),
    )


def deciding_sha256(folder: Path, config: Path) -> str:
    """Hash of what decides a bundle's answers beside its weights, by names and bytes.

    The config, the card, the metadata (from which an export takes its input), all that is
    in `scripts`, and Python elsewhere in the bundle, which a config may import too.
    """
    own = {*folder.rglob("*.py"), *(folder / "scripts").rglob("*")}
    named = {config, folder / "card.yaml", folder / "configs" / "metadata.json"}
    digest = hashlib.sha256()
    for file in sorted(own | named):
        # Bytecode comes and goes with a run; it is made from what is hashed.
        if file.is_file() and "__pycache__" not in file.parts:
            name = file.relative_to(folder).as_posix()
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def verify_as_imported(folder: Path) -> None:
    """Hold a bundle against what its import recorded; one that came another way has no record.

    Raises
    ------
    BundleChanged
        Its config, card, metadata or code are others now.
    ConfigMissing
        No config.
    """
    try:
        record = json.loads((folder / IMPORT_RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        record = {}
    found, imported = deciding_sha256(folder, config_file(folder)), str(record.get(DECIDING, ""))
    if found != imported:
        raise BundleChanged(folder.name, found, imported)


def _array_types() -> list[Any]:
    """What `weights_only` must know to read arrays: no code runs in any of it."""
    kinds = {type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8", "u1", "?")}
    return [np.ndarray, np.dtype, np._core.multiarray._reconstruct, *kinds]  # type: ignore[attr-defined]


def _checkpoint(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What loads the weights: a part of its own, or one of the handlers."""
    loader = config.get("checkpointloader")
    if isinstance(loader, dict):
        return loader
    handlers = config.get("handlers")
    for handler in handlers if isinstance(handlers, list) else []:
        if isinstance(handler, dict) and target(handler) == "CheckpointLoader":
            return handler
    return {}


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


class ConfigValues:
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
            package = missing_package(error)
            if package is not None:
                raise PackageMissing(self._bundle, package) from error
            raise ConfigBroken(self._bundle, key, error) from error

    def value(self, said: Any) -> Any:
        """What a value means: itself, or what it refers to."""
        if not isinstance(said, str) or not ("@" in said or said.startswith("$")):
            return said
        return ConfigValues(self._bundle, {**self._config, "value_sought": said}).parsed(
            "value_sought"
        )

    def flag(self, step: Mapping[str, Any], name: str, *, default: bool) -> bool:
        """A yes or no of one transform; MONAI also takes one per key, and "true"."""
        said = self.value(step.get(name, default))
        if isinstance(said, list | tuple) and len(said) == 1:
            said = said[0]
        return said.strip().lower() == "true" if isinstance(said, str) else bool(said)
