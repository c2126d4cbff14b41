"""The demo's table: what came back in the SEG, beside what is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np

from app.demo.overlay import read_segments
from operators.job import Segment, Volume


def dice(found: np.ndarray, truth: np.ndarray) -> float | None:
    """Dice of two masks of one shape; None where both are empty."""
    total = int(found.sum()) + int(truth.sum())
    return 2.0 * int((found & truth).sum()) / total if total else None


def print_table(
    console: Any,
    seg_path: Path,
    volume: Volume,
    *,
    segments: tuple[Segment, ...],
    patient: Any,
) -> None:
    """Volume and mean of each segment of a SEG; for a made patient also truth and Dice.

    Parameters
    ----------
    console : rich.console.Console
        Where to print.
    seg_path : Path
        The SEG as it came back.
    volume : Volume
        Its source, for the mean.
    segments : tuple of Segment
        Of the bundle's card: which organ a segment label means.
    patient : DemoPatient or None
        Who knows the truth.
    """
    from rich.table import Table

    grid = hd.Volume(
        volume.array, volume.lps_from_index[:, [2, 1, 0, 3]], coordinate_system="PATIENT"
    )
    algorithm, drawn = read_segments(seg_path, grid)
    found = {item.label: item.mask for item in drawn}
    truth_ids = {name: number for number, name in patient.names.items()} if patient else {}
    headings = ["segment", "volume mL", f"mean {volume.unit}"]
    if patient:
        headings += ["true mL", "Dice"]
    table = Table(title=f"what came back ({algorithm})", title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "segment" else "right")
    for segment in segments:
        mask = found.get(segment.label)
        row = [segment.label, "not found", ""]
        if mask is not None:
            row[1:] = [f"{mask.sum() * volume.voxel_ml:.1f}", f"{volume.array[mask].mean():.0f}"]
        if segment.name in truth_ids:
            truth = patient.labels == truth_ids[segment.name]
            score = dice(np.zeros_like(truth) if mask is None else mask, truth)
            row += [
                f"{patient.volume_ml[segment.name]:.1f}",
                "" if score is None else f"{score:.3f}",
            ]
        table.add_row(*row)
    console.print(table)
