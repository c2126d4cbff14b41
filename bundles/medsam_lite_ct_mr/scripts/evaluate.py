"""The accuracy table from one command, resumable at every crop; it is written into README.md."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from operators.models.card import load_card
from operators.models.medsam.tuned import put_part

from . import table
from .confidence import Line, fit, pairs
from .crops import CropSpec
from .lists import Lists
from .measure import Score, measure

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def evaluate(lists: Lists, bundle: Path) -> None:
    """Measure the bundle as it is loaded by radloop, and rewrite the measured part of README.md.

    Parameters
    ----------
    lists : Lists
        Gives validation crops (for the calibration), test crops and those of unseen sets.
    bundle : Path
        This bundle, its base beside it.
    """
    card = load_card(bundle)
    card.verify_weights()
    tuned = lists.network()
    put_part(card.name, tuned, card.weights_file)
    networks = {"published": lists.network(), "tuned": tuned}
    folder = lists.cache / f"scores-{card.weights_sha256[:12]}"

    def scores_of(name: str, specs: Sequence[CropSpec]) -> list[Score]:
        torch.set_num_threads(lists.threads)
        return measure(specs, lists.embeddings, networks, folder / f"{name}.jsonl")

    line = fit(*pairs(scores_of("validation", lists.validation()), table.TUNED))
    scores = [*scores_of("test", lists.test()), *scores_of("unseen", lists.unseen())]
    write(bundle / "README.md", measured_part(scores, line, card.weights_sha256, datetime.now(UTC)))
    print(json.dumps({"line": line.__dict__, "shown": table.confidence_holds(scores, line)}))


def measured_part(scores: Sequence[Score], line: Line, sha256: str, when: datetime) -> str:
    """What stands between the two marks of README.md."""
    verdict = "may be shown" if table.confidence_holds(scores, line) else "is not shown (null)"
    return "\n\n".join(
        [
            f"Measured on {when:%Y-%m-%d} with weights sha256 `{sha256}` by "
            "`make evaluate-medsam`. Mean Dice by patient, in square brackets the 95 % bootstrap "
            "interval over patients (over structures where there is one patient).",
            table.accuracy(scores),
            "Paired differences, patient by patient (two looks):",
            table.differences(scores),
            "By structure, mean over crops:",
            table.structures(scores),
            f"Confidence: Dice = {line.slope:.3f} × predicted IoU {line.intercept:+.3f}, fitted on "
            f"{line.n} crops of validation patients (mean absolute error {line.error:.3f} there). "
            f"By the rule below, the number {verdict}.",
            table.calibration(scores, line),
        ]
    )


def write(readme: Path, part: str) -> None:
    """Put the measured part between its marks; everything else stays."""
    text = readme.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{readme.name} lacks the marks {BEGIN} and {END}: put them back.")
    readme.write_text(pattern.sub(lambda _: f"{BEGIN}\n{part}\n{END}", text), encoding="utf-8")
