"""A prompted bundle in memory: volume, slice and box in, segmentation out."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import yaml

from operators.errors import ModelRefusal
from operators.job import ModelIdentity, QualityFlag, Segmentation, Unit, Volume
from operators.models.card import Card
from operators.models.medsam.networks import NETWORKS, build_network
from operators.models.medsam.parts import modules_of, take_over
from operators.models.medsam.picture import (
    Box,
    Crop,
    CropRule,
    Point,
    SlicePrompt,
    box_in_picture,
    crop_around,
    display_window,
    fitted_shape,
    mask_in_picture,
    to_mask,
    to_picture,
)
from operators.models.medsam.pieces import pieces_of, united
from operators.models.medsam.place import Placed
from operators.models.medsam.propagate import (
    End,
    FollowRule,
    Propagated,
    bounding_box,
    interpolated,
    largest_piece,
    propagate,
)
from operators.models.medsam.proposals import (
    MOST_SEGMENTS,
    ProposalRule,
    propose,
    proposed_segments,
)
from operators.models.medsam.propose import Answer, best_box, candidate_boxes
from operators.models.medsam.region import Region
from operators.models.medsam.request import segment_called
from operators.models.medsam.stated import prompt_parameters
from operators.models.runtimes.interface import Serving, Subject
from operators.models.runtimes.serve import serve

if TYPE_CHECKING:
    import torch

CACHED_EMBEDDINGS = 64  # 4 MB each
BOXES_AT_ONCE = 16  # 100 MB each
PROPOSALS = ProposalRule()
MASK_SIDE = 256  # of a mask that is prompted, in every network of SAM's kind
# How sure a given mask is taken to be. On the CT of STS_002 contours came back with a median
# Dice of .95 at 10 and .88 at 1; a box alone has .87.
MASK_LOGIT = 10.0


class PromptConfigUnfit(ModelRefusal):
    """The inference config of a prompted bundle is not one that can be run."""

    code = "RL-1002"

    def __init__(self, bundle: str, what: str) -> None:
        super().__init__(
            f"bundle '{bundle}': {what} in configs/inference.yaml. A prompted bundle needs a "
            f"network_def among {', '.join(NETWORKS)} and the numbers of `prompting`; install the "
            "bundle again."
        )


class LoadedMedSam:
    """A network of `NETWORKS` ready for any number of boxes.

    Its embeddings are kept for a while, so that a second box on a slice costs the
    decoder only. Needs torch, not monai.

    Parameters
    ----------
    card : Card
        Of a prompted bundle.
    exports : Path or None
        Where exports for other runtimes lie; None: torch runs the network.

    Raises
    ------
    ModelRefusal
        Weights missing, changed or unfit; config incomplete.
    """

    def __init__(self, card: Card, exports: Path | None = None) -> None:
        import torch

        from operators.models.medsam.tuned import put_part
        from operators.models.medsam.weights import load_weights

        card.verify_weights()
        self.card = card
        config_file = card.folder / "configs" / "inference.yaml"
        target, self._crop_rule, self._follow_rules, self._looks = read_config(
            card.name, config_file.read_bytes()
        )
        self._config_sha256 = hashlib.sha256(
            config_file.read_bytes() + (card.folder / "card.yaml").read_bytes()
        ).hexdigest()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = build_network(target)
        whole = card.base_card() or card
        load_weights(whole.name, network, whole.weights_file)
        if card.base is not None:
            put_part(card.name, network, card.weights_file)
        self._side = network.PICTURE_SIDE
        # Channels last takes a third off the convolutions on a CPU.
        self._network = network.to(self._device).eval()
        self._network.to(memory_format=torch.channels_last)
        parts = modules_of(self._network)
        self.use(serve(parts, self._device, self.subject, exports, card.run.runtimes))
        self._embeddings: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    @property
    def network(self) -> Any:
        """The network, a `torch.nn.Module` and a `PromptedNetwork`."""
        return self._network

    @property
    def subject(self) -> Subject:
        """What an export must be about to serve this bundle."""
        return Subject(self.card.name, self.card.weights_sha256, self._config_sha256)

    def use(self, serving: Serving) -> None:
        """Let this runtime answer from now on."""
        self.runtime = serving.name
        take_over(self._network, serving)

    def segment(self, placed: Placed, region: Region) -> Segmentation:
        """Follow the marked structure through its volume.

        Parameters
        ----------
        placed : Placed
            Where the region lies.
        region : Region
            What was asked for.

        Returns
        -------
        Segmentation
            One segment; the volume's quality flags say how far it was followed.
        """
        volume = placed.volume
        window = display_window(volume)
        prompts = {
            k: prompt
            if prompt.box
            else SlicePrompt(self._propose(volume, k, prompt.points, window))
            for k, prompt in placed.slices.items()
        }
        pieces = pieces_of(prompts)
        parts = [self._follow(volume, piece, window, onward=not region.whole) for piece in pieces]
        found = united(parts)
        remarks = (*_remarks(placed, region, found), *_apart(parts))
        flags = (*volume.quality, *placed.remarks, *remarks)
        return Segmentation(
            volume=replace(volume, quality=flags),
            labels=found.mask.astype(np.uint8),
            segments=(segment_called(region.label),),
            model=self._identity(prompt_parameters(placed, region)),
        )

    def _follow(
        self,
        volume: Volume,
        prompts: Mapping[int, SlicePrompt],
        window: tuple[float, float],
        *,
        onward: bool,
    ) -> Propagated:
        """What is in one piece, on its marked slices, between them and beyond."""
        boxes = interpolated({k: prompt.box for k, prompt in prompts.items() if prompt.box})
        marked = {
            k: largest_piece(self._segment_marked(volume, k, box, prompts.get(k), window))
            for k, box in boxes.items()
        }
        return propagate(
            volume.array,
            marked,
            lambda slice_k, box: self.segment_slice(volume, slice_k, box, window),
            window=window,
            step_px=volume.spacing_zyx_mm[0] / max(volume.spacing_zyx_mm[1:]),
            rule=self._follow_rules[volume.unit],
            onward=onward,
        )

    def _propose(
        self, volume: Volume, k: int, points: Sequence[Point], window: tuple[float, float]
    ) -> Box:
        """The box round what points mean: see `propose.py`; the smallest where nothing is found."""
        import torch

        plane = volume.array[k]
        whole = Crop(0, 0, *plane.shape)
        candidates = candidate_boxes(points, plane.shape)
        in_picture = [box_in_picture(box, whole, self._side) for box in candidates]
        with torch.inference_mode():
            embedding = self._embed(to_picture(plane, window, self._side))
            boxes = torch.tensor(in_picture, dtype=torch.float32, device=self._device)
            logits, iou = self._network.decode(embedding, boxes)
            answers = [
                Answer(to_mask(one, whole, plane.shape), float(sure))
                for one, sure in zip(logits, iou, strict=True)
            ]
        return best_box(answers, points) or candidates[0]

    def segment_slice(
        self, volume: Volume, k: int, box: Box, window: tuple[float, float]
    ) -> np.ndarray:
        """The mask of one box on one slice, shape (y, x), bool.

        Where the config says two looks, the network is asked again with a box that is
        drawn tightly round the first answer. The embedding serves both.
        """
        first = largest_piece(self._look(volume, k, box, box, window))
        if self._looks == 1 or not first.any():
            return first
        return self._look(volume, k, bounding_box(first, 0.0), box, window)

    def _segment_marked(
        self,
        volume: Volume,
        k: int,
        box: Box,
        prompt: SlicePrompt | None,
        window: tuple[float, float],
    ) -> np.ndarray:
        """As `segment_slice`; a mask that is given with the box is refined by one look."""
        if prompt is None or prompt.mask is None:
            return self.segment_slice(volume, k, box, window)
        return self._look(volume, k, box, box, window, prompt.mask)

    def propose(self, volume: Volume, rule: ProposalRule = PROPOSALS) -> Segmentation:
        """Regions of a 2D image that nobody asked for, from one embedding.

        Parameters
        ----------
        volume : Volume
            With a plane.
        rule : ProposalRule
            Which are kept; at most `MOST_SEGMENTS`.

        Returns
        -------
        Segmentation
            A segment each, the most stable first; they may overlap. None at all is an
            answer too.
        """
        import torch

        plane = volume.array[0]
        picture = to_picture(plane, display_window(volume), self._side)
        with torch.inference_mode():
            embedding = self._embed(picture)

        def answer(boxes: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                asked = torch.from_numpy(boxes).to(self._device).split(BOXES_AT_ONCE)
                logits = [self._network.decode(embedding, part)[0] for part in asked]
                return torch.cat(logits).float().cpu().numpy()

        rows, columns = fitted_shape(plane.shape, self._side)
        seen = picture[0, 0, :rows, :columns].numpy()
        found = propose(answer, seen, rule)[:MOST_SEGMENTS]
        labels = np.zeros(volume.array.shape, np.uint32)
        for n, proposal in enumerate(found):
            crop = Crop(0, 0, *plane.shape)
            mask = largest_piece(to_mask(torch.from_numpy(proposal.logits), crop, plane.shape))
            labels[0] |= mask.astype(np.uint32) << np.uint32(n)
        text = (
            f"{len(found)} regions of {name_picture(volume)} proposed by a model, by the "
            "stability of their outlines alone; nothing was assessed, and what is not outlined "
            "was not judged to be absent."
        )
        return Segmentation(
            volume=replace(volume, quality=(*volume.quality, QualityFlag("proposed", text))),
            labels=labels,
            segments=proposed_segments(len(found)),
            model=self._identity(()),
            overlapping=True,
        )

    def _look(
        self,
        volume: Volume,
        k: int,
        box: Box,
        shown: Box,
        window: tuple[float, float],
        prior: np.ndarray | None = None,
    ) -> np.ndarray:
        """The network's answer to a box on one slice; `shown` decides what it sees of it."""
        import torch

        plane = volume.array[k]
        crop = crop_around(shown, plane.shape, max(volume.spacing_zyx_mm[1:]), self._crop_rule)
        in_picture = box_in_picture(box, crop, self._side)
        # inference_mode is per thread, and operators run in a scheduler thread.
        with torch.inference_mode():
            embedding = self._embed(to_picture(crop.of(plane), window, self._side))
            boxes = torch.tensor([in_picture], dtype=torch.float32, device=self._device)
            if prior is None:
                logits, _ = self._network.decode(embedding, boxes)
            else:
                given = mask_in_picture(prior, crop, MASK_SIDE, MASK_LOGIT).to(self._device)
                logits, _ = self._network.decode(embedding, boxes, masks=given)
            return to_mask(logits[0], crop, plane.shape)

    def _embed(self, picture: torch.Tensor) -> torch.Tensor:
        """The picture's embedding, from the latest ones where it is among them."""
        import torch

        # By content: no volume, slice or crop can be mistaken for another.
        key = hashlib.blake2b(picture[0, 0].numpy().tobytes(), digest_size=16).digest()
        if key not in self._embeddings:
            on_device = picture.to(self._device, memory_format=torch.channels_last)
            self._embeddings[key] = self._network.encode(on_device)
            if len(self._embeddings) > CACHED_EMBEDDINGS:
                self._embeddings.popitem(last=False)
        self._embeddings.move_to_end(key)
        return self._embeddings[key]

    def _identity(self, prompt: tuple[tuple[str, str], ...]) -> ModelIdentity:
        return ModelIdentity(
            name=self.card.name,
            version=self.card.version,
            weights_sha256=self.card.weights_sha256,
            manufacturer=self.card.manufacturer,
            runtime=self.runtime,
            config_sha256=self._config_sha256,
            prompt=prompt,
        )


