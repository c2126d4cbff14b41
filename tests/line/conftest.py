"""The whole graph in this process, with the threshold bundle loaded once a worker."""

from __future__ import annotations

from pathlib import Path

import pytest

TEST_BUNDLES = Path(__file__).parent.parent / "bundles"


@pytest.fixture(scope="session")
def threshold_models():
    """`hu_threshold` alone: soft 50 to 200 HU, bone above."""
    from operators.models.card import load_cards
    from operators.models.warm import WarmModels

    return WarmModels(load_cards([TEST_BUNDLES]))
