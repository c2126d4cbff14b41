"""Whether a folder is a bundle in the zoo's layout, and speaks of the card's labels."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from app.bundles.refusals import LabelsDiffer, LayoutUnfit

CONFIGS = ("inference.json", "inference.yaml", "inference.yml")


def drop_torchscript(bundle: Path, weights_file: str) -> tuple[str, ...]:
    """Take out TorchScript files, which are programs; names of those that were there.

    Raises
    ------
    LayoutUnfit
        Nothing else holds the weights.
    """
    scripts = sorted(bundle.rglob("*.ts"))
    weights = bundle / weights_file
    if weights.is_file() and _is_torchscript(weights):
        raise LayoutUnfit(bundle.name, f"{weights_file} is TorchScript, a program, not weights")
    if scripts and not weights.is_file():
        named = scripts[0].relative_to(bundle).as_posix()
        raise LayoutUnfit(bundle.name, f"it has only {named}, TorchScript, a program, not weights")
    for script in scripts:
        script.unlink()
    return tuple(script.relative_to(bundle).as_posix() for script in scripts)


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def check_layout(bundle: Path, weights_file: str) -> dict[str, Any]:
    """The parts are there; gives the metadata.

    Raises
    ------
    LayoutUnfit
        A part is missing, or the metadata names no version.
    """
    if not any((bundle / "configs" / name).is_file() for name in CONFIGS):
        raise LayoutUnfit(bundle.name, "configs/inference.json is missing")
    weights = (bundle / weights_file).resolve()
    if not weights.is_relative_to(bundle.resolve()) or not weights.is_file():
        raise LayoutUnfit(bundle.name, f"{weights_file} is missing")
    try:
        metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise LayoutUnfit(bundle.name, "configs/metadata.json is missing") from error
    except ValueError as error:
        raise LayoutUnfit(bundle.name, "configs/metadata.json is not JSON") from error
    if not isinstance(metadata, dict) or not isinstance(metadata.get("version"), str):
        raise LayoutUnfit(bundle.name, "configs/metadata.json names no version")
    return metadata


def check_labels(
    name: str,
    metadata: Mapping[str, Any],
    segments: Iterable[Mapping[str, Any]],
    *,
    by_name: bool,
) -> None:
    """Every channel of the metadata is on the card, and nothing else.

    Parameters
    ----------
    name : str
        The bundle, for the message.
    metadata : mapping
        Content of `configs/metadata.json`; what it does not say is not asked.
    segments : iterable of mapping
        Entries of the card.
    by_name : bool
        The card was written from this metadata: names agree too, but for case.

    Raises
    ------
    LabelsDiffer
        The first channel that differs.
    """
    try:
        channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        said = {int(number): str(label) for number, label in channels.items() if int(number) > 0}
    except (KeyError, TypeError, ValueError, AttributeError):
        return
    card = {segment["number"]: segment["name"] for segment in segments}
    for number in sorted(said.keys() | card.keys()):
        there, here = said.get(number), card.get(number)
        if there is None or here is None or (by_name and there.casefold() != here.casefold()):
            raise LabelsDiffer(
                name,
                number,
                repr(there) if there else "missing",
                repr(here) if here else "missing",
            )
