"""Files of the bundle that a run writes into: a measured part between two marks."""

from __future__ import annotations

import re
from pathlib import Path

TABLE = "<!-- measured: begin -->", "<!-- measured: end -->"
CALIBRATION = "  # calibration: begin", "  # calibration: end"


def replace_part(file: Path, marks: tuple[str, str], part: str) -> None:
    """Put a part between its marks; everything else stays.

    Raises
    ------
    SystemExit
        The file has lost a mark.
    """
    text = file.read_text(encoding="utf-8")
    begin, end = marks
    pattern = re.compile(f"{re.escape(begin)}\n.*{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(
            f"{file.name} lacks the lines {begin.strip()} and {end.strip()}: put them back."
        )
    file.write_text(pattern.sub(lambda _: f"{begin}\n{part}\n{end}", text), encoding="utf-8")


def pin_card(bundle: Path, sha256: str) -> None:
    """Put the card beside the bundle's README, with the sha256 of its weights."""
    text = (bundle / "configs" / "card.yaml").read_text(encoding="utf-8")
    card = text[text.index("title:") :].replace("sha256: null", f'sha256: "{sha256}"', 1)
    head = "# Written by `make train-medsam` from configs/card.yaml.\n"
    (bundle / "card.yaml").write_text(head + card, encoding="utf-8")
