"""What classifiers and detectors say, as numbers with a place in the patient.

A detector's boxes are in the index space of what it was given; the bundle's own
steps would make them axis-aligned in world space, which on an oblique series is
another box. Here the eight corners go through the affine, exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from operators.models.run_block import Run
from operators.reading import Activation, Box, ClassScores


class HeadUnfit(ValueError):
    """The network does not answer as its card says; the caller names the bundle."""


def activation_of(said: str, run: Run) -> Activation:
    """What makes scores of a classifier's outputs.

    Parameters
    ----------
    said : str
        By the config: ``softmax``, ``sigmoid``; "" where it takes only the largest: softmax,
        or, of a single class, sigmoid.
    run : Run
        Its classes.
    """
    if said == "sigmoid" or (not said and len(run.classes) == 1):
        return "sigmoid"
    return "softmax"


def class_scores(raw: Any, activation: Activation, run: Run, k: int | None) -> ClassScores:
    """Scores of one image.

    Parameters
    ----------
    raw : torch.Tensor, shape (1, classes) or (classes,)
        What the network gave.
    activation : str
        As `activation_of` gives it.
    run : Run
        Its classes, in the network's order.
    k : int or None
        Slice of the volume; None: all of it.

    Raises
    ------
    HeadUnfit
        Another number of outputs than classes, or one that is no number.
    """
    values = np.asarray(raw.detach().float().cpu(), np.float64).ravel()
    if len(values) != len(run.classes):
        raise HeadUnfit(f"{len(values)} outputs, {len(run.classes)} classes on its card")
    if not np.isfinite(values).all():
        raise HeadUnfit("an output is no number")
    if activation == "sigmoid":
        scores = 1.0 / (1.0 + np.exp(-values))
    else:
        scores = np.exp(values - values.max())
        scores /= scores.sum()
    return ClassScores(k, tuple(float(score) for score in scores))


def boxes_in_patient(
    found: dict[str, Any], lps_from_index: np.ndarray, shape: tuple[int, ...], run: Run
) -> tuple[Box, ...]:
    """Boxes of one volume, best first.

    Parameters
    ----------
    found : dict
        ``box`` (n, 6): lowest and highest corner as index coordinates, (0, 0, 0) at the
        centre of the first voxel; ``label`` (n,), ``label_scores`` (n,).
    lps_from_index : numpy.ndarray, shape (4, 4)
        Of the grid that the network saw.
    shape : tuple of int
        (X, Y, Z) of that grid: boxes are clipped to the outer faces of its voxels.
    run : Run
        Its classes and the smallest score that counts.

    Raises
    ------
    HeadUnfit
        A class that the card doesn't know, or a box that is none.
    """
    corners = np.asarray(found["box"].detach().float().cpu(), np.float64).reshape(-1, 6)
    labels = np.asarray(found["label"].detach().cpu()).astype(int).ravel()
    scores = np.asarray(found["label_scores"].detach().float().cpu(), np.float64).ravel()
    if not np.isfinite(corners).all() or not np.isfinite(scores).all():
        raise HeadUnfit("a box or its score is no number")
    boxes = []
    for corner, label, score in sorted(
        zip(corners, labels, scores, strict=True), key=lambda entry: -entry[2]
    ):
        if not 0 <= label < len(run.classes):
            raise HeadUnfit(f"class {label} is not on its card")
        low = np.clip(corner[:3], -0.5, np.array(shape) - 0.5)
        high = np.clip(corner[3:], -0.5, np.array(shape) - 0.5)
        if score < run.min_score or not (high > low).all():
            continue
        centre = lps_from_index[:3] @ np.append((low + high) / 2, 1.0)
        edges = lps_from_index[:3, :3] * (high - low)  # columns: the three edges as vectors
        boxes.append(Box(int(label), float(score), tuple(centre), tuple(map(tuple, edges.T))))
    return tuple(boxes)


def detector_output(raw: Any, inferer: Any) -> dict[str, Any]:
    """One image's answer under the names of `boxes_in_patient`.

    Raises
    ------
    HeadUnfit
        It is no dictionary of boxes.
    """
    detector = getattr(inferer, "detector", None)
    names = {
        "box": getattr(detector, "target_box_key", "box"),
        "label": getattr(detector, "target_label_key", "label"),
        "label_scores": getattr(detector, "pred_score_key", "label_scores"),
    }
    first = raw[0] if isinstance(raw, list | tuple) and len(raw) == 1 else raw
    if not isinstance(first, dict) or not set(names.values()) <= set(first):
        raise HeadUnfit(f"the detector's answer has no {', '.join(names.values())}")
    return {ours: first[theirs] for ours, theirs in names.items()}
