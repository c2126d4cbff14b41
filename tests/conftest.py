"""Fixtures that every test may use.

A test that lacks its data, server or validator skips with a reason. Where
RADLOOP_REQUIRE_ALL is set (as in CI), a run in which anything was skipped fails, but
for what needs a checkout that is no part of any set-up (`zoo_dir`).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ZOO_VARIABLE = "RADLOOP_ZOO"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes: at the end of a run it would keep one core busy alone."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn a green run with skipped tests red, where nothing may be missing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if hasattr(session.config, "workerinput") or reporter is None:
        return  # only the controller has seen every report
    skipped = [
        report
        for report in reporter.stats.get("skipped", [])
        if ZOO_VARIABLE not in str(report.longrepr)
    ]
    if os.environ.get("RADLOOP_REQUIRE_ALL") and skipped:
        reporter.write_line(f"RADLOOP_REQUIRE_ALL is set and {len(skipped)} tests were skipped")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real images named by RADLOOP_DATA; skips where it is unset."""
    root = os.environ.get("RADLOOP_DATA")
    if not root:
        pytest.skip("RADLOOP_DATA is not set: this test needs real images")
    return Path(root)


@pytest.fixture(scope="session")
def zoo_dir() -> Path:
    """Checkout of the MONAI model zoo named by RADLOOP_ZOO; skips where it is unset."""
    root = os.environ.get(ZOO_VARIABLE)
    if not root:
        pytest.skip(f"{ZOO_VARIABLE} is not set: no checkout of Project-MONAI/model-zoo")
    return Path(root)


@pytest.fixture(scope="session")
def medsam_weights() -> Path:
    """Weights of `medsam_lite`; skips where they are not fetched."""
    file = Path(__file__).parent.parent / "bundles" / "medsam_lite" / "models" / "lite_medsam.pth"
    if not file.is_file():
        pytest.skip("the weights of medsam_lite are not here: make weights")
    return file


@pytest.fixture(scope="session")
def peers() -> Path:
    """Folder of packages that only tests compare with; skips where it was not made."""
    folder = Path(__file__).parent.parent / "var" / "peers"
    if not (folder / "transformers").is_dir():
        pytest.skip("the packages to compare with are not here: make peers")
    return folder