def read_config(bundle: str, config: bytes) -> tuple[str, CropRule, Mapping[Unit, FollowRule], int]:
    """Which of `NETWORKS`, its rules, and how often it looks at a slice (1 or 2).

    `stop_sd` is one number, or one for each unit of values.
    """
    try:
        content: dict[str, Any] = yaml.safe_load(config)
        target = content["network_def"]["_target_"]
        if target not in NETWORKS:
            raise PromptConfigUnfit(bundle, "another network")
        prompting = content["prompting"]
        crop = {name: float(value) for name, value in prompting["crop"].items()}
        follow: dict[str, Any] = dict(prompting["follow"])
        stop = follow.pop("stop_sd")
        stops = stop if isinstance(stop, dict) else dict.fromkeys(get_args(Unit), stop)
        shared = {name: float(value) for name, value in follow.items()}
        rules = {unit: FollowRule(stop_sd=float(stops[unit]), **shared) for unit in get_args(Unit)}
        looks = prompting.get("looks", 2)
        if looks not in (1, 2):
            raise PromptConfigUnfit(bundle, "looks other than 1 or 2")
        return target, CropRule(**crop), rules, looks
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise PromptConfigUnfit(bundle, f"{type(error).__name__}") from error


def name_picture(volume: Volume) -> str:
    """A 2D image and its frame in words."""
    frame = volume.plane.frame if volume.plane is not None else None
    return f"image {volume.source_sop_uids[0]}" + (f", frame {frame}" if frame else "")


