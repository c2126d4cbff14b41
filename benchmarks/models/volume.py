"""Part "volume": a CT from files to SEG and SR, and how much of it is not the network.

Each contestant is a process of its own: ``python -m benchmarks.models.volume BUNDLE CT OUT KIND``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.evidence.phantom import write_ct
from benchmarks.models.runtimes import EAGER
from benchmarks.models.whole_body import find_balls, hounsfield, write_bundle

WHOLE_BODY = "whole_body"
KINDS = (EAGER, "ONNX Runtime float32", "OpenVINO float32", "OpenVINO bfloat16")
HEAD_NECK = Path(__file__).parent.parent.parent / "bundles" / "head_neck_oar_ct"


def measure(*, short: bool) -> dict[str, Any]:
    """Seconds of two studies in a row for each bundle and runtime."""
    shape, pixel_mm, slice_mm = ((40, 96, 96), 3.0, 3.0) if short else ((300, 512, 512), 0.8, 1.5)
    result: dict[str, Any] = {"shape": shape, "pixel_mm": pixel_mm, "slice_mm": slice_mm}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_ct(folder / "ct", hounsfield(shape), pixel_mm, slice_mm, "Noise")
        bundles = [write_bundle(folder / WHOLE_BODY, 3.0, short=short)]
        if not short:
            bundles.append(HEAD_NECK)
        for bundle in bundles:
            result[bundle.name] = {}
            for n, kind in enumerate(KINDS[:1] if short else KINDS):
                target = folder / f"out-{bundle.name}-{n}"
                result[bundle.name][kind] = _child(bundle, folder / "ct", target, kind)
    return result


def _child(bundle: Path, study: Path, target: Path, kind: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.models.volume", bundle, study, target, kind],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines() or ["no answer"]
        return {"missing": said[-1][:200]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def main() -> None:
    """Two studies in a row by one contestant; one JSON line."""
    bundle, study, target, kind = sys.argv[1:]
    from app.graph import analyse
    from benchmarks.models.clock import memory_mb
    from benchmarks.models.runtimes import ready
    from operators.models.bundle import LoadedBundle
    from operators.models.card import load_card
    from operators.models.runtimes.interface import WHOLE, Runtime, Serving
    from operators.models.runtimes.network import whole_network
    from operators.models.warm import WarmModels

    class Timed(WarmModels):
        """The one bundle, with the seconds of its network counted, and how often it is loaded."""

        loads, seconds, finding = 0, 0.0, 0.0
        kept: LoadedBundle | None = None

        def get(self, name: str) -> LoadedBundle:
            if self.kept is None:
                self.kept, self.loads = LoadedBundle(self.card(name)), self.loads + 1
                metadata = json.loads((Path(bundle) / "configs" / "metadata.json").read_text())
                part = whole_network(
                    self.kept.network, self.kept.inferer, metadata, overlapping=False
                )
                runtimes: dict[str, Runtime] = {EAGER: part.module}
                if kind != EAGER:
                    runtimes, missing = ready(part, Path(target).with_suffix(".exports"))
                    if kind not in runtimes:
                        raise SystemExit(f"{kind} is not here: {missing}")
                asked = runtimes[kind]

                def counted(*inputs: Any) -> Any:
                    began = time.perf_counter()
                    found = asked(*inputs)
                    ended = time.perf_counter()
                    self.seconds += ended - began
                    if card.name == WHOLE_BODY:
                        found = find_balls(inputs[0], found)
                        self.finding += time.perf_counter() - ended
                    return found

                self.kept.use(Serving(kind, {WHOLE: counted}))
            return self.kept

    card = load_card(Path(bundle))
    models = Timed({card.name: card})
    models.get(card.name)  # loading and exporting are not the first study's
    result: dict[str, Any] = {"studies": []}
    for number in range(2):
        models.seconds = models.finding = 0.0
        loads = models.loads
        began = time.perf_counter()
        done = analyse(
            Path(study), Path(target) / str(number), "20260101120000", models=models,
            bundle=card.name,
        )  # fmt: skip
        total = time.perf_counter() - began - models.finding  # it is no part of either
        if not done.evidence:
            raise SystemExit(f"nothing was written: {done.refused}")
        result["studies"].append(
            {
                "total": total,
                "network": models.seconds,
                "loads": models.loads - loads,
                "voxels": sum(int((s.labels > 0).sum()) for s in done.segmentations),
            }
        )
    result["peak_mb"] = memory_mb("VmHWM")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
