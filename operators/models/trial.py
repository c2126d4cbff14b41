"""One bundle of the zoo's layout, tried out: random weights, a small synthetic volume.

It says whether radloop can run the bundle, not whether the bundle is right. The
bundle's folder is not written to: what is missing (card, weights) goes into a
temporary folder of links to its files.

Run as ``python -m operators.models.trial FOLDER [CARDS]`` it prints one line of JSON;
`radloop bundles verify` starts it so, in a process that it can stop.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from operators.errors import ModelRefusal
from operators.job import Segmentation, Volume
from operators.models.outline_card import outline_card
from operators.models.run_block import Input, Run
from operators.reading import Reading

Outcome = Literal["ran", "not here", "failed"]

SHAPE_ZYX = (32, 48, 48)
SPACING_ZYX_MM = (2.0, 1.5, 1.5)
SEED = 16


@dataclass(frozen=True)
class Trial:
    """What came of it.

    Attributes
    ----------
    bundle, version : str
        Which.
    outcome : str
        ``ran``; ``not here``: a reason that is no fault of bundle or radloop; ``failed``.
    shape : str
        What goes in and comes out.
    detail : str
        What was found, or the reason.
    seconds : float
        From reading the config to the result.
    """

    bundle: str
    version: str
    outcome: Outcome
    shape: str
    detail: str
    seconds: float


def try_bundle(folder: Path, cards: Path | None = None) -> Trial:
    """Instantiate a bundle from its own config and run it once through `LoadedBundle`.

    With a card in its folder it runs as installed, with its own weights; without one (a
    checkout of the zoo) with random weights.

    Parameters
    ----------
    folder : Path
        The bundle; read only.
    cards : Path or None
        Folder of zoo cards by bundle name: how to run it. One that has none gets a card
        that is read off its config (`outline_card`).

    Raises
    ------
    Exception
        Whatever the bundle's own code raises.
    """
    started = time.monotonic()
    version, shape = "?", ""

    def trial(outcome: Outcome, detail: str) -> Trial:
        return Trial(folder.name, version, outcome, shape, detail, time.monotonic() - started)

    try:
        version = str(json.loads((folder / "configs" / "metadata.json").read_text())["version"])
    except (OSError, ValueError, KeyError):
        return trial("failed", "configs/metadata.json names no version")
    with tempfile.TemporaryDirectory(prefix="radloop-trial-") as scratch:
        try:
            from operators.models.bundle import LoadedBundle
            from operators.models.card import load_card

            if (folder / "card.yaml").is_file():
                card = load_card(folder)
                if card.prompted:
                    return trial("not here", "waits for a box: `radloop segment`")
            else:
                stand_in, unfit = _stand_in(folder, Path(scratch), cards)
                if unfit:
                    return trial("not here", unfit)
                card = load_card(stand_in)
            shape = _in_words(card.run)
            result = LoadedBundle(card).analyse(synthetic(card.run, card.unit, card.name))
        except ModelRefusal as refusal:
            here = refusal.code not in ("RL-1440", "RL-1443")
            return trial("failed" if here else "not here", refusal.reason)
    return trial("ran", _told(result))


def synthetic(run: Run, unit: str, bundle: str) -> Volume:
    """A small oblique volume with a few balls in it; the same every time.

    Parameters
    ----------
    run : Run
        How many channels, or a colour image.
    unit : str
        HU from -1000 to 1000, else 0 to 1000.
    bundle : str
        Whose volume it is.
    """
    rng = np.random.default_rng(SEED)
    shape = (3, 256, 256) if run.input is Input.RGB else SHAPE_ZYX
    arrays = [_balls(rng, shape, unit) for _ in range(max(1, len(run.channels)))]
    if run.input is Input.RGB:
        arrays = [np.clip(array / 4, 0, 255) for array in arrays]
    # Tilted about two axes: a bundle that forgets the affine is found out.
    a, b = np.deg2rad(9.0), np.deg2rad(-6.0)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    if run.input is not Input.RGB:
        affine[:3, :3] = about_x @ about_z * SPACING_ZYX_MM[::-1]
        affine[:3, 3] = (-30.0, 12.0, 55.0)
    return Volume(
        array=arrays[0],
        lps_from_index=affine,
        unit=unit,  # type: ignore[arg-type]
        frame_of_reference_uid="2.25.1",
        headers=(),
        series_instance_uid="2.25.2",
        bundle=bundle,
        channels=tuple(arrays[1:]),
    )


def _balls(rng: np.random.Generator, shape: tuple[int, ...], unit: str) -> np.ndarray:
    low, high = (-1000.0, 1000.0) if unit == "HU" else (0.0, 1000.0)
    place = np.indices(shape)
    array = np.full(shape, low, np.float32)
    for radius in (0.45, 0.3, 0.2, 0.12):
        centre = [n * (0.5 + rng.uniform(-0.15, 0.15)) for n in shape]
        distance = sum(
            ((index - middle) / (radius * n)) ** 2
            for index, middle, n in zip(place, centre, shape, strict=True)
        )
        array[distance < 1] = rng.uniform(low, high)
    return array + rng.normal(0, 20, shape).astype(np.float32)


def _stand_in(folder: Path, scratch: Path, cards: Path | None) -> tuple[Path, str]:
    """A folder of links to the bundle, with a card and random weights; or why it can't be."""
    import yaml

    from operators.models.config_steps import expand_steps
    from operators.models.inference_config import config_file, read_inference
    from operators.models.run_block import read_run

    # Not by MONAI: what is no analysis need not wait for its import. JSON is YAML.
    config = yaml.safe_load(config_file(folder).read_text(encoding="utf-8"))
    content = _card_content(folder, config, cards)
    if content["run"].get("unfit"):
        return scratch, content["run"]["unfit"]
    stand_in = scratch / folder.name
    (stand_in / "models").mkdir(parents=True)
    for item in folder.iterdir():
        if item.name != "models":
            (stand_in / item.name).symlink_to(item.resolve())
    for item in (folder / "models").glob("*"):
        (stand_in / "models" / item.name).symlink_to(item.resolve())
    for key in ("preprocessing", "postprocessing"):
        if key in config:
            expand_steps(folder.name, config, key)
    content = _card_content(folder, config, cards)
    if content["run"].get("unfit"):
        return stand_in, content["run"]["unfit"]
    import torch

    _random_architecture(config, stand_in)
    (stand_in / "card.yaml").write_text("")
    torch.manual_seed(SEED)
    inference = read_inference(stand_in, read_run(content["run"]))
    said = Path(content["weights"]["file"]).name
    known = cards is not None and (cards / folder.name).is_dir()
    # A card of ours that names other weights than the config is to be found out.
    weights = stand_in / "models" / (said if known else inference.checkpoint_name or said)
    weights.unlink(missing_ok=True)
    torch.save(inference.network.state_dict(), weights)
    content["weights"]["file"] = f"models/{weights.name}"
    content["weights"]["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    (stand_in / "card.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return stand_in, ""


def _card_content(folder: Path, config: dict[str, Any], cards: Path | None) -> dict[str, Any]:
    """Our card of the bundle where there is one; else one that is read off its config."""
    from operators.models.card import read_content

    if cards is None or not (cards / folder.name / "card.yaml").is_file():
        return outline_card(folder, config)
    content = read_content(cards / folder.name)
    content.setdefault("run", {})
    return content


def _random_architecture(config: dict[str, Any], stand_in: Path) -> None:
    """The file that a DiNTS network reads its architecture from, where it is not there."""
    import torch

    said = config.get("arch_ckpt_path")
    if not isinstance(said, str):
        return
    file = stand_in / "models" / said.rstrip("'").rsplit("/", 1)[-1]
    if file.exists():
        return
    blocks, depths = config["dints_space"]["num_blocks"], config["dints_space"]["num_depths"]
    paths = 3 * depths - 2  # down, level or up between neighbouring depths
    torch.save(
        {
            "node_a": np.ones((blocks + 1, depths)),
            "arch_code_a": np.ones((blocks, paths)),
            "arch_code_c": np.ones((blocks, paths)),
        },
        file,
    )


def _in_words(run: Run) -> str:
    taken = {
        Input.VOLUME: f"{len(run.channels)} series" if run.channels else "volume",
        Input.SLICES: "slices",
        Input.RGB: "colour image",
    }
    return f"{taken[run.input]} → {run.output.value}"


def _told(result: Segmentation | Reading) -> str:
    if isinstance(result, Reading):
        if result.detector:
            return f"{len(result.boxes)} boxes"
        return f"{len(result.classes)} classes of {len(result.scores)} images"
    found = sum(bool(result.mask(segment.number).any()) for segment in result.segments)
    return f"{found} of {len(result.segments)} segments on the source grid"


def main(folder: str, cards: str | None = None) -> None:
    """Print the trial of one folder as JSON, as the last line."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # small volumes: the CPU is enough
    trial = try_bundle(Path(folder), None if cards is None else Path(cards))
    sys.stdout.write(json.dumps(asdict(trial)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
