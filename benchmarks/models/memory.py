"""Part "memory": 104 structures at 1.5 mm on a trunk CT, highest resident memory.

The measured one is a process of its own: ``python -m benchmarks.models.memory BUNDLE Z Y X``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.models.clock import memory_mb
from benchmarks.models.whole_body import hounsfield, volume, write_bundle

PIXEL_MM, SLICE_MM = 0.8, 1.0


def measure(*, short: bool) -> dict[str, Any]:
    """Peak of one volume through one bundle, in torch."""
    shape = (64, 96, 96) if short else (458, 512, 512)
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder) / "whole_body", 1.5, short=short)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.models.memory", bundle, *map(str, shape)],
            capture_output=True,
            text=True,
            check=False,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"the measured process failed:\n{done.stderr[-1000:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return {"shape": shape, **found}


def main() -> None:
    """Segment once; one JSON line."""
    folder, *shape = sys.argv[1:]
    from operators.models.bundle import LoadedBundle
    from operators.models.card import load_card

    z, y, x = map(int, shape)
    bundle = LoadedBundle(load_card(Path(folder)))
    source = volume(hounsfield((z, y, x)), PIXEL_MM, SLICE_MM)
    before = memory_mb("VmHWM")
    began = time.perf_counter()
    bundle.segment(source)
    found = {
        "seconds": time.perf_counter() - began,
        "before_mb": before,
        "peak_mb": memory_mb("VmHWM"),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
