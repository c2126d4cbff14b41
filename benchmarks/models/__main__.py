"""``python -m benchmarks.models``: one part after the other, each kept, then RESULTS.md.

``--part`` measures one part again and leaves the others as they were measured last; what is
kept lies in ``var/benchmarks/models``. Ratios are formed within one run of one part.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from benchmarks.models.page import page
from operators.models.runtimes.machine import cpu_model, package_version

PAGE = Path(__file__).with_name("RESULTS.md")
KEPT = Path(__file__).parent.parent.parent / "var" / "benchmarks" / "models"
PARTS = ("encoder", "volume", "memory", "sdk")


def main() -> None:
    """Measure and print; write the page unless this is the short mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="small networks and images, no page")
    parser.add_argument("--part", choices=PARTS, help="this part only")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    for part in PARTS:
        file = KEPT / f"{part}.json"
        if arguments.part in (None, part):
            print(f"measuring: {part}", flush=True)
            measured = importlib.import_module(f"benchmarks.models.{part}").measure(
                short=arguments.short
            )
            results[part] = {"machine": _machine(), **measured}
            if not arguments.short:
                KEPT.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(results[part], indent=1))
        elif not arguments.short and file.is_file():
            results[part] = json.loads(file.read_text())
    text = page(results)
    if arguments.short:
        print("Short: small networks and images; the figures below say nothing.\n")
    print(text)
    if not arguments.short:
        PAGE.write_text(text)
        print(f"written: {PAGE}")


def _machine() -> dict[str, Any]:
    names = ("torch", "monai", "onnxruntime", "openvino", "monai-deploy-app-sdk")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "versions": {name: package_version(name) or "absent" for name in names},
    }


if __name__ == "__main__":
    main()
