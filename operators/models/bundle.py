"""Run a MONAI bundle on a volume that is in memory.

The bundle's own inference config decides everything (network, preprocessing,
inferer, post-processing), but for three things: nothing is loaded from or saved
to disk, the weights are those that the card vouches for, and a config that
inverts its preprocessing before the argmax (`Invertd`, then
`AsDiscreted(argmax)`) has both done slab by slab (`labels_on_grid`), since all
channels at source resolution don't fit in memory.

torch and monai are imported when the first bundle is loaded, not before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from operators.errors import ModelRefusal
from operators.job import ModelIdentity, Segmentation, Volume
from operators.models.card import Card

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
CONFIG_NAMES = ("inference.yaml", "inference.yml", "inference.json")


class ConfigMissing(ModelRefusal):
    """The bundle has no inference config, or one that lacks a part we need."""

    code = "RL-0404"

    def __init__(self, bundle: str, what: str) -> None:
        super().__init__(
            f"bundle '{bundle}': {what}. An inference config needs network_def, preprocessing, "
            "inferer and postprocessing; compare it with the MONAI bundle specification."
        )


class WeightsUnfit(ModelRefusal):
    """The weights don't fit the network, or are no plain state dict."""

    code = "RL-0405"

    def __init__(self, bundle: str, problem: str) -> None:
        super().__init__(f"bundle '{bundle}': weights do not load: {problem}")


class InferenceFailed(ModelRefusal):
    """The bundle's own code failed on a volume."""

    code = "RL-0410"

    def __init__(self, bundle: str, series_uid: str, error: Exception) -> None:
        super().__init__(
            f"series {series_uid}: bundle '{bundle}' failed on it ({type(error).__name__}). "
            "Not enough memory, or a volume it can't take: see its limits in "
            f"`radloop bundles show {bundle}`."
        )


class UnitMismatch(ModelRefusal):
    """The volume's values are not what the network was trained on."""

    code = "RL-0406"

    def __init__(self, bundle: str, series_uid: str, found: str, needed: str) -> None:
        super().__init__(
            f"series {series_uid}: values are '{found}', bundle '{bundle}' needs '{needed}'. "
            "Send the series with its rescale attributes."
        )


class OutputUnfit(ModelRefusal):
    """The bundle's label map can't be used."""

    code = "RL-0407"

    def __init__(self, bundle: str, problem: str) -> None:
        super().__init__(f"bundle '{bundle}': {problem}. Its output is not used.")


