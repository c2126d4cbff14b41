"""Fixtures that every test may use.

A test that lacks its data, server or validator skips with a reason. Where
RADLOOP_REQUIRE_ALL is set (as in CI), it fails instead.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def skip_or_fail(reason: str) -> None:
    """Skip the running test, or fail it where nothing may be missing."""
    if os.environ.get("RADLOOP_REQUIRE_ALL"):
        pytest.fail(f"{reason} (RADLOOP_REQUIRE_ALL is set)")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real images named by RADLOOP_DATA."""
    root = os.environ.get("RADLOOP_DATA")
    if not root:
        skip_or_fail("RADLOOP_DATA is not set: this test needs real images")
    return Path(str(root))


@pytest.fixture(scope="session")
def orthanc_binary() -> str:
    """Debian's Orthanc."""
    binary = shutil.which("Orthanc")
    if not binary:
        skip_or_fail("no Orthanc on the PATH: `make system` installs it")
    return str(binary)
