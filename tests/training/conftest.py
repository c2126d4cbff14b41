"""A registry in a folder of its own; its empty database is made once, since that takes 8 s."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from operators.models.card import Card, load_card
from tests.training.making import TEST_BUNDLES
from training.registry import Registry
from training.state import StateDir


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = StateDir(tmp_path_factory.mktemp("registry"))
    Registry(state)
    return state.registry_file


@pytest.fixture
def state(tmp_path: Path, empty_database: Path) -> StateDir:
    made = StateDir(tmp_path / "state")
    made.root.mkdir()
    shutil.copyfile(empty_database, made.registry_file)
    return made


@pytest.fixture
def registry(state: StateDir) -> Registry:
    return Registry(state)


@pytest.fixture(scope="session")
def card() -> Card:
    """`hu_threshold`: soft from 50 to 200 HU, bone above."""
    return load_card(TEST_BUNDLES / "hu_threshold")
