"""Per-organ Dice, surface Dice and HD95 in millimetres, with bootstrap intervals.

MONAI's ignite handlers know no voxel spacing, so distances would be in voxels;
this handler calls MONAI's metric functions with the spacing of each case. An
organ that nobody contoured is empty in the label map and is left out; one that
was contoured and not found counts with Dice 0, surface Dice 0 and no HD95.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.metrics import (
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)

BOOTSTRAP_DRAWS = 5000


def bootstrap_interval(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean; cases are drawn with replacement.

    Parameters
    ----------
    values : numpy.ndarray, shape (cases,)
        One value a patient, none missing.
    rng : numpy.random.Generator
        Seeded by the caller.

    Returns
    -------
    tuple of float
        2.5 % and 97.5 % percentiles.
    """
    draws = rng.choice(values, size=(BOOTSTRAP_DRAWS, len(values))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def summarise(per_case: dict[str, list[float | None]], seed: int) -> dict[str, dict[str, object]]:
    """Mean, interval, lowest and count of each organ's values; None is left out.

    Parameters
    ----------
    per_case : dict
        Organ name to one value a patient.
    seed : int
        Of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    summary: dict[str, dict[str, object]] = {}
    for organ, raw in per_case.items():
        values = np.array([value for value in raw if value is not None])
        if not len(values):
            summary[organ] = {"n": 0, "mean": None, "interval": None, "worst": None}
            continue
        low, high = bootstrap_interval(values, rng)
        summary[organ] = {
            "n": len(values),
            "mean": round(float(values.mean()), 4),
            "interval": [round(low, 4), round(high, 4)],
            "lowest": round(float(values.min()), 4),
            "highest": round(float(values.max()), 4),
        }
    return summary


class OrganMetrics:
    """Ignite handler that measures every case and writes one JSON report.

    Parameters
    ----------
    organs : list of str
        Names of channels 1, 2, … of the one-hot prediction.
    output : str
        Report file.
    weights : str
        Weights file that was evaluated; its sha256 goes into the report.
    surface_tolerance_mm : float
        Tolerance of the surface Dice, mm.
    seed : int
        Of the bootstrap.
    """

    def __init__(
        self, organs: list[str], output: str, weights: str, surface_tolerance_mm: float, seed: int
    ) -> None:
        self.organs = organs
        self.output = Path(output)
        self.weights = Path(weights)
        self.tolerance_mm = surface_tolerance_mm
        self.seed = seed
        names = ("dice", "surface_dice", "hd95_mm")
        self.values: dict[str, dict[str, list[float | None]]] = {
            name: {organ: [] for organ in organs} for name in names
        }

    def attach(self, engine: Engine) -> None:
        """Measure after each case, write after the last."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.measure)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def measure(self, engine: Engine) -> None:
        """Add the values of the cases just predicted."""
        for item in engine.state.output:
            spacing = [float(mm) for mm in item["label"].pixdim]
            pred = item["pred"].as_tensor()[None].cpu()
            label = item["label"].as_tensor()[None].cpu()
            for channel, organ in enumerate(self.organs, start=1):
                found, truth = pred[:, channel : channel + 1], label[:, channel : channel + 1]
                if not truth.any():
                    continue
                self._add(organ, found, truth, spacing)

    def _add(
        self, organ: str, found: torch.Tensor, truth: torch.Tensor, spacing: list[float]
    ) -> None:
        if not found.any():
            for name, worst in (("dice", 0.0), ("surface_dice", 0.0), ("hd95_mm", None)):
                self.values[name][organ].append(worst)
            return
        dice = compute_dice(found, truth, include_background=True)
        surface = compute_surface_dice(
            found, truth, [self.tolerance_mm], include_background=True, spacing=spacing
        )
        hd95 = compute_hausdorff_distance(
            found, truth, include_background=True, percentile=95, spacing=spacing
        )
        self.values["dice"][organ].append(float(dice))
        self.values["surface_dice"][organ].append(float(surface))
        self.values["hd95_mm"][organ].append(float(hd95))

    def write(self, engine: Engine) -> None:
        """Write the report and log the Dice table."""
        summary = {name: summarise(values, self.seed) for name, values in self.values.items()}
        report = {
            "weights_sha256": hashlib.sha256(self.weights.read_bytes()).hexdigest(),
            "surface_tolerance_mm": self.tolerance_mm,
            "interval": f"95 % bootstrap over patients, {BOOTSTRAP_DRAWS} draws, seed {self.seed}",
            "summary": summary,
            "per_case": self.values,
        }
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.write_text(json.dumps(report, indent=1) + "\n")
        for organ, row in summary["dice"].items():
            engine.logger.info(
                "dice %-14s n=%s mean=%s %s", organ, row["n"], row["mean"], row["interval"]
            )
