"""Whether a folder is a bundle in the zoo's layout, and speaks of the card's labels."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.bundles.refusals import LabelsDiffer, LayoutUnfit

CONFIGS = ("inference.json", "inference.yaml", "inference.yml")


def drop_torchscript(bundle: Path, weights_file: str, *, allowed: bool = False) -> tuple[str, ...]:
    """Take out TorchScript files, which are programs; names of those that were there.

    Parameters
    ----------
    bundle : Path
        Unpacked.
    weights_file : str
        Where the card has its weights.
    allowed : bool
        The card says `run.torchscript`: its weights may be such a program, and stay.

    Raises
    ------
    LayoutUnfit
        Nothing else holds the weights.
    """
    weights = bundle / weights_file
    scripts = sorted(file for file in bundle.rglob("*.ts") if not (allowed and file == weights))
    if allowed and weights.is_file():
        for script in scripts:
            script.unlink()
        return tuple(script.relative_to(bundle).as_posix() for script in scripts)
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
    name: str, metadata: Mapping[str, Any], card: Mapping[str, Any], *, by_name: bool
) -> None:
    """Every channel of the metadata is on the card, and nothing else.

    Parameters
    ----------
    name : str
        The bundle, for the message.
    metadata : mapping
        Content of `configs/metadata.json`; what it does not say is not asked.
    card : mapping
        Content of `card.yaml`.
    by_name : bool
        The card was written from this metadata: names agree too, but for case and what is
        no letter or digit. It may lack channels that the config never gives.

    Raises
    ------
    LabelsDiffer
        The first channel that differs.
    """
    try:
        outputs = metadata["network_data_format"]["outputs"]["pred"]
        channels = outputs.get("channel_def") or outputs["label_def"]
        said = {int(number): str(label) for number, label in channels.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return
    said, here = _numbered(said, card)
    for number in sorted(said.keys() | here.keys() if not by_name else here.keys()):
        theirs, ours = said.get(number), here.get(number)
        if theirs is None or ours is None or (by_name and _plain(theirs) != _plain(ours)):
            raise LabelsDiffer(
                name,
                number,
                repr(theirs) if theirs else "missing",
                repr(ours) if ours else "missing",
            )


def _numbered(
    said: dict[int, str], card: Mapping[str, Any]
) -> tuple[dict[int, str], dict[int, str]]:
    """Labels of the metadata, and those of the card, by the card's numbers."""
    output = card.get("run", {}).get("output", "labels")
    if output == "classes":
        return said, {n: entry["name"] for n, entry in enumerate(card["run"]["classes"])}
    here = {segment["number"]: segment["name"] for segment in card["segments"]}
    if output == "planes":  # channel 0 is a segment too, unless it is what is left over
        shifted = {n + 1: label for n, label in said.items() if label.casefold() != "background"}
        return shifted, here
    return {number: label for number, label in said.items() if number > 0}, here


def _plain(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", label.casefold()).strip("_")
