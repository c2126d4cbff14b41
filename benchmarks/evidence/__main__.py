"""``python -m benchmarks.evidence``: both contestants in turn, ratios, and RESULTS.md."""

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
from importlib.metadata import version
from pathlib import Path

from benchmarks.evidence.phantom import SEGMENTS, write_phantom

PAGE = Path(__file__).with_name("RESULTS.md")
CONTESTANTS = ("radloop", "sdk")
FIELDS = (
    ("seconds", "s", "time"),
    ("added_mb", "MB", "peak memory, added by the pass"),
    ("held_mb", "MB", "peak memory, above the imports"),
)


def passes_of(who: str, source: Path, target: Path, passes: int) -> list[dict[str, float]]:
    """Run one contestant in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.evidence.contestant", who, source, target, str(passes)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{who} failed:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def cpu_name() -> str:
    """Model name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def row(name: str, ours: list[float], theirs: list[float], unit: str) -> str:
    """One line of the table: medians, and the ratio pair by pair."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return (
        f"| {name} | {statistics.median(ours):.2f} {unit} | {statistics.median(theirs):.2f} {unit} "
        f"| **{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f}) |"
    )


def main() -> None:
    """Measure and print; write the page unless this is the short mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="60 slices, one pair, no page")
    short = parser.parse_args().short
    slices, pairs = (60, 1) if short else (300, 5)
    results: dict[str, list[list[dict[str, float]]]] = {who: [] for who in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "ct"
        write_phantom(source, slices)
        for pair in range(pairs):
            for who in CONTESTANTS if pair % 2 == 0 else reversed(CONTESTANTS):
                results[who].append(passes_of(who, source, Path(folder) / f"{who}{pair}", 2))
    table = [
        "| | radloop | App SDK operators | SDK / radloop, pair by pair |",
        "| --- | --- | --- | --- |",
    ]
    for name, at in (("first study", 0), ("next study", 1)):
        for field, unit, what in FIELDS:
            ours, theirs = ([run[at][field] for run in results[who]] for who in CONTESTANTS)
            table.append(row(f"{name}, {what}", ours, theirs, unit))
    print("\n".join(table))
    if short:
        return
    PAGE.write_text(
        "# Evidence: load, volume, SEG and SR\n\n"
        f"One CT of {slices} x 512 x 512 with {SEGMENTS} segments, from files on disk to SEG\n"
        "and SR on disk, without a network. The App SDK writes a Basic Text SR, radloop a\n"
        "Comprehensive 3D SR with regions. Each contestant in a process of its own, imports\n"
        "not counted. Peak memory is that of the resident set (VmHWM), once above where it\n"
        "stood before the pass, and once above where it stood after the imports: only there\n"
        "counts what a contestant keeps from one study to the next. "
        f"{pairs} pairs in turn, medians; a ratio above 1 is in radloop's favour.\n\n"
        + "\n".join(table)
        + f"\n\n{time.strftime('%Y-%m-%d')}, {cpu_name()}, {os.cpu_count()} cores, "
        f"{platform.system()} {platform.release().split('-')[0]}, Python "
        f"{platform.python_version()}, monai-deploy-app-sdk {version('monai-deploy-app-sdk')}, "
        f"highdicom {version('highdicom')}. Again: `make bench`.\n"
    )
    print(f"\nwritten: {PAGE}")


if __name__ == "__main__":
    main()
