"""Run a MONAI bundle on a volume that is in memory.

The bundle's own inference config decides everything (network, preprocessing,
inferer, post-processing), but for three things: nothing is loaded from or saved
to disk, the weights are those that the card vouches for, and what decides is
done in bounded memory: slab by slab (`operators.models.resample`) where the
config inverts its preprocessing before it, window by window (`windowed_argmax`)
where it takes the argmax first. Classifiers and detectors are read in `heads.py`.

torch and monai are imported when the first bundle is loaded, not before.
"""

from __future__ import annotations

import importlib.util
import inspect
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from operators.errors import ModelRefusal
from operators.job import ModelIdentity, Segmentation, Volume
from operators.models.beyond import remark_beyond
from operators.models.card import Card
from operators.models.champion import Weights
from operators.models.config_steps import Argmax
from operators.models.feed import RAS_FROM_LPS, feed
from operators.models.finish import finish
from operators.models.heads import (
    HeadUnfit,
    activation_of,
    boxes_in_patient,
    class_scores,
    detector_output,
)
from operators.models.inference_config import PackageMissing, read_inference, verify_as_imported
from operators.models.resample import (
    labels_on_grid,
    nearest_on_grid,
    plane_kind,
    planes_on_grid,
    unpacked,
)
from operators.models.run_block import Input, Output
from operators.models.runtimes.interface import WHOLE, Serving, Subject
from operators.models.runtimes.serve import serve
from operators.models.windows import windowed_argmax
from operators.reading import Reading
from operators.volume.tilt import upright


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


