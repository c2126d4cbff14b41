"""``python -m benchmarks.evidence``: all contestants in turn, ratios, goals, and RESULTS.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.evidence.phantom import FEW, MANY, write_phantom
from operators.models.runtimes.machine import cpu_model

PAGE = Path(__file__).with_name("RESULTS.md")
NAMES = {"radloop": "radloop", "highdicom": "highdicom, plain", "sdk": "App SDK operators"}
FIELDS = (
    ("seconds", "time", "s"),
    ("added_mb", "memory, added by the pass", "MB"),
    ("held_mb", "memory, above what was ready", "MB"),
)
# Part, segments, rival, then the goals of a repeated call: times as fast, share of its memory.
PARTS: tuple[tuple[str, int, tuple[str, ...], float | None, float | None], ...] = (
    ("whole", FEW, ("sdk",), 2.0, None),
    ("measured", FEW, ("sdk",), None, None),
    ("write", FEW, ("highdicom", "sdk"), 1.5, 1.0),
    ("write", MANY, ("highdicom", "sdk"), 4.0, 0.25),
)
TITLES = {
    "whole": "Files on disk to SEG and SR on disk, what the reports say given",
    "measured": "Files on disk to SEG and SR on disk, with all measurements, which the SDK has not",
    "write": "Create and save SEG and SR of a volume in memory",
}

Pass = dict[str, float]


def passes_of(
    who: str, part: str, segments: int, source: Path, target: Path, passes: int
) -> list[Pass]:
    """Run one contestant in a fresh process."""
    asked = [who, part, str(segments), str(source), str(target), str(passes)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.evidence.contestant", *asked],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{who} failed:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def ratios(ours: list[list[Pass]], theirs: list[list[Pass]], at: int, field: str) -> list[float]:
    """Theirs to ours, round by round; what took no memory counts as one page."""
    return [
        max(b[at][field], 0.004) / max(a[at][field], 0.004)
        for a, b in zip(ours, theirs, strict=True)
    ]


def table(runs: dict[str, list[list[Pass]]], rivals: Sequence[str]) -> list[str]:
    """Medians of each contestant, and the ratios to radloop."""
    head = ["", NAMES["radloop"]]
    for rival in rivals:
        head += [NAMES[rival], "ratio"]
    lines = [f"| {' | '.join(head)} |", "| " + " | ".join(["---"] * len(head)) + " |"]
    for at, name in enumerate(("first", "repeated")[: len(runs["radloop"][0])]):
        for field, what, unit in (*FIELDS, ("file_mb", "files", "MB")):
            cells = [f"{name}: {what}"]
            for who in ("radloop", *rivals):
                median = statistics.median(run[at][field] for run in runs[who])
                cells.append(f"{median:.2f} {unit}")
                if who != "radloop":
                    found = ratios(runs["radloop"], runs[who], at, field)
                    middle = statistics.median(found)
                    cells.append(f"**{middle:.2f}** ({min(found):.2f} to {max(found):.2f})")
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def goals(
    runs: dict[str, list[list[Pass]]],
    rivals: Sequence[str],
    faster: float,
    memory: float | None,
) -> list[str]:
    """What was asked of a repeated call, and whether it holds."""
    lines = []
    for rival in rivals:
        found = statistics.median(ratios(runs["radloop"], runs[rival], 1, "seconds"))
        said = "met" if found >= faster else "**missed**"
        lines.append(f"- {found:.2f} times as fast as {NAMES[rival]} (≥ {faster:g}): {said}")
        if memory is None:
            continue
        share = 1 / statistics.median(ratios(runs["radloop"], runs[rival], 1, "added_mb"))
        said = "met" if share <= memory else "**missed**"
        lines.append(f"- {share:.2f} of the memory {NAMES[rival]} adds (≤ {memory:g}): {said}")
    return lines


def main() -> None:
    """Measure and print; write the page unless this is the short mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="24 slices, one pass, no page")
    short = parser.parse_args().short
    slices, rounds, passes = (24, 1, 1) if short else (300, 5, 2)
    sections = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "ct"
        write_phantom(source, slices)
        for part, segments, rivals, faster, memory in PARTS[::3] if short else PARTS:
            contestants = ("radloop", *rivals)
            runs: dict[str, list[list[Pass]]] = {who: [] for who in contestants}
            for number in range(rounds):
                for who in contestants if number % 2 == 0 else reversed(contestants):
                    target = Path(folder) / f"{part}-{segments}-{who}-{number}"
                    runs[who].append(passes_of(who, part, segments, source, target, passes))
            text = [f"## {TITLES[part]}, {segments} segments", "", *table(runs, rivals)]
            if not short and faster is not None:
                text += ["", "Repeated calls:", "", *goals(runs, rivals, faster, memory)]
            sections.append("\n".join(text))
            print(sections[-1] + "\n", flush=True)
    if short:
        print("Short: few slices, one pass; the figures say nothing.")
        return
    PAGE.write_text(
        "# Evidence: SEG and SR\n\n"
        f"One CT of {slices} x 512 x 512, without a network. The App SDK writes a Basic Text SR;\n"
        "radloop and highdicom a Comprehensive 3D SR with two groups a structure, highdicom with\n"
        "fewer items in them, and with outlines and numbers that were found before the clock\n"
        "started. Each contestant in a process of its own, imports not counted. Memory is the\n"
        "highest resident set (VmHWM), above where it stood before the pass, and above where it\n"
        "stood when everything was ready: only there counts what a contestant keeps from one\n"
        f"call to the next. {rounds} rounds in turn, medians; a ratio above 1 is in radloop's "
        "favour.\n\n"
        + "\n\n".join(sections)
        + f"\n\n{time.strftime('%Y-%m-%d')}, {cpu_model()}, {os.cpu_count()} cores, "
        f"{platform.system()} {platform.release().split('-')[0]}, Python "
        f"{platform.python_version()}, monai-deploy-app-sdk {version('monai-deploy-app-sdk')}, "
        f"highdicom {version('highdicom')}. Again: `make bench`.\n"
    )
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
