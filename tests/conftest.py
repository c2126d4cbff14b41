"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real images named by RADLOOP_DATA; the test skips where it is unset."""
    root = os.environ.get("RADLOOP_DATA")
    if not root:
        pytest.skip("RADLOOP_DATA is not set: this test needs real images")
    return Path(root)
