"""Part "sdk": the same bundle on the same files, by us and by MonaiBundleInferenceOperator.

From DICOM files to labels in memory, twice in one process each:
``python -m benchmarks.models.sdk WHO BUNDLE CT``. Both run torch in float32.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.evidence.phantom import write_ct
from benchmarks.models.clock import memory_mb
from benchmarks.models.whole_body import hounsfield, write_bundle


def measure(*, short: bool) -> dict[str, Any]:
    """Seconds of the first and of the second study, peak memory, and voxels that differ."""
    shape = (40, 96, 96) if short else (300, 512, 512)
    spacing = (3.0, 3.0) if short else (0.8, 1.5)
    result: dict[str, Any] = {"shape": shape}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_ct(folder / "ct", hounsfield(shape), *spacing, "Noise")
        bundle = write_bundle(folder / "whole_body", 3.0, short=short)
        for who in ("radloop", "sdk"):
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.models.sdk", who, bundle, folder / "ct"],
                capture_output=True,
                text=True,
                check=False,
            )
            lines = [line for line in done.stdout.splitlines() if line.startswith('{"studies"')]
            if done.returncode or not lines:
                raise SystemExit(f"{who} failed:\n{done.stderr[-1500:]}")
            result[who] = json.loads(lines[-1])
        ours, theirs = (np.load(folder / f"{who}.npy") for who in ("radloop", "sdk"))
        result["voxels_that_differ"] = (
            float((ours != theirs).mean()) if ours.shape == theirs.shape else 1.0
        )
    return result


def radloop(bundle: Path) -> Callable[[Path], np.ndarray]:
    """Our functions, as the operators call them."""
    from operators.models.bundle import LoadedBundle
    from operators.models.card import load_card
    from operators.study.read import read_drop
    from operators.study.select import select
    from operators.volume.build import build_volumes

    card = load_card(bundle)
    loaded = LoadedBundle(card)

    def once(study: Path) -> np.ndarray:
        matches, _ = select(read_drop(study).studies, {card.name: card.accepts}, card.name)
        return loaded.segment(build_volumes(matches[0].series, card.name)[0]).labels

    return once


def sdk(bundle: Path) -> Callable[[Path], np.ndarray]:
    """The App SDK's operators, as their `compute` calls them."""
    from monai.deploy.core import Application
    from monai.deploy.core.domain import Image
    from monai.deploy.core.io_type import IOType
    from monai.deploy.operators import (
        DICOMDataLoaderOperator,
        DICOMSeriesSelectorOperator,
        DICOMSeriesToVolumeOperator,
    )
    from monai.deploy.operators.monai_bundle_inference_operator import (
        IOMapping,
        MonaiBundleInferenceOperator,
    )

    class Empty(Application):
        def compose(self) -> None:
            """Only a home for the operators."""

    home = Empty(argv=["benchmark"])
    rules = {"selections": [{"name": "CT", "conditions": {"Modality": "CT"}}]}
    loader = DICOMDataLoaderOperator(home, input_folder=Path(), name="loader")
    selector = DICOMSeriesSelectorOperator(home, rules=json.dumps(rules), name="selector")
    to_volume = DICOMSeriesToVolumeOperator(home, name="volume")
    inference = MonaiBundleInferenceOperator(
        home,
        app_context=SimpleNamespace(models=None),  # type: ignore[arg-type]  # asked no more
        input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
        output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
        bundle_path=bundle,
        name="inference",
    )

    def once(study: Path) -> np.ndarray:
        selected = selector.filter(rules, loader.load_data_to_studies(study))
        image = to_volume.convert_to_image(selected)
        sent: list[Any] = []
        given = SimpleNamespace(receive=lambda name: image)
        taken = SimpleNamespace(get=lambda name: None, emit=lambda value, name: sent.append(value))
        inference.compute(given, taken, None)
        return np.asarray(sent[0].asnumpy())

    return once


def main() -> None:
    """Two studies in a row by one contestant; one JSON line."""
    who, bundle, study = sys.argv[1:]
    once = {"radloop": radloop, "sdk": sdk}[who](Path(bundle))
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        labels = once(Path(study))
        seconds.append(time.perf_counter() - began)
    np.save(Path(study).parent / f"{who}.npy", labels)
    print(json.dumps({"studies": seconds, "peak_mb": memory_mb("VmHWM")}))


if __name__ == "__main__":
    main()
