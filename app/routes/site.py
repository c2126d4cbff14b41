"""What a site has: its bundles, by their cards, and its destinations, by the settings."""

from __future__ import annotations

from app.bundle_folders import bundle_folders
from app.delivery import keys
from app.routes.model import Site
from app.settings import Settings
from operators.models.card import Card, load_cards


def read_site(settings: Settings) -> tuple[Site, dict[str, Card]]:
    """What routes are checked against, and the cards of all installed bundles.

    Raises
    ------
    CardInvalid, BundlesMissing
        A card is wrong, or a folder of bundles is not there.
    """
    cards = load_cards(bundle_folders())
    site = Site(
        bundles=tuple(sorted(name for name, card in cards.items() if not card.prompted)),
        prompted=tuple(sorted(name for name, card in cards.items() if card.prompted)),
        destinations=keys(settings),
        quiet_seconds=settings.quiet_seconds,
    )
    return site, cards
