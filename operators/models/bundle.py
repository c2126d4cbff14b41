"""Run a MONAI bundle on a volume that is in memory.

The bundle's own inference config decides everything (network, preprocessing,
inferer, post-processing), but for three things: nothing is loaded from or saved
to disk, the weights are those that the card vouches for, and the argmax is
taken in bounded memory: slab by slab (`labels_on_grid`) where the config inverts
its preprocessing before it, window by window (`windowed_argmax`) where it takes
the argmax first.

torch and monai are imported when the first bundle is loaded, not before.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from operators.errors import ModelRefusal
from operators.job import ModelIdentity, Segmentation, Volume
from operators.models.card import Card
from operators.models.champion import Weights
from operators.models.inference_config import Argmax, read_inference

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


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
    weights : Weights or None
        Run these instead of the bundle's own.

    Raises
    ------
    ModelRefusal
        Weights missing, changed or unfit; config incomplete.
    """

    def __init__(self, card: Card, weights: Weights | None = None) -> None:
        import torch

        if weights is None:
            card.verify_weights()
        else:
            weights.verify(card.name)
        self.card, self.weights = card, weights
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._inference = read_inference(card.folder)
        named = self._inference.checkpoint_name
        if weights is None and named not in (None, card.weights_file.name):
            vouched = card.weights_file.name
            raise WeightsUnfit(card.name, f"its config loads {named}, its card names {vouched}")
        network = self._inference.network
        state = load_state(card.name, card.weights_file if weights is None else weights.file)
        try:
            network.load_state_dict(_network_state(state, self._inference.checkpoint_key))
        except (RuntimeError, AttributeError, TypeError) as error:
            raise WeightsUnfit(card.name, str(error).splitlines()[0]) from error
        self._network = network.to(self.device).eval()

    @property
    def identity(self) -> ModelIdentity:
        """Which network this is; goes into every object that it causes."""
        card, weights = self.card, self.weights
        return ModelIdentity(
            name=card.name,
            version=card.version if weights is None else f"{card.version}+{weights.version}",
            weights_sha256=card.weights_sha256 if weights is None else weights.sha256,
            manufacturer=card.manufacturer,
            runtime=f"torch-{self.device.type}-float32",
            config_sha256=self._inference.sha256,
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
        from operators.models.windows import windowed_argmax

        run = self._inference
        if volume.unit != self.card.unit:
            raise UnitMismatch(
                self.card.name, volume.series_instance_uid, volume.unit, self.card.unit
            )
        ijk = np.ascontiguousarray(volume.array.transpose(2, 1, 0))
        affine = torch.from_numpy(RAS_FROM_LPS @ volume.lps_from_index)
        tensor = torch.from_numpy(ijk).float()
        if run.channel_first:
            tensor = tensor[None]
        meta = {
            "original_channel_dim": 0 if run.channel_first else "no_channel",
            "spatial_shape": np.array(ijk.shape),
            "filename_or_obj": volume.series_instance_uid,
            "space": "RAS",
        }
        # inference_mode is per thread, and operators run in a scheduler thread.
        with torch.inference_mode():
            image = MetaTensor(tensor, affine=affine, meta=meta)
            item = run.preprocess({"image": image})
            batch = item["image"][None].to(self.device)
            if run.argmax is Argmax.WINDOWS:
                labels = windowed_argmax(run.inferer, batch.as_tensor(), self._network)
                scores = labels[None].float()
            else:
                scores = run.inferer(batch, self._network)[0].cpu()
            item["pred"] = MetaTensor(
                scores,
                affine=item["image"].affine,
                meta=item["image"].meta,
                applied_operations=item["image"].applied_operations,
            )
            item = run.postprocess(item)
            if run.argmax is Argmax.SLABS:
                labels = labels_on_grid(item["pred"], affine, ijk.shape)
                item = {"pred": MetaTensor(labels[None], affine=affine)}
            item = run.finish(item)
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


def load_state(bundle: str, file: Path) -> Any:
    """A weights file as plain tensors; nothing in it is run.

    Parameters
    ----------
    bundle : str
        Only for the message.
    file : Path
        Written by `torch.save`.

    Raises
    ------
    WeightsUnfit
        No checkpoint, or one that holds more than tensors.
    """
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, AttributeError, TypeError, EOFError) as error:
        raise WeightsUnfit(bundle, str(error).splitlines()[0]) from error
    except pickle.UnpicklingError as error:
        raise WeightsUnfit(bundle, "not a plain state dict (weights_only)") from error


def _network_state(state: Any, key: str) -> Any:
    """The network's own part of a checkpoint: all of it, or what stands under `key`."""
    if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
        return state[key]
    return state
