"""Bundles that stay loaded from study to study."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from operators.errors import ModelRefusal
from operators.models.bundle import LoadedBundle
from operators.models.card import BundleUnknown, Card


class WarmModels:
    """The cards of all installed bundles, and their networks once used.

    Safe to call from several threads: a bundle is loaded once.

    Parameters
    ----------
    cards : mapping of str to Card
        By bundle name.
    """

    def __init__(self, cards: Mapping[str, Card]) -> None:
        self.cards = dict(cards)
        self._loaded: dict[str, LoadedBundle] = {}
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
        """The loaded bundle of that name.

        Raises
        ------
        BundleUnknown
            No such card.
        ModelRefusal
            It can't be loaded.
        """
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = LoadedBundle(self.card(name))
            return self._loaded[name]

    def load_all(self) -> None:
        """Load every bundle now; one that can't be loaded is refused when it is used."""
        for name in self.cards:
            try:
                self.get(name)
            except ModelRefusal:
                continue
