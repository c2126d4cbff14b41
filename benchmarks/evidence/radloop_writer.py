"""Our functions, as the operators call them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from operators.job import Segmentation

RECORDED_AT = "20260101120000"


def colour(number: int) -> tuple[int, int, int]:
    """Another one for each segment."""
    return 2 * number % 256, 255 - 2 * number % 256, 90


def radloop(
    labels: np.ndarray, segments: int, source: Path, *, part: str
) -> Callable[[Path], None]:
    """A pass: SEG and SR into a folder.

    "measured": from the files, with all measurements. "whole": from the files, with what the
    report says measured before, as it is given to the SDK's writer. "write": from the volume
    in memory.
    """
    from operators.evidence.write import write_evidence
    from operators.findings.measure import measure
    from operators.job import Report

    def write(report: Report, target: Path) -> None:
        write_evidence(report, target, RECORDED_AT)

    if part == "measured":
        return lambda target: write(measure(segmented(labels, segments, source)), target)
    ready = measure(segmented(labels, segments, source))
    if part == "write":
        return lambda target: write(ready, target)
    found = ready.findings
    return lambda target: write(Report(segmented(labels, segments, source), found), target)


def segmented(labels: np.ndarray, segments: int, source: Path) -> Segmentation:
    """Read, select, build the volume."""
    from operators.job import Code, ModelIdentity, Segment, Segmentation
    from operators.study.read import read_drop
    from operators.study.select import Accepts, select
    from operators.volume.build import build_volumes

    structure = Code("91723000", "SCT", "Anatomical Structure")
    liver = Code("10200004", "SCT", "Liver")
    described = tuple(
        Segment(n, f"ball_{n}", f"Ball {n}", structure, liver, colour(n))
        for n in range(1, segments + 1)
    )
    model = ModelIdentity("benchmark", "1.0.0", "0" * 64, "radloop", "none")
    accepts = {"benchmark": Accepts.from_mapping({"modality": ["CT"]})}
    matches, _ = select(read_drop(source).studies, accepts)
    volume = build_volumes(matches[0].series, "benchmark")[0]
    return Segmentation(volume, labels, described, model)