class LoadedBundle:
    """A bundle whose network is in memory, ready for any number of volumes.

    Parameters
    ----------
    card : Card
        Names the bundle and its weights.

    Raises
    ------
    ModelRefusal
        Weights missing, changed or unfit; config incomplete.
    """

    def __init__(self, card: Card) -> None:
        import torch
        from monai.bundle import ConfigParser

        card.verify_weights()
        self.card = card
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        config_file = _config_file(card.folder)
        config = dict(ConfigParser.load_config_file(str(config_file)))
        decides = (config_file, card.folder / "card.yaml")
        self._config_sha256 = hashlib.sha256(
            b"".join(file.read_bytes() for file in decides)
        ).hexdigest()
        for key in ("network_def", "preprocessing", "inferer", "postprocessing"):
            if key not in config:
                raise ConfigMissing(card.name, f"no '{key}' in its inference config")
        for key in ("preprocessing", "postprocessing"):
            if not isinstance(config[key], dict) or not isinstance(
                config[key].get("transforms"), list
            ):
                raise ConfigMissing(card.name, f"'{key}' is no Compose with a list of transforms")
        self._channel_first = _drop_file_access(config)
        self._slabwise = _split_at_inverse(config)
        parser = ConfigParser(config)
        parser["bundle_root"] = str(card.folder)
        self._preprocess = parser.get_parsed_content("preprocessing")
        self._inferer = parser.get_parsed_content("inferer")
        self._postprocess = parser.get_parsed_content("postprocessing")
        self._finish = parser.get_parsed_content("after_argmax")
        network = parser.get_parsed_content("network_def")
        try:
            state = torch.load(card.weights_file, map_location="cpu", weights_only=True)
            network.load_state_dict(state)
        except (RuntimeError, AttributeError, TypeError, EOFError) as error:
            raise WeightsUnfit(card.name, str(error).splitlines()[0]) from error
        except Exception as error:
            if type(error).__name__ != "UnpicklingError":
                raise
            raise WeightsUnfit(card.name, "not a plain state dict (weights_only)") from error
        self._network = network.to(self.device).eval()

    @property
    def identity(self) -> ModelIdentity:
        """Which network this is; goes into every object that it causes."""
        return ModelIdentity(
            name=self.card.name,
            version=self.card.version,
            weights_sha256=self.card.weights_sha256,
            manufacturer=self.card.manufacturer,
            runtime=f"torch-{self.device.type}-float32",
            config_sha256=self._config_sha256,
        )

    def segment(self, volume: Volume) -> Segmentation:
        """Labels of one volume, on its own grid.

        Parameters
        ----------
        volume : Volume
            Values in the card's unit.

        Returns
        -------
        Segmentation
            `labels` is uint8, or uint16 above 255 segments, shape (z, y, x).

        Raises
        ------
        UnitMismatch
            Other units than the network was trained on.
        OutputUnfit
            Labels on another grid, or a label that the card doesn't know.
        """
        import torch
        from monai.data import MetaTensor

        from operators.models.resample import labels_on_grid

        if volume.unit != self.card.unit:
            raise UnitMismatch(
                self.card.name, volume.series_instance_uid, volume.unit, self.card.unit
            )
        ijk = np.ascontiguousarray(volume.array.transpose(2, 1, 0))
        affine = torch.from_numpy(RAS_FROM_LPS @ volume.lps_from_index)
        tensor = torch.from_numpy(ijk).float()
        if self._channel_first:
            tensor = tensor[None]
        meta = {
            "original_channel_dim": 0 if self._channel_first else "no_channel",
            "spatial_shape": np.array(ijk.shape),
            "filename_or_obj": volume.series_instance_uid,
            "space": "RAS",
        }
        # inference_mode is per thread, and operators run in a scheduler thread.
        with torch.inference_mode():
            image = MetaTensor(tensor, affine=affine, meta=meta)
            item = self._preprocess({"image": image})
            batch = item["image"][None].to(self.device)
            scores = self._inferer(batch, self._network)[0].cpu()
            item["pred"] = MetaTensor(
                scores,
                affine=item["image"].affine,
                meta=item["image"].meta,
                applied_operations=item["image"].applied_operations,
            )
            item = self._postprocess(item)
            if self._slabwise:
                labels = labels_on_grid(item["pred"], affine, ijk.shape)
                item = self._finish({"pred": MetaTensor(labels[None], affine=affine)})
            pred = item["pred"]
        return Segmentation(
            volume=volume,
            labels=self._checked_labels(np.asarray(pred), ijk.shape),
            segments=self.card.segments,
            model=self.identity,
        )

    def _checked_labels(self, pred: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        labels = pred[0] if pred.ndim == 4 and pred.shape[0] == 1 else pred
        if labels.shape != shape:
            raise OutputUnfit(
                self.card.name, f"label map has shape {labels.shape}, the volume {shape}"
            )
        largest = max(segment.number for segment in self.card.segments)
        found = np.unique(labels)
        known = {0, *(segment.number for segment in self.card.segments)}
        if strange := sorted({float(value) for value in found} - known):
            raise OutputUnfit(self.card.name, f"labels {strange[:5]} are not on its card")
        kind = np.uint8 if largest <= 255 else np.uint16
        return np.ascontiguousarray(labels.transpose(2, 1, 0).astype(kind))


def _config_file(folder: Path) -> Path:
    for name in CONFIG_NAMES:
        if (file := folder / "configs" / name).is_file():
            return file
    raise ConfigMissing(folder.name, f"no configs/{CONFIG_NAMES[0]}")


def _transforms(config: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    transforms: list[dict[str, Any]] = config[key]["transforms"]
    return transforms


def _target(transform: Mapping[str, Any]) -> str:
    return str(transform.get("_target_", "")).rsplit(".", 1)[-1]


def _drop_file_access(config: dict[str, Any]) -> bool:
    """Take loading and saving out; True where loading also put the channel first."""
    before, after = _transforms(config, "preprocessing"), _transforms(config, "postprocessing")
    loaders = [entry for entry in before if _target(entry).startswith("LoadImage")]
    before[:] = [entry for entry in before if entry not in loaders]
    after[:] = [entry for entry in after if not _target(entry).startswith("SaveImage")]
    return any(bool(entry.get("ensure_channel_first")) for entry in loaders)


def _split_at_inverse(config: dict[str, Any]) -> bool:
    """Cut post-processing where `Invertd` meets `AsDiscreted(argmax)`; True where it did.

    What follows goes to `after_argmax`; the two themselves are `labels_on_grid`.
    """
    steps = _transforms(config, "postprocessing")
    config["after_argmax"] = {"_target_": "Compose", "transforms": []}
    for at, (step, after) in enumerate(pairwise(steps)):
        smooth = _target(step) == "Invertd" and not step.get("nearest_interp", True)
        if smooth and _target(after) == "AsDiscreted" and after.get("argmax") is True:
            config["after_argmax"]["transforms"] = steps[at + 2 :]
            del steps[at:]
            return True
    return False
