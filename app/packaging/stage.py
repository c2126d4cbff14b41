"""The folder that becomes the MAP's application, and the one of its models.

The packager takes one folder and copies it whole, so what lies side by side in
the repository is laid side by side in a folder of its own.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from app.bundle_folders import bundle_folders
from app.packaging.pins import requirements
from app.packaging.refusals import NothingToPack
from operators.models.card import WeightsMissing, load_cards

ROOMS = ("app", "operators", "pacs_config")
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.pyc", "output", "atlas")
ENTRY = '''"""Entry point of the MAP: `app/__main__.py`, from the folder that holds its packages."""

import sys

from app.__main__ import main

sys.exit(main())
'''


@dataclass(frozen=True)
class Staged:
    """Folders for the packager.

    Attributes
    ----------
    application, models : Path
        Its arguments.
    packed : tuple of str
        Bundles that go along.
    left_out : tuple of str
        Those that don't, with the reason.
    """

    application: Path
    models: Path
    packed: tuple[str, ...]
    left_out: tuple[str, ...]


def stage(root: Path, folder: Path) -> Staged:
    """Lay out application and models.

    Parameters
    ----------
    root : Path
        Checkout.
    folder : Path
        Empty.

    Raises
    ------
    NothingToPack
        No bundle could run in the image.
    WeightsChanged
        Weights are not those that their card vouches for.
    Unpinned
        The lock lacks a package.
    """
    application, models = folder / "application", folder / "models"
    application.mkdir()
    models.mkdir()
    for room in ROOMS:
        shutil.copytree(root / room, application / room, ignore=NOT_COPIED)
    (application / "__main__.py").write_text(ENTRY, encoding="utf-8")
    # The packager joins what follows without a newline of its own.
    (application / "requirements.txt").write_text(
        "".join(f"{line}\n" for line in requirements(root)), encoding="utf-8"
    )
    shutil.copyfile(root / "LICENSE", application / "LICENSE")
    packed, left_out = [], []
    for name, card in sorted(load_cards(bundle_folders()).items()):
        if card.prompted:
            left_out.append(f"{name}: it waits for a person's box, the MAP runs by itself")
            continue
        try:
            card.verify_weights()
        except WeightsMissing as missing:
            left_out.append(f"{name}: {missing.reason}")
            continue
        shutil.copytree(card.folder, models / name, ignore=NOT_COPIED)
        packed.append(name)
    if not packed:
        raise NothingToPack(left_out)
    return Staged(application, models, tuple(packed), tuple(left_out))