def _remarks(placed: Placed, region: Region, found: Propagated) -> tuple[QualityFlag, ...]:
    """How far the structure was followed, and where it may go on."""
    if not found.mask.any():
        return (QualityFlag("prompt-empty", "Nothing was found in the box."),)
    if placed.volume.plane is not None:
        text = f"One region from what was marked on {name_picture(placed.volume)}."
        return (QualityFlag("prompted", text),)
    uids = placed.volume.source_sop_uids
    count = found.last - found.first + 1
    marks = [uids[k] for k in placed.slices]
    source = (
        f"one box on image {marks[0]}"
        if len(marks) == 1
        else f"marks on {len(marks)} images from {marks[0]} to {marks[-1]}"
    )
    text = (
        f"One structure from {source}, followed over {count} slices: before "
        f"image {uids[found.first]} it ends since {found.ends[0].value}, after image "
        f"{uids[found.last]} since {found.ends[1].value}."
    )
    flags = [QualityFlag("prompted", text)]
    origin = dict(region.origin)
    if "prompt_tracking_uid" in origin:
        mark = (
            f"It was marked by the measurement with tracking UID {origin['prompt_tracking_uid']} "
            f"of report {origin['prompt_report']}."
        )
        flags.append(QualityFlag("marked-in-report", mark))
    if End.SERIES in found.ends:
        cut = "It reaches the end of the series: it may go on outside, and its volume be too small."
        flags.append(QualityFlag("incomplete-coverage", cut))
    return tuple(flags)


def _apart(parts: Sequence[Propagated]) -> tuple[QualityFlag, ...]:
    """That the marks are of several pieces."""
    if len(parts) == 1:
        return ()
    lost = sum(not part.mask.any() for part in parts)
    text = f"The marks lie in {len(parts)} separate pieces; each was segmented by itself" + (
        f", and in {lost} of them nothing was found." if lost else "."
    )
    return (QualityFlag("separate-pieces", text),)
