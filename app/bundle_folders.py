"""Where bundles are looked for, and where the cards of those that could come lie."""

from __future__ import annotations

import os
from pathlib import Path

from app.settings import load_settings

SHIPPED_BUNDLES = Path(__file__).parent.parent / "bundles"
ZOO_CARDS = SHIPPED_BUNDLES / "zoo"


def imported_bundles() -> Path:
    """Where `radloop bundles import` installs: `bundles` in `state_dir`; may not exist yet."""
    return load_settings().state_dir / "bundles"


def exported_bundles() -> Path:
    """Where `radloop bundles export` writes: `exports` in `state_dir`; may not exist yet."""
    return load_settings().state_dir / "exports"


def bundle_folders() -> list[Path]:
    """Shipped bundles, imported ones, then the folders in RADLOOP_BUNDLES (as in PATH).

    A later folder wins a name.
    """
    extra = os.environ.get("RADLOOP_BUNDLES", "")
    imported = imported_bundles()
    return [
        # A MAP keeps its bundles elsewhere: HOLOSCAN_MODEL_PATH, see app/__main__.py.
        *([SHIPPED_BUNDLES] if SHIPPED_BUNDLES.is_dir() else []),
        *([imported] if imported.is_dir() else []),
        *(Path(entry) for entry in extra.split(os.pathsep) if entry),
    ]
