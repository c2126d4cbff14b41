"""The accuracy table from one command, resumable at every crop; it is written into README.md."""

from __future__ import annotations

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
from .pages import CALIBRATION, TABLE, replace_part


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
    now = datetime.now(UTC)
    replace_part(bundle / "README.md", TABLE, measured_part(scores, line, card.weights_sha256, now))
    shown = table.confidence_holds(scores, line)
    replace_part(bundle / "configs" / "inference.yaml", CALIBRATION, confidence_block(line, shown))
    print(f"README.md and inference.yaml rewritten; confidence {'shown' if shown else 'null'}")


def confidence_block(line: Line, shown: bool) -> str:
    """`prompting.confidence` of inference.yaml: the line from predicted IoU to Dice.

    Where `shown` is false, whoever runs the bundle leaves the confidence null.
    """
    return "\n".join(
        [
            "  confidence:",
            "    of: dice",
            f"    slope: {line.slope:.4f}",
            f"    intercept: {line.intercept:.4f}",
            f"    n: {line.n}  # validation crops that it was fitted on",
            f"    error: {line.error:.4f}  # mean absolute, there",
            f"    shown: {str(shown).lower()}",
        ]
    )


def measured_part(scores: Sequence[Score], line: Line, sha256: str, when: datetime) -> str:
    """What stands between the two marks of README.md."""
    verdict = "may be shown" if table.confidence_holds(scores, line) else "is not shown (null)"
    return "\n\n".join(
        [
            f"Measured on {when:%Y-%m-%d} with weights sha256 `{sha256}` by "
            "`make evaluate-medsam`. Mean Dice by patient, in square brackets the 95 % bootstrap "
            "interval over patients (over structures where there is one patient).",
            table.accuracy(scores),
            "Paired differences, patient by patient:",
            table.differences(scores),
            "By structure, mean over crops:",
            table.structures(scores),
            f"Confidence: Dice = {line.slope:.3f} × predicted IoU {line.intercept:+.3f}, fitted on "
            f"{line.n} crops of validation patients (mean absolute error {line.error:.3f} there). "
            f"By the rule below, the number {verdict}.",
            table.calibration(scores, line),
        ]
    )
