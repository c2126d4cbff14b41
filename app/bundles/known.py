"""All bundles that radloop knows: those that are here, and those that the zoo's cards promise."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.bundles.install import read_record
from operators.errors import ModelRefusal
from operators.models.card import Card, WeightsNotFetched, load_cards, load_zoo_card

State = Literal["installed", "unverified", "not installed"]
HashState = Literal["published", "pinned", "shipped", "unpinned"]
NVIDIA_DRIVER = Path("/dev/nvidiactl")


def hindrance(card: Card) -> str:
    """Why a bundle can't run on this machine, as far as its card tells; "" where it can."""
    if card.run.unfit:
        return card.run.unfit
    absent = [name for name in card.run.needs if importlib.util.find_spec(name) is None]
    if absent:
        return f"It needs Python packages that are not installed here: {', '.join(absent)}."
    if card.run.device == "cuda" and not NVIDIA_DRIVER.exists():
        return "It needs an NVIDIA GPU, and this machine has none."
    return ""


@dataclass(frozen=True)
class Weights:
    """What is here of a bundle's weights.

    Attributes
    ----------
    said : str
        ``right``, ``not here``, or ``wrong: CODE``.
    remedy : str
        The commands that bring them, where they are not here and can be had.
    """

    said: str
    remedy: str = ""


@dataclass(frozen=True)
class Known:
    """One bundle.

    Attributes
    ----------
    card : Card
        Its own, or the zoo's where it is not installed.
    state : State
        ``unverified``: imported, but no publisher's hash vouches for the weights; they are
        those of the first import, no more.
    """

    card: Card
    state: State

    def weights(self) -> Weights:
        """Whether they are here and right; reads them whole."""
        if self.state == "not installed":
            return Weights("not here", _remedy(self.card))
        try:
            self.card.verify_weights()
        except WeightsNotFetched as refusal:
            return Weights("not here", refusal.remedy)
        except ModelRefusal as refusal:
            return Weights(f"wrong: {refusal.code}")
        return Weights("right")

    @property
    def hash_state(self) -> HashState:
        """Who vouches for the weights that the card names."""
        if not self.card.weights_sha256:
            return "unpinned"
        if self.card.pin is not None:
            return "published" if self.card.pin.published else "pinned"
        record = read_record(self.card.folder)
        if record is None:
            return "shipped"
        return "published" if record["publisher_hash"] == "matches" else "pinned"


def known_bundles(folders: Iterable[Path], zoo: Path) -> dict[str, Known]:
    """Installed bundles by name, then those of the zoo that are not installed.

    Parameters
    ----------
    folders : iterable of Path
        See `load_cards`.
    zoo : Path
        Folder of zoo cards.

    Raises
    ------
    ModelRefusal
        A folder is missing, or a card is wrong.
    """
    known = {name: Known(card, _state(card)) for name, card in load_cards(folders).items()}
    for file in sorted(zoo.glob("*/card.yaml")):
        if file.parent.name not in known:
            known[file.parent.name] = Known(load_zoo_card(file.parent), "not installed")
    return known


def _remedy(card: Card) -> str:
    """Of a bundle of the zoo."""
    if hindrance(card):
        return ""
    if card.published is None or card.published.archive is None:
        return "`radloop bundles import FOLDER_OR_ZIP`"
    return f"`radloop bundles fetch {card.name}`"


def _state(card: Card) -> State:
    if card.pin is not None:
        return "installed" if card.pin.published else "unverified"
    record = read_record(card.folder)
    return "installed" if record is None or record["publisher_hash"] == "matches" else "unverified"
