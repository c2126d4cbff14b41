"""The training process: a bundle's own train config, with our cases in it.

``python -m training.child FOLDER``; FOLDER holds `plan.json` and gets checkpoints,
`best.pt` and `result.json`. One JSON line per epoch goes to stdout; all that the bundle
prints goes to stderr. It is a process of its own since a bundle brings a package named
`scripts`, and since it can be killed and started again.

Ends at once when its stdin is closed: then whoever wanted the result is gone.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import zipfile
from pathlib import Path
from typing import IO, Any

NICE = 10  # studies go first
TENTH = 0.1


def main(folder: Path) -> None:
    """Train as planned."""
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # the bundle may print; stdout is for progress
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(NICE)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    plan = json.loads((folder / "plan.json").read_text())
    sys.path.insert(0, plan["bundle_root"])  # its own `scripts`
    result = train(plan, folder, told)
    unfinished = folder / ".result.json"
    unfinished.write_text(json.dumps(result, indent=1) + "\n")
    unfinished.replace(folder / "result.json")


def train(plan: dict[str, Any], folder: Path, told: IO[str]) -> dict[str, Any]:
    """Run the bundle's trainer; returns what became of it.

    Parameters
    ----------
    plan : dict
        As `training.run` writes it.
    folder : Path
        For checkpoints and `best.pt`.
    told : file
        Gets one JSON line per epoch.
    """
    from monai.bundle import ConfigParser, ConfigWorkflow

    config = ConfigParser.load_config_file(plan["config_file"])
    changes = overrides(plan, config, folder / "checkpoints")
    drop_unfinished(folder / "checkpoints")
    workflow = ConfigWorkflow(
        config_file=plan["config_file"],
        meta_file=plan["meta_file"],
        workflow_type="train",
        logging_file=False,
        **changes,
    )
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    evaluator = workflow.parser.get_parsed_content("validate#evaluator")
    watch = _Watch(folder, told, plan["epochs"])
    watch.attach(trainer, evaluator)
    workflow.run()
    workflow.finalize()
    if watch.best is None:  # nothing could be measured: the last weights are all there is
        _save(evaluator.network, folder / "best.pt")
    return {
        "metric_name": evaluator.state.key_metric_name,
        "metric": watch.best,
        "best_epoch": watch.best_epoch,
        "train_loss": watch.loss,
        "epochs": plan["epochs"],
        "learning_rate": changes["learning_rate"],
        "batch_size": changes["batch_size"],
        "val_interval": changes["val_interval"],
    }


def overrides(plan: dict[str, Any], config: dict[str, Any], checkpoints: Path) -> dict[str, Any]:
    """What of the bundle's config is replaced.

    A batch is never larger than the data set: the trainer drops an incomplete last
    batch, and would make no step at all.
    """
    epochs, cases = plan["epochs"], plan["train"]
    batch_size = min(int(config["batch_size"]), len(cases))
    changes = {
        "bundle_root": plan["bundle_root"],
        "output_dir": str(checkpoints),
        "init_weights": plan["init_weights"],
        "max_epochs": epochs,
        # Without validation cases there is no epoch at which to validate.
        "val_interval": plan["val_interval"] if plan["validation"] else epochs + 1,
        # A tenth of the rate that trained the bundle stays near the champion.
        "learning_rate": plan["learning_rate"] or TENTH * float(config["learning_rate"]),
        "batch_size": batch_size,
        "train#dataset#data": cases,
        "validate#dataset#data": plan["validation"],
    }
    if "saver" in config:
        # The saver removes the old checkpoint before it writes the new one: a kill in between
        # would lose both.
        changes["saver#n_saved"] = 2
    if "ema_momentum" in config:
        # A moving average over more steps than the run has would give back the champion.
        steps = epochs * (len(cases) // batch_size)
        changes["ema_momentum"] = max(float(config["ema_momentum"]), min(0.5, 4.0 / steps))
    return changes


def drop_unfinished(checkpoints: Path) -> None:
    """Remove checkpoints that a kill cut off: MONAI writes them under their final name.

    torch's files are ZIP archives, whose directory is written last.
    """
    for file in checkpoints.glob("*.pt"):
        if not zipfile.is_zipfile(file):
            file.unlink()


class _Watch:
    """Progress to the parent, and the best weights to disk, across restarts."""

    def __init__(self, folder: Path, told: IO[str], epochs: int) -> None:
        self._folder, self._told, self._epochs = folder, told, epochs
        self._trainer: Any = None
        self.loss: float | None = None
        known = folder / "best.json"
        best = json.loads(known.read_text()) if known.exists() else {}
        self.best: float | None = best.get("metric")
        self.best_epoch: int | None = best.get("epoch")

    def attach(self, trainer: Any, evaluator: Any) -> None:
        from ignite.engine import Events

        self._trainer = trainer
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._on_epoch)
        evaluator.add_event_handler(Events.COMPLETED, self._on_validation)

    def _on_epoch(self, engine: Any) -> None:
        self.loss = float(engine.state.output["loss"])
        self._tell(epoch=engine.state.epoch, epochs=self._epochs, train_loss=self.loss)

    def _on_validation(self, engine: Any) -> None:
        metric = float(engine.state.metrics[engine.state.key_metric_name])
        epoch = self._trainer.state.epoch
        if math.isnan(metric):  # no structure was labelled
            return
        self._tell(epoch=epoch, epochs=self._epochs, metric=metric)
        if self.best is None or metric > self.best:
            self.best, self.best_epoch = metric, epoch
            _save(engine.network, self._folder / "best.pt")
            unfinished = self._folder / ".best.json"
            unfinished.write_text(json.dumps({"metric": metric, "epoch": epoch}))
            unfinished.replace(self._folder / "best.json")

    def _tell(self, **entry: object) -> None:
        print(json.dumps(entry), file=self._told, flush=True)


def _save(network: Any, file: Path) -> None:
    import torch

    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    unfinished = file.with_name(f".{file.name}")
    torch.save(state, unfinished)
    unfinished.replace(file)


def _end_with_parent() -> None:
    # Not sys.stdin: its lock, held by this thread, would abort the interpreter's own end.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
