"""What is trained and measured on: a list of crops, each one slice and one structure.

A list (manifest) is drawn from a seed and written as JSON, so that anybody can see
which patients it holds, and the embeddings that are kept on disk belong to it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from operators.models.medsam.picture import Box, Crop, CropRule, crop_around

from .boxes import loose_box, looseness_px, random_crop, tight_box
from .volumes import Labelled, Source, Structure

LEAST_PX = 12  # a smaller outline is no task for a box


@dataclass(frozen=True)
class CropSpec:
    """One structure on one slice, and what of the slice is shown.

    Attributes
    ----------
    data, patient, case, structure : str
        See `Labelled`.
    k : int
        The slice.
    crop : Crop
        What the network is shown.
    box : tuple of float
        Loose, pixel edges of the slice.
    mirrored : bool
        The slice is shown left for right; `crop` and `box` are those of the mirrored slice.
    """

    data: str
    patient: str
    case: str
    structure: str
    k: int
    crop: Crop
    box: Box
    mirrored: bool = False

    @property
    def key(self) -> str:
        """Name of its files on disk: what the encoder is shown, and where it is from."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Draw:
    """How much of a volume is measured.

    Attributes
    ----------
    structures : int
        At most so many structures, drawn at random.
    slices : int
        At most so many slices of each.
    """

    structures: int
    slices: int


@dataclass(frozen=True)
class Shown:
    """A crop's slice and outline, shape (y, x), already mirrored where the crop says so."""

    plane: np.ndarray
    mask: np.ndarray


def show(volume: Labelled, spec: CropSpec) -> Shown:
    """The slice and the outline of one crop."""
    structure = next(item for item in volume.structures if item.name == spec.structure)
    return Shown(*_plane(volume, structure, spec.k, spec.mirrored))


def _plane(
    volume: Labelled, structure: Structure, k: int, mirrored: bool
) -> tuple[np.ndarray, np.ndarray]:
    step = -1 if mirrored else 1
    plane = volume.array[k, :, ::step]
    mask = np.isin(volume.labels[k, :, ::step], structure.labels)
    return np.ascontiguousarray(plane), np.ascontiguousarray(mask)


def training_crops(sources: Iterable[Source], per_structure: int, seed: int) -> Iterator[CropSpec]:
    """The same number of crops of every structure of every set, over as many patients as there are.

    Parameters
    ----------
    sources : iterable of Source
        Training patients only.
    per_structure : int
        Crops of each structure.
    seed : int
        Decides everything.

    Yields
    ------
    CropSpec
    """
    random = np.random.default_rng(seed)
    known = list(sources)
    taken: dict[tuple[str, str], int] = {}
    for n in random.permutation(len(known)):
        volume = known[n].read()
        order = random.permutation(len(volume.structures))
        # Two structures of a patient, the rarest first: few patients have a larynx outlined.
        wanted = sorted(
            (volume.structures[m] for m in order),
            key=lambda item: taken.get((volume.data, item.name), 0),
        )
        for structure in wanted[:2]:
            kind = volume.data, structure.name
            slices = _slices(volume, structure)
            if taken.get(kind, 0) >= per_structure or not len(slices):
                continue
            taken[kind] = taken.get(kind, 0) + 1
            yield _training_crop(volume, structure, int(random.choice(slices)), random)


def _training_crop(
    volume: Labelled, structure: Structure, k: int, random: np.random.Generator
) -> CropSpec:
    mirrored = bool(random.integers(2))
    plane, mask = _plane(volume, structure, k, mirrored)
    tight = tight_box(mask)
    box = loose_box(tight, plane.shape, looseness_px(volume.pixel_mm), random)
    crop = random_crop(box, plane.shape, random)
    return CropSpec(
        volume.data, volume.patient, volume.case, structure.name, k, crop, box, mirrored
    )


def measured_crops(
    sources: Iterable[Source], draws: dict[str, Draw], rule: CropRule, seed: int
) -> Iterator[CropSpec]:
    """Slices drawn at random of every structure of every patient, with one loose box each.

    Parameters
    ----------
    sources : iterable of Source
        Validation or test patients.
    draws : dict of Draw
        By `Labelled.data`.
    rule : CropRule
        The bundle's own.
    seed : int
        With the case's name it decides everything, so that one more case changes no other.

    Yields
    ------
    CropSpec
    """
    for source in sources:
        name = f"{seed} {source.data} {source.case}".encode()
        random = np.random.default_rng(list(hashlib.sha256(name).digest()))
        volume = source.read()
        draw = draws[volume.data]
        for n in random.permutation(len(volume.structures))[: draw.structures]:
            structure = volume.structures[n]
            slices = _slices(volume, structure)
            count = min(draw.slices, len(slices))
            for k in sorted(random.choice(slices, count, replace=False)) if count else ():
                plane, mask = _plane(volume, structure, int(k), mirrored=False)
                most_px = looseness_px(volume.pixel_mm)
                box = loose_box(tight_box(mask), plane.shape, most_px, random)
                crop = crop_around(box, plane.shape, volume.pixel_mm, rule)
                yield CropSpec(
                    volume.data, volume.patient, volume.case, structure.name, int(k), crop, box
                )


def sample(specs: Iterable[CropSpec], count: int, seed: int) -> list[CropSpec]:
    """So many of a list's crops, drawn at random, in the list's order."""
    known = list(specs)
    if count >= len(known):
        return known
    places = np.random.default_rng(seed).choice(len(known), count, replace=False)
    return [known[place] for place in sorted(places)]


def _slices(volume: Labelled, structure: Structure) -> np.ndarray:
    """Slices where the structure is large enough to be boxed."""
    return np.flatnonzero(volume.mask(structure).sum(axis=(1, 2)) >= LEAST_PX)


def write_manifest(specs: Iterable[CropSpec], file: Path) -> list[CropSpec]:
    """Write a list of crops; a list that is there already is kept and returned."""
    if file.is_file():
        return read_manifest(file)
    found = list(specs)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps([asdict(spec) for spec in found], indent=1))
    partial.replace(file)
    return found


def read_manifest(file: Path) -> list[CropSpec]:
    """The list that `write_manifest` wrote."""
    return [
        CropSpec(**{**entry, "crop": Crop(**entry["crop"]), "box": tuple(entry["box"])})
        for entry in json.loads(file.read_text())
    ]
