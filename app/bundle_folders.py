"""Where bundles are looked for."""

from __future__ import annotations

import os
from pathlib import Path

SHIPPED_BUNDLES = Path(__file__).parent.parent / "bundles"


def bundle_folders() -> list[Path]:
    """The shipped bundles, then the folders in RADLOOP_BUNDLES (separated as in PATH)."""
    extra = os.environ.get("RADLOOP_BUNDLES", "")
    return [SHIPPED_BUNDLES, *(Path(entry) for entry in extra.split(os.pathsep) if entry)]
