"""Bundles that stay loaded from study to study, and change their weights only in between."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from operators.errors import ModelRefusal
from operators.models.bundle import LoadedBundle
from operators.models.card import BundleUnknown, Card
from operators.models.champion import read_champion
from operators.models.medsam.model import LoadedMedSam


class WarmModels:
    """The cards of all installed bundles, and their networks once used.

    Safe to call from several threads: a bundle is loaded once.

    Parameters
    ----------
    cards : mapping of str to Card
        By bundle name.
    champions : Path or None
        Folder that says which weights serve (`champion.read_champion`); None runs
        every bundle as it came.
    exports : Path or None
        Where `radloop bundles export` puts networks for other runtimes; None: torch.
    """

    def __init__(
        self,
        cards: Mapping[str, Card],
        champions: Path | None = None,
        exports: Path | None = None,
    ) -> None:
        self.cards = dict(cards)
        self._champions = champions
        self._exports = exports
        self._loaded: dict[str, LoadedBundle] = {}
        self._prompted: dict[str, LoadedMedSam] = {}
        self._lock = threading.Lock()

    def card(self, name: str) -> Card:
        """The card of that bundle.

        Raises
        ------
        BundleUnknown
            Not installed.
        """
        if name not in self.cards:
            raise BundleUnknown(name, sorted(self.cards))
        return self.cards[name]

    def get(self, name: str) -> LoadedBundle:
        """The loaded bundle of that name, with the weights that serve now.

        Weights that can't be had are refused; those that served before are not used instead.

        Raises
        ------
        BundleUnknown
            No such card.
        ModelRefusal
            It can't be loaded.
        """
        with self._lock:
            card = self.card(name)
            weights = read_champion(self._champions, name) if self._champions else None
            loaded = self._loaded.get(name)
            if loaded is None or loaded.weights != weights:
                self._loaded.pop(name, None)  # first: two networks may not fit
                loaded = self._loaded[name] = LoadedBundle(card, weights, self._exports)
            return loaded

    def get_prompted(self, name: str) -> LoadedMedSam:
        """The loaded prompted bundle of that name.

        Raises
        ------
        BundleUnknown
            No such card.
        ModelRefusal
            It can't be loaded.
        """
        with self._lock:
            if name not in self._prompted:
                self._prompted[name] = LoadedMedSam(self.card(name), self._exports)
            return self._prompted[name]

    def load_all(self) -> None:
        """Load every bundle now that runs by itself; a prompted one waits for its first prompt.

        One that can't be loaded is refused when it is used.
        """
        for name in (name for name, card in self.cards.items() if not card.prompted):
            try:
                self.get(name)
            except ModelRefusal:
                continue
