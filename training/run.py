"""Fine-tune: the champion's weights, the bundle's own train config, the collected cases.

A run is named by what decides it (data set, parent, epochs, learning rate), so the same
command after a kill goes on from the last checkpoint, and after its end has nothing to do.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from operators.models.card import Card
from operators.models.champion import read_champion
from training.dataset import Manifest, datalist, verify_case
from training.refusals import NoTrainingCases, NotTrainable, RunFailed
from training.registry import Registry, Version
from training.state import locked, write_durably

EPOCHS = 8
VALIDATIONS = 4  # in one run: the best of them is kept
NEEDED = (
    *("init_weights", "output_dir", "max_epochs", "val_interval", "learning_rate", "batch_size"),
    *("train#dataset#data", "train#trainer", "validate#dataset#data", "validate#evaluator"),
)
CONFIG_NAMES = ("train.yaml", "train.yml", "train.json")
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Trained:
    """What `fine_tune` made.

    Attributes
    ----------
    version : Version
        In the registry.
    run : str
        Its folder below `runs`.
    is_new : bool
        False where this very run was done before.
    result : dict
        `metric_name`, `metric` (None where no validation case could be measured),
        `best_epoch`, `train_loss`, `epochs`, `learning_rate`, `batch_size`, `val_interval`.
    """

    version: Version
    run: str
    is_new: bool
    result: dict[str, Any]


def train_config(card: Card) -> Path | None:
    """The train config of a bundle that learns from confirmed studies, or None.

    A prompted bundle has one too, but learns from crops round marks, by its own script.
    """
    if card.prompted:
        return None
    files = (card.folder / "configs" / name for name in CONFIG_NAMES)
    return next((file for file in files if file.is_file()), None)


def fine_tune(
    card: Card,
    manifest: Manifest,
    registry: Registry,
    *,
    epochs: int = EPOCHS,
    learning_rate: float | None = None,
    progress: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> Trained:
    """Train in a child process at low priority, then register the weights.

    Parameters
    ----------
    card : Card
        The bundle.
    manifest : Manifest
        What to learn from; its hold-out is not touched.
    registry : Registry
        Gets the new version.
    epochs : int
        Passes over the training cases.
    learning_rate : float or None
        None takes a tenth of the train config's.
    progress : callable
        Gets ``{"epoch", "epochs", "train_loss"}`` after an epoch and
        ``{"epoch", "epochs", "metric"}`` after a validation.

    Raises
    ------
    NotTrainable
        The bundle has no train config.
    NoTrainingCases
        Every case is held out.
    RunFailed
        The child ended without weights.
    AtWork
        The same run is at work.
    """
    config_file = _checked_config(card)
    if not manifest.of("train"):
        raise NoTrainingCases(manifest.sha256, len(manifest.cases))
    registry.shipped(card)
    champion = read_champion(registry.state.champions, card.name)
    if champion is None:
        card.verify_weights()
        parent, parent_file = card.weights_sha256, card.weights_file
    else:
        champion.verify(card.name)
        parent, parent_file = champion.sha256, champion.file
    decides = {
        "bundle": card.name,
        "bundle_version": card.version,
        "dataset": manifest.sha256,
        "parent": parent,
        "epochs": epochs,
        "learning_rate": learning_rate,
    }
    name = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    folder = registry.state.runs / name
    with locked(folder / "lock", "`radloop train run`", wait=False) as lock:
        is_new = not (folder / "result.json").exists()
        if is_new:
            for case in (*manifest.of("train"), *manifest.of("validation")):
                verify_case(manifest, case)
            plan = {
                **decides,
                "config_file": str(config_file),
                "meta_file": str(card.folder / "configs" / "metadata.json"),
                "bundle_root": str(card.folder),
                "init_weights": str(parent_file),
                "val_interval": _val_interval(epochs),
                "train": datalist(manifest, "train"),
                "validation": datalist(manifest, "validation"),
            }
            write_durably(folder / "plan.json", (json.dumps(plan, indent=1) + "\n").encode())
            _run_child(folder, lock, progress)
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
        version = registry.register(
            card,
            folder / "best.pt",
            name=f"fine-tune {name}",
            parent=parent,
            dataset=manifest.sha256,
            params={
                **decides,
                **{key: result[key] for key in ("learning_rate", "batch_size", "val_interval")},
                "train_cases": len(manifest.of("train")),
                "validation_cases": len(manifest.of("validation")),
            },
            metrics={
                key: result[value]
                for key, value in (("validation", "metric"), ("train_loss", "train_loss"))
                if result[value] is not None
            },
        )
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of no use from here on
    return Trained(version, name, is_new, result)


def _checked_config(card: Card) -> Path:
    """The train config, with every part that we set or ask for."""
    file = train_config(card)
    if card.prompted:
        raise NotTrainable(card.name, "it waits for a person's mark; its README says how it learns")
    if file is None:
        raise NotTrainable(card.name, f"it has no configs/{CONFIG_NAMES[0]}")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise NotTrainable(card.name, f"its {file.name} is not YAML") from error
    for path in NEEDED:
        part = config
        for key in path.split("#"):
            part = part.get(key) if isinstance(part, dict) else None
        if part is None:
            raise NotTrainable(card.name, f"no '{path}' in its {file.name}")
    return file


def _val_interval(epochs: int) -> int:
    """Epochs between validations; the last epoch is validated too."""
    return next(n for n in range(max(1, epochs // VALIDATIONS), 0, -1) if epochs % n == 0)


def _run_child(folder: Path, lock: IO[str], progress: Callable[[dict[str, Any]], None]) -> None:
    log = folder / "log.txt"
    with (
        log.open("ab") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "training.child", str(folder)],
            stdin=subprocess.PIPE,  # closed with us: the child ends then
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=[lock.fileno()],  # an orphan that is still ending keeps others out
            cwd=_ROOT,
            text=True,
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                progress(json.loads(line))
            status = child.wait()
        except BaseException:
            child.kill()
            raise
    if status:
        lines = log.read_text(errors="replace").strip().splitlines()
        last = next((line for line in reversed(lines) if "Error" in line), "no reason given")
        how = f"signal {-status}" if status < 0 else f"status {status}"
        raise RunFailed(how, log, last.strip())
