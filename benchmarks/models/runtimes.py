"""One part of a network in every runtime that this machine has, ready to be called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from operators.models.runtimes.export import Part, export_network
from operators.models.runtimes.in_openvino import OpenVinoRuntime
from operators.models.runtimes.in_torch import TorchRuntime
from operators.models.runtimes.interface import Precision, Runtime, Subject
from operators.models.runtimes.machine import cpu_has_bfloat16
from operators.models.runtimes.refusals import ExportRefusal
from operators.models.runtimes.serve import load

EAGER = "torch eager float32"
AUTOCAST = "torch autocast bfloat16"


def ready(part: Part, folder: Path) -> tuple[dict[str, Runtime], dict[str, str]]:
    """Runtimes by name, and why others are not there.

    Random weights are exported and compared in float32 as a bundle's are; bfloat16 is only
    timed here, so it needs no comparison on real images.
    """
    import torch

    cpu = torch.device("cpu")
    found: dict[str, Runtime] = {EAGER: part.module}
    missing: dict[str, str] = {}
    if cpu_has_bfloat16():
        found[AUTOCAST] = TorchRuntime(part.module, cpu, "bfloat16")
    subject = Subject(part.name, "0" * 64, "0" * 64)
    for kind in ("onnx", "openvino"):
        name = {"onnx": "ONNX Runtime float32", "openvino": "OpenVINO float32"}[kind]
        try:
            place, record = export_network(
                [part],
                subject,
                "onnx" if kind == "onnx" else "openvino",
                "float32",
                folder,
            )
            serving = load(record, place, {part.name: part.module}, cpu)
        except ExportRefusal as refusal:
            missing[name] = refusal.code
            continue
        found[name] = serving.parts[part.name]
        if kind == "openvino" and cpu_has_bfloat16():
            file = place / next(iter(record.parts[0].files))
            found["OpenVINO bfloat16"] = OpenVinoRuntime(file, part.shapes, "bfloat16")
    return found, missing


def precision_of(name: str) -> Precision:
    """Number format that a contestant's name ends in."""
    return "bfloat16" if name.endswith("bfloat16") else "float32"


def calls(runtimes: dict[str, Runtime], inputs: tuple[Any, ...]) -> dict[str, Callable[[], Any]]:
    """Each runtime called on the same inputs, without gradients."""
    import torch

    def asked(runtime: Runtime) -> Callable[[], Any]:
        def call() -> Any:
            with torch.inference_mode():
                return runtime(*inputs)

        return call

    return {name: asked(runtime) for name, runtime in runtimes.items()}
