"""`radloop bundles export`: a bundle's network for another runtime, compared before it may serve.

The network is that which serves now: the bundle's own weights, or those that were
promoted. Exports go to `state_dir/exports`, beside the choice that is made among them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from operators.job import Segmentation, Volume
from operators.models.bundle import LoadedBundle
from operators.models.card import Card
from operators.models.champion import Weights
from operators.models.medsam.compare import dice_of_boxes
from operators.models.medsam.model import LoadedMedSam
from operators.models.medsam.parts import exportable_parts
from operators.models.run_block import Output
from operators.models.runtimes.export import Part, check_format, export_network
from operators.models.runtimes.interface import RUNTIME_OF, Format, Precision, Serving, Subject
from operators.models.runtimes.network import whole_network
from operators.models.runtimes.record import MIN_REAL_DICE, Record
from operators.models.runtimes.refusals import CheckNeeded, NoRuntime, NotExportable
from operators.study.read import read_drop
from operators.study.select import select
from operators.volume.build import build_volumes

# Fewer voxels than these say nothing about an organ, and a single one would move their Dice.
MIN_VOXELS = 100


@dataclass(frozen=True)
class Exported:
    """What an export did.

    Attributes
    ----------
    folder : Path
        Of the export.
    record : Record
        What was compared, and how it differed.
    runtime : str
        Which runtime serves the bundle on this machine from now on.
    """

    folder: Path
    record: Record
    runtime: str


def export_bundle(
    card: Card,
    weights: Weights | None,
    format_: Format,
    precision: Precision,
    exports: Path,
    *,
    check: Path | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> Exported:
    """Write, compare, put in place, and measure which runtime is fastest now.

    Parameters
    ----------
    card : Card
        Of an installed bundle.
    weights : Weights or None
        Those that serve instead of the bundle's own.
    format_, precision : Format, Precision
        What to make.
    exports : Path
        ``exports`` of a state folder; made if missing.
    check : Path or None
        A study of real images to compare on; needed for fewer bits than float32.
    progress : callable
        Called with the name of each stage as it begins.

    Raises
    ------
    ExportRefusal
        It can't be made, or its answers are not torch's; nothing is changed then.
    ModelRefusal
        The bundle can't be loaded.
    """
    if RUNTIME_OF[format_] not in card.run.runtimes:
        why = [f"it does not allow {RUNTIME_OF[format_]}"]
        raise NoRuntime(card.name, card.run.runtimes, why)
    check_format(card.name, format_, precision, compares_real=check is not None)
    progress("reading")
    volumes = _volumes(card, check) if check is not None else ()
    progress("loading")
    # By torch, whatever the card allows: it is what the others are compared with.
    free = _allowing_torch(card)
    loaded = LoadedMedSam(free) if card.prompted else LoadedBundle(free, weights)
    parts, subject = _parts(loaded, format_), loaded.subject
    progress("writing and comparing")

    def compare_real(serving: Serving) -> Mapping[str, float]:
        progress("comparing on real images")
        if isinstance(loaded, LoadedMedSam):
            return dice_of_boxes(loaded, serving, volumes)
        return _dice_of_labels(loaded, serving, volumes)

    folder, record = export_network(
        parts,
        subject,
        format_,
        precision,
        exports,
        compare_real=compare_real if volumes else None,
    )
    progress("measuring")
    return Exported(folder, record, _chosen(card, weights, subject, exports))


def _allowing_torch(card: Card) -> Card:
    return replace(card, run=replace(card.run, runtimes=("torch",)))


def _parts(loaded: LoadedBundle | LoadedMedSam, format_: Format) -> list[Part]:
    if isinstance(loaded, LoadedMedSam):
        return exportable_parts(loaded.network)
    name, output = loaded.card.name, loaded.card.run.output
    if output is Output.BOXES:
        raise NotExportable(name, format_, "a detector is more than its network")
    try:
        metadata = json.loads(
            (loaded.card.folder / "configs" / "metadata.json").read_text(encoding="utf-8")
        )
        return [
            whole_network(
                loaded.network, loaded.inferer, metadata, overlapping=output is Output.PLANES
            )
        ]
    except ValueError as error:
        raise NotExportable(name, format_, str(error)) from error


def _chosen(card: Card, weights: Weights | None, subject: Subject, exports: Path) -> str:
    """Load the bundle as it will be served, which measures and keeps the choice."""
    if card.prompted:
        return LoadedMedSam(card, exports).runtime
    served = LoadedBundle(card, weights, exports)
    assert served.subject == subject
    return served.identity.runtime


def _volumes(card: Card, study: Path) -> tuple[Volume, ...]:
    """What the bundle would run on in a study, whatever its body part says."""
    if card.run.channels:
        raise CheckNeeded(card.name, "bundles of several series are not compared yet")
    if not card.prompted and card.run.output not in (Output.LABELS, Output.PLANES):
        raise CheckNeeded(card.name, "a bundle that gives no mask can't be compared by Dice")
    matches, _ = select(read_drop(study).studies, {card.name: card.accepts}, card.name)
    volumes = tuple(
        volume for match in matches for volume in build_volumes(match.series, card.name)
    )
    if not volumes:
        raise CheckNeeded(card.name, "no series of the study is one that it accepts")
    return volumes


def _dice_of_labels(
    loaded: LoadedBundle, serving: Serving, volumes: tuple[Volume, ...]
) -> dict[str, float]:
    """Dice by structure, all volumes together, of those that either of the two finds.

    Raises
    ------
    CheckNeeded
        Neither finds anything, or a structure is too small in both to be compared: what
        was not compared may be lost.
    """
    before = loaded.serving
    ours = [loaded.segment(volume) for volume in volumes]
    loaded.use(serving)
    theirs = [loaded.segment(volume) for volume in volumes]
    loaded.use(before)
    dice, small = {}, []
    for segment in loaded.card.segments:
        pairs = [
            (_mask(a, segment.number), _mask(b, segment.number))
            for a, b in zip(ours, theirs, strict=True)
        ]
        found, answered = (sum(int(pair[n].sum()) for pair in pairs) for n in (0, 1))
        if max(found, answered) >= MIN_VOXELS:
            both = sum(int((a & b).sum()) for a, b in pairs)
            dice[segment.name] = 2 * both / (found + answered)
        elif found or answered:
            small.append(f"{segment.name} ({found} voxels)")
    lowest = min(dice.values(), default=1.0)
    if small and lowest >= MIN_REAL_DICE:  # else the loss that was measured is the better reason
        why = f"too small to compare in that study (below {MIN_VOXELS} voxels): {', '.join(small)}"
        raise CheckNeeded(loaded.card.name, why)
    if not dice:
        raise CheckNeeded(loaded.card.name, "it found nothing in that study")
    return dice


def _mask(segmentation: Segmentation, number: int) -> np.ndarray:
    """Where one structure is; planes are bits, labels are numbers."""
    if getattr(segmentation, "overlapping", False):
        return np.asarray((segmentation.labels >> (number - 1)) & 1, bool)
    return np.asarray(segmentation.labels == number)
