"""The card beside a bundle: what it accepts, what its labels mean, which weights are right.

The card is radloop's own file (`card.yaml`); the rest of the folder is a plain
MONAI bundle. No model library is imported here, so that the CLI and the series
selector can read cards at once.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jsonschema
import yaml

from operators.errors import ModelRefusal
from operators.job import Code, Segment, Unit
from operators.study.select import Accepts

SCHEMA_FILE = Path(__file__).with_name("card.schema.json")
READ_BYTES = 1 << 20


class CardInvalid(ModelRefusal):
    """A card breaks the published schema."""

    code = "RL-0401"

    def __init__(self, card: Path, where: str, problem: str) -> None:
        super().__init__(
            f"card of bundle '{card.parent.name}': {where}: {problem}. "
            f"Mend {card.name} (schema: operators/models/{SCHEMA_FILE.name})."
        )


class WeightsMissing(ModelRefusal):
    """The weights file that a card names is not there."""

    code = "RL-0402"

    def __init__(self, bundle: str, file: str) -> None:
        super().__init__(
            f"bundle '{bundle}': weights file {file} is missing. "
            "Install the bundle again, or train it with its own train config."
        )


class WeightsChanged(ModelRefusal):
    """The weights are not those that the card vouches for."""

    code = "RL-0403"

    def __init__(self, bundle: str, found: str, expected: str) -> None:
        super().__init__(
            f"bundle '{bundle}': weights have sha256 {found[:12]}…, its card says "
            f"{expected[:12]}…. "
            "The file was changed or damaged: install the bundle again."
        )


class BundlesMissing(ModelRefusal):
    """A folder of bundles that a setting names is not there."""

    code = "RL-0409"

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is no folder of bundles: correct RADLOOP_BUNDLES.")


class BundleUnknown(ModelRefusal):
    """No bundle of that name is installed."""

    code = "RL-0408"

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(
            f"bundle '{name}' is not installed; there are: {', '.join(known) or 'none'}. "
            "`radloop bundles list` shows them."
        )


@dataclass(frozen=True)
class Card:
    """What radloop knows of one bundle.

    Attributes
    ----------
    name : str
        Name of the bundle's folder.
    folder : Path
        The bundle.
    title : str
        For people.
    version : str
        From `configs/metadata.json`.
    manufacturer : str
        Who made the bundle.
    accepts : Accepts
        Series it may run on.
    unit : Unit
        Unit of the values that its network was trained on.
    segments : tuple of Segment
        Its labels.
    weights_file : Path
        Weights, inside the bundle.
    weights_sha256 : str
        What they must hash to.
    licence : str
        SPDX identifier or a short text.
    intended_use : str
        What it is for, and what not.
    limits : tuple of str
        What is known not to work.
    """

    name: str
    folder: Path
    title: str
    version: str
    manufacturer: str
    accepts: Accepts
    unit: Unit
    segments: tuple[Segment, ...]
    weights_file: Path
    weights_sha256: str
    licence: str
    intended_use: str
    limits: tuple[str, ...]

    def verify_weights(self) -> None:
        """Hash the weights file.

        Raises
        ------
        WeightsMissing
            No such file.
        WeightsChanged
            Another sha256 than the card's.
        """
        if not self.weights_file.is_file():
            raise WeightsMissing(self.name, str(self.weights_file.relative_to(self.folder)))
        digest = hashlib.sha256()
        with self.weights_file.open("rb") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
        if digest.hexdigest() != self.weights_sha256:
            raise WeightsChanged(self.name, digest.hexdigest(), self.weights_sha256)


@functools.cache
def _schema() -> Mapping[str, Any]:
    return cast(Mapping[str, Any], json.loads(SCHEMA_FILE.read_text()))


def _code(entry: Mapping[str, str] | None) -> Code | None:
    return Code(entry["value"], entry["scheme"], entry["meaning"]) if entry else None


def _segment(entry: Mapping[str, Any]) -> Segment:
    category, kind = _code(entry["category"]), _code(entry["type"])
    assert category is not None and kind is not None  # the schema requires both
    red, green, blue = entry["colour"]
    return Segment(
        number=entry["number"],
        name=entry["name"],
        label=entry["label"],
        category=category,
        type=kind,
        colour_rgb=(red, green, blue),
        laterality=_code(entry.get("laterality")),
    )


def load_card(folder: Path) -> Card:
    """Read and check the card of one bundle.

    Parameters
    ----------
    folder : Path
        A bundle with `card.yaml` and `configs/metadata.json`.

    Raises
    ------
    CardInvalid
        Not YAML, breaks the schema, or segment numbers repeat.
    """
    file = folder / "card.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise CardInvalid(file, "whole file", f"not YAML ({type(error).__name__})") from error
    problem = next(iter(jsonschema.Draft202012Validator(_schema()).iter_errors(content)), None)
    if problem is not None:
        raise CardInvalid(file, problem.json_path, problem.message)
    segments = tuple(_segment(entry) for entry in content["segments"])
    if len({segment.number for segment in segments}) != len(segments):
        raise CardInvalid(file, "$.segments", "a number stands twice")
    weights = content["weights"]
    weights_file = (folder / weights["file"]).resolve()
    if not weights_file.is_relative_to(folder.resolve()):
        raise CardInvalid(file, "$.weights.file", "leaves the bundle's folder")
    try:
        metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
        version = str(metadata["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"no version to be had from it ({type(error).__name__})"
        raise CardInvalid(file, "configs/metadata.json", why) from error
    return Card(
        name=folder.name,
        folder=folder.resolve(),
        title=content["title"],
        version=version,
        manufacturer=content["manufacturer"],
        accepts=Accepts.from_mapping(content["accepts"]),
        unit=content["unit"],
        segments=segments,
        weights_file=weights_file,
        weights_sha256=weights["sha256"],
        licence=weights["licence"],
        intended_use=content["intended_use"],
        limits=tuple(content["limits"]),
    )


def load_cards(folders: Iterable[Path]) -> dict[str, Card]:
    """Cards of all bundles in some folders, by name; a later folder wins a name.

    Parameters
    ----------
    folders : iterable of Path
        Folders whose children are bundles; a child without `card.yaml` is none.

    Raises
    ------
    BundlesMissing
        One of the folders is not there.
    CardInvalid
        One of the cards is wrong.
    """
    cards: dict[str, Card] = {}
    for folder in folders:
        if not folder.is_dir():
            raise BundlesMissing(folder)
        for file in sorted(folder.glob("*/card.yaml")):
            cards[file.parent.name] = load_card(file.parent)
    return cards
