"""A card for a bundle that has none, read off its config and metadata: for trials only.

What a person would have to say on a real card is guessed here, so nothing that
comes of it may reach a patient: codes and names mean nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from operators.models.config_steps import target

ANATOMY = {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"}
REGION = {"value": "111099", "scheme": "DCM", "meaning": "Selected region"}
# Steps that wait for what no image holds.
_WAITS_FOR = {
    "AddClickSignalsd": "clicks of a person",
    "AddLabelAsGuidanced": "a mask of each nucleus",
}


def outline_card(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Content of a card.

    Parameters
    ----------
    folder : Path
        The bundle, in the zoo's layout.
    config : dict
        Its inference config as it is written, steps expanded where it has them.

    Returns
    -------
    dict
        `run.unfit` says why it is no analysis, where it is none.
    """
    metadata = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    formats = metadata.get("network_data_format", {})
    inputs: dict[str, Any] = next(iter(formats.get("inputs", {}).values()), {})
    outputs = formats.get("outputs", {})
    run, segments = _run(config, inputs, outputs)
    modality = str(inputs.get("modality", "")).upper()
    return {
        "title": f"{folder.name} (trial with random weights)",
        "manufacturer": "unknown",
        "unit": "HU" if modality == "CT" else "arbitrary",
        "accepts": {"modality": ["CT" if modality == "CT" else "MR"]},
        "segments": segments,
        "run": run,
        "weights": {
            "file": "models/model.pt",
            "sha256": None,
            "origin": "random",
            "licence": "none",
            "commercial_use": "no",
        },
        "intended_use": "Trial only.",
        "limits": ["Random weights."],
    }


def _run(
    config: dict[str, Any], inputs: dict[str, Any], outputs: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    unfit = _unfit(config, inputs, outputs)
    if unfit:
        return {"unfit": unfit}, []
    pred: dict[str, Any] = outputs.get("pred") or next(iter(outputs.values()), {})
    named = pred.get("channel_def") or pred.get("label_def") or {}
    run: dict[str, Any] = {"input": _input(config, inputs)}
    before, after = _steps(config, "preprocessing"), _steps(config, "postprocessing")
    channels = _channels(before, inputs) if run["input"] == "volume" else []
    if channels:
        run["channels"] = [
            {"name": name, "when": {"description": {"any_of": [name]}}} for name in channels
        ]
    if "detector" in config:
        number = config.get("num_classes", 1)
        return {
            **run,
            "output": "boxes",
            "classes": _classes({str(n): "" for n in range(number)}),
        }, []
    if pred.get("format") == "classes" or (
        len(pred.get("spatial_shape", [])) == 2 and (pred["spatial_shape"][0] == 1)
    ):
        return {**run, "output": "classes", "classes": _classes(named or {"0": ""})}, []
    if any(target(step) == "HoVerNetNuclearTypePostProcessingd" for step in after):
        types = outputs.get("type_prediction", {}).get("channel_def", named)
        return {**run, "output": "labels", "result": "type_map"}, _segments(types, 0)
    cuts = [step for step in after if target(step) == "AsDiscreted"]
    if cuts and not any(step.get("argmax") for step in cuts):
        return {**run, "output": "planes"}, _segments(named, 1)
    wanted = config.get("everything_labels")
    if isinstance(wanted, str):  # VISTA3D names those that it can be asked for
        from monai.bundle import ConfigParser

        numbers = ConfigParser({"wanted": wanted}).get_parsed_content("wanted")
        named = {number: label for number, label in named.items() if int(number) in numbers}
    return {**run, "output": "labels"}, _segments(named, 0)


def _unfit(config: dict[str, Any], inputs: dict[str, Any], outputs: dict[str, Any]) -> str:
    """Why it is no analysis of an image; "" where it is one."""
    pred: dict[str, Any] = outputs.get("pred") or next(iter(outputs.values()), {})
    if inputs.get("type") in ("noise", "latent", "tuples") or inputs.get("format") == "latent":
        return "makes images, finds nothing in one"
    if "preprocessing" not in config and "diffusion_unet_def" in config:
        return "makes images, finds nothing in one"
    if pred.get("format") == "points":
        return "gives landmarks: neither mask, class nor box"
    if pred.get("format") in ("magnitude", "image") and pred.get("type") in ("image", "feature"):
        if len(inputs.get("channel_def", {})) == 2:
            return "registers two images, finds nothing in one"
        return "makes images, finds nothing in one"
    for step in _steps(config, "preprocessing"):
        if target(step) in _WAITS_FOR:
            return f"waits for {_WAITS_FOR[target(step)]}"
    return ""


def _input(config: dict[str, Any], inputs: dict[str, Any]) -> str:
    definition = config.get("network_def")
    dimensions = definition.get("spatial_dims") if isinstance(definition, dict) else None
    colour = inputs.get("num_channels") == 3 and len(inputs.get("spatial_shape", [])) == 2
    if inputs.get("format") == "RGB" or colour:
        return "rgb"
    if "patch_size" in config and config.get("number_intensity_ch") == 3:
        return "rgb"
    inferer = config.get("inferer")
    by_slice = isinstance(inferer, dict) and target(inferer) == "SliceInferer"
    return "slices" if dimensions == 2 and not by_slice else "volume"


def _steps(config: dict[str, Any], key: str) -> list[dict[str, Any]]:
    block = config.get(key)
    steps = block.get("transforms") if isinstance(block, dict) else None
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def _channels(before: list[dict[str, Any]], inputs: dict[str, Any]) -> list[str]:
    """Names of the input channels, where there are several."""
    for step in before:
        keys = step.get("keys")
        if target(step).startswith("Load") and isinstance(keys, list) and len(keys) > 2:
            return [key for key in keys if key != "label"]
    named = inputs.get("channel_def", {})
    return [str(name) for name in named.values()] if len(named) > 1 else []


def _classes(named: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {"name": f"class_{number}", "label": label or "class"} for number, label in named.items()
    ]


def _segments(named: dict[str, Any], shift: int) -> list[dict[str, Any]]:
    """A segment for each channel; `shift` is 1 where channel 0 is one too."""
    return [
        {
            "number": int(number) + shift,
            "name": f"segment_{int(number) + shift}",
            "label": str(label)[:64] or "segment",
            "category": ANATOMY,
            "type": REGION,
            "colour": [200, (37 * int(number)) % 256, 90],
        }
        for number, label in named.items()
        if int(number) + shift > 0 and str(label).casefold() != "background"
    ]