class BundleUnfit(ModelRefusal):
    """The card says that the bundle can't run here."""

    code = "RL-1443"

    def __init__(self, bundle: str, why: str) -> None:
        super().__init__(f"bundle '{bundle}' can't run here: {why}.")


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
    exports : Path or None
        Where exports for other runtimes lie; None: torch runs the network.

    Raises
    ------
    ModelRefusal
        Weights missing, changed or unfit; config incomplete, or not as it was imported.
    """

    def __init__(
        self, card: Card, weights: Weights | None = None, exports: Path | None = None
    ) -> None:
        if card.run.unfit:
            raise BundleUnfit(card.name, card.run.unfit)
        for package in card.run.needs:
            if importlib.util.find_spec(package.partition(".")[0]) is None:
                raise PackageMissing(card.name, package)
        if weights is None:
            card.verify_weights()
        else:
            weights.verify(card.name)
        self.card, self.weights = card, weights
        self.device = _device(card)
        verify_as_imported(card.folder)  # before anything of it runs
        self._inference = read_inference(card.folder, card.run)
        named = self._inference.checkpoint_name
        if weights is None and named not in (None, card.weights_file.name):
            vouched = card.weights_file.name
            raise WeightsUnfit(card.name, f"its config loads {named}, its card names {vouched}")
        file = card.weights_file if weights is None else weights.file
        network = self._inference.network
        if card.run.torchscript and weights is None and is_torchscript(file):
            network = load_torchscript(card.name, file)
        elif network is None:
            raise WeightsUnfit(card.name, "no TorchScript, and its config names no network")
        else:
            state = load_state(card.name, file)
            try:
                network.load_state_dict(_network_state(state, self._inference.checkpoint_key))
            except (RuntimeError, AttributeError, TypeError) as error:
                raise WeightsUnfit(card.name, str(error).splitlines()[0]) from error
        self.network = network.to(self.device).eval()
        parts = {WHOLE: self.network}
        self.use(serve(parts, self.device, self.subject, exports, card.run.runtimes))

    @property
    def subject(self) -> Subject:
        """What an export must be about to serve this bundle."""
        card, weights = self.card, self.weights
        sha256 = card.weights_sha256 if weights is None else weights.sha256
        return Subject(card.name, sha256, self._inference.sha256)

    @property
    def inferer(self) -> Any:
        """``inferer(image, network)`` of the bundle's config."""
        return self._inference.inferer

    def use(self, serving: Serving) -> None:
        """Let another runtime answer from now on."""
        self.serving, self._network = serving, serving.parts[WHOLE]

    @property
    def identity(self) -> ModelIdentity:
        """Which network this is; goes into every object that it causes."""
        card, weights = self.card, self.weights
        return ModelIdentity(
            name=card.name,
            version=card.version if weights is None else f"{card.version}+{weights.version}",
            weights_sha256=card.weights_sha256 if weights is None else weights.sha256,
            manufacturer=card.manufacturer,
            runtime=self.serving.name,
            config_sha256=self._inference.sha256,
        )

    def segment(self, volume: Volume) -> Segmentation:
        """Labels or planes of one volume, on its own grid.

        Parameters
        ----------
        volume : Volume
            Values in the card's unit.

        Returns
        -------
        Segmentation
            `labels` has the shape (z, y, x); uint8, or uint16 above 255 segments. Planes:
            the smallest unsigned type with a bit for each segment.

        Raises
        ------
        UnitMismatch
            Other units than the network was trained on.
        OutputUnfit
            No mask, on another grid, or with a label that the card doesn't know.
        """
        result = self.analyse(volume)
        if not isinstance(result, Segmentation):
            raise OutputUnfit(self.card.name, f"it gives {self.card.run.output.value}, no mask")
        return result

    def analyse(self, volume: Volume) -> Segmentation | Reading:
        """What the bundle says of one volume.

        Parameters
        ----------
        volume : Volume
            Values in the card's unit; further channels in `channels`.

        Raises
        ------
        UnitMismatch, OutputUnfit
            See `segment`.
        ChannelsUnfit
            Not the channels that it takes.
        """
        import torch

        card, run = self.card, self._inference
        if volume.unit != card.unit:
            raise UnitMismatch(card.name, volume.series_instance_uid, volume.unit, card.unit)
        volume = remark_beyond(volume, card.accepts)
        straight = upright(volume) if card.run.input is Input.VOLUME else None
        seen = volume if straight is None else straight.volume(volume)
        items = feed(seen, card.run, run.keys, channel_first=run.channel_first)
        # inference_mode is per thread, and operators run in a scheduler thread.
        with torch.inference_mode():
            try:
                if card.run.output is Output.CLASSES:
                    return self._classified(volume, items)
                if card.run.output is Output.BOXES:
                    return self._detected(volume, items)
            except HeadUnfit as unfit:
                raise OutputUnfit(card.name, str(unfit)) from unfit
            masks = [self._mask(item) for item in items]
        mask = masks[0] if card.run.input is Input.VOLUME else np.stack(masks, axis=-1)
        shape = tuple(reversed(seen.array.shape))
        if card.run.input is Input.RGB:
            shape = (*reversed(seen.array.shape[1:]), 1)
        labels = self._checked(mask, shape)
        if straight is not None:
            labels = straight.labels_on_slices(labels, *volume.array.shape[1:])
        return Segmentation(
            volume=volume,
            labels=labels,
            segments=card.segments,
            model=self.identity,
            overlapping=card.run.output is Output.PLANES,
        )

    def _scores(self, item: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """The item after preprocessing, and what the network says of it, one in the batch."""
        item = self._prepared(item)
        batch = item["image"][None].to(self.device)
        inferer = self._inference.inferer
        if "class_vector" in inspect.signature(inferer.__call__).parameters:
            return self._asked_for(item, batch)
        return item, inferer(batch, self._network)

    def _asked_for(self, item: dict[str, Any], batch: Any) -> tuple[dict[str, Any], Any]:
        """The same of a network that is told which classes are wanted: those of the card."""
        import torch

        numbers = [segment.number for segment in self.card.segments]
        raw = self._inference.inferer(
            batch,
            self._network,
            point_coords=None,
            point_labels=None,
            class_vector=torch.tensor(numbers, device=self.device)[:, None],
        )
        item["label_prompt"] = torch.tensor(numbers)
        return item, raw

    def _prepared(self, item: dict[str, Any]) -> dict[str, Any]:
        done: dict[str, Any] = self._inference.preprocess(item)
        if "image" not in done:
            raise OutputUnfit(self.card.name, "its preprocessing gives no 'image'")
        return done

    def _mask(self, item: dict[str, Any]) -> np.ndarray:
        """Labels, or bits of planes, of one item: (X, Y), or (X, Y, Z)."""
        from monai.data import MetaTensor

        run = self._inference
        key = next(iter(item))
        affine, shape = item[key].affine, tuple(item[key].meta["spatial_shape"])
        if run.argmax is Argmax.WINDOWS:
            item = self._prepared(item)
            batch = item["image"][None].to(self.device)
            labels = windowed_argmax(run.inferer, batch.as_tensor(), self._finite_network)
            if run.by_affine:
                there = nearest_on_grid(labels, item["image"].affine, affine, shape)[None]
                return self._finished({"pred": MetaTensor(there, affine=affine)}, shape)
            scores = labels[None].float()
        else:
            item, raw = self._scores(item)
            scores = self._one_map(raw)
        item["pred"] = (
            scores
            if isinstance(scores, dict)
            else MetaTensor(
                scores,
                affine=item["image"].affine,
                meta=item["image"].meta,
                applied_operations=item["image"].applied_operations,
            )
        )
        item = run.postprocess(item)
        if run.argmax is Argmax.SLABS:
            if run.threshold is None:
                decided = labels_on_grid(item["pred"], affine, shape)[None]
            else:
                count = self._planes_of(item["pred"])
                bits = planes_on_grid(item["pred"], affine, shape, run.threshold, count)
                if not run.finish.transforms:
                    return bits
                decided = unpacked(bits, count)
            item = {"pred": MetaTensor(decided, affine=affine)}
        return self._finished(item, shape)

    def _finished(self, item: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
        """What the steps behind the decision leave: see `_mask`."""
        item = finish(self._inference.finish, item)
        if self.card.run.result not in item:
            raise OutputUnfit(self.card.name, f"it gives no '{self.card.run.result}'")
        pred = np.asarray(item[self.card.run.result])
        if self.card.run.output is Output.PLANES:
            return self._bits(pred)
        return pred[0] if len(pred) == 1 and pred.ndim > len(shape) else pred

    def _one_map(self, raw: Any) -> Any:
        import torch

        if isinstance(raw, dict) and self.card.run.result != "pred":
            maps = {getattr(key, "value", key): part[0].cpu() for key, part in raw.items()}
            return {key: self._finite(part) for key, part in maps.items()}
        if not isinstance(raw, torch.Tensor):
            raise OutputUnfit(self.card.name, f"the network gives a {type(raw).__name__}, no map")
        return self._finite(raw[0].cpu())

    def _finite(self, scores: Any) -> Any:
        """The same; NaN would pass for "not found", or for the whole volume."""
        import torch

        if not all(torch.isfinite(end) for end in torch.aminmax(scores)):
            raise OutputUnfit(self.card.name, "the network gives NaN or infinite scores")
        return scores

    def _finite_network(self, windows: Any) -> Any:
        return self._finite(self._network(windows))

    def _planes_of(self, pred: Any) -> int:
        count = max(segment.number for segment in self.card.segments)
        if len(pred) < count:
            raise OutputUnfit(self.card.name, f"{len(pred)} channels, not {count}")
        return count

    def _bits(self, pred: np.ndarray) -> np.ndarray:
        """Channels of 0 and 1 as bits of one number each."""
        count = self._planes_of(pred)
        if not np.isin(np.unique(pred[:count]), (0, 1)).all():
            raise OutputUnfit(self.card.name, "planes hold something else than 0 and 1")
        bits = np.zeros(pred.shape[1:], plane_kind(count))
        for n, plane in enumerate(pred[:count]):
            bits |= (plane != 0).astype(bits.dtype) << n
        return bits

    def _classified(self, volume: Volume, items: Iterable[dict[str, Any]]) -> Reading:
        card = self.card
        whole = card.run.input is not Input.SLICES
        activation = activation_of(self._inference.activation, card.run)
        scores = []
        for k, item in enumerate(items):
            _, raw = self._scores(item)
            place = None if whole else k
            scores.append(class_scores(raw, activation, card.run, place))
        return Reading(
            volume=volume,
            classes=card.run.classes,
            model=self.identity,
            scores=tuple(scores),
            operating_point=card.run.operating_point,
            activation=activation,
        )

    def _detected(self, volume: Volume, items: Iterable[dict[str, Any]]) -> Reading:
        card, (given,) = self.card, items
        item, raw = self._scores(given)
        affine = RAS_FROM_LPS @ np.asarray(item["image"].affine, np.float64)
        boxes = boxes_in_patient(
            detector_output(raw, self._inference.inferer),
            affine,
            tuple(item["image"].shape[1:]),
            card.run,
        )
        return Reading(
            volume=volume,
            classes=card.run.classes,
            model=self.identity,
            boxes=boxes,
            detector=True,
            operating_point=card.run.operating_point,
        )

    def _checked(self, mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The mask as (z, y, x), if it lies on the grid and holds what the card knows."""
        if mask.shape != shape:
            raise OutputUnfit(
                self.card.name, f"label map has shape {mask.shape}, the volume {shape}"
            )
        numbers = [segment.number for segment in self.card.segments]
        if self.card.run.output is Output.PLANES:
            known = sum(
                1 << (number - 1) for number in numbers
            )  # a channel nobody named is left out
            return np.ascontiguousarray(mask.T & mask.dtype.type(known))
        if strange := sorted({float(value) for value in np.unique(mask)} - {0, *numbers}):
            raise OutputUnfit(self.card.name, f"labels {strange[:5]} are not on its card")
        kind = np.uint8 if max(numbers) <= 255 else np.uint16
        return np.ascontiguousarray(mask.T.astype(kind))


def _device(card: Card) -> Any:
    import torch

    if card.run.device == "cuda" and not torch.cuda.is_available():
        raise BundleUnfit(card.name, "it needs a CUDA device, and there is none")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def is_torchscript(file: Path) -> bool:
    """Whether a weights file is a TorchScript program."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def load_torchscript(bundle: str, file: Path) -> Any:
    """A TorchScript program as a network. It runs what it holds: the card must allow it.

    Raises
    ------
    WeightsUnfit
        It is damaged.
    """
    import torch

    try:
        return torch.jit.load(str(file), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise WeightsUnfit(bundle, "damaged TorchScript") from error


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
