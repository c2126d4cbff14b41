"""The openkbp-hn-ct folder as MONAI data lists: frozen splits, and which organs were contoured."""

from __future__ import annotations

import json
from pathlib import Path

ORGANS = (
    "brainstem",
    "spinal_cord",
    "parotid_right",
    "parotid_left",
    "mandible",
    "larynx",
    "esophagus",
)


def datalist(dataset_dir: str, split: str) -> list[dict[str, object]]:
    """Cases of one frozen split.

    Parameters
    ----------
    dataset_dir : str
        Folder with `ct/`, `label/`, `splits.json` and `labelled.json`.
    split : str
        ``"train"``, ``"validation"`` or ``"test"``.

    Returns
    -------
    list of dict
        `image` and `label` paths, `case` (the patient), and `labelled`: one
        float per label id 0 to 7, 1.0 where the organ was contoured. Background
        counts as labelled. An organ with 0.0 is *unlabelled, not absent*.

    Raises
    ------
    FileNotFoundError
        The folder or one of its two JSON files is missing.
    KeyError
        No such split.
    """
    root = Path(dataset_dir)
    cases = json.loads((root / "splits.json").read_text())[split]
    labelled = json.loads((root / "labelled.json").read_text())
    return [
        {
            "image": str(root / "ct" / f"{case}.nii.gz"),
            "label": str(root / "label" / f"{case}.nii.gz"),
            "case": case,
            "labelled": [1.0, *(float(organ in labelled[case]) for organ in ORGANS)],
        }
        for case in cases
    ]
