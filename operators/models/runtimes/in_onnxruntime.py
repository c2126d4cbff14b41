"""ONNX Runtime on the CPU, float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.models.runtimes.interface import Serving
from operators.models.runtimes.machine import import_package, package_version, usable_cores
from operators.models.runtimes.shapes import Shape, call_numpy

if TYPE_CHECKING:
    import numpy as np
    import torch


class OnnxRuntime:
    """One ONNX file, loaded. A session may be called from several threads.

    Parameters
    ----------
    file : Path
        ``*.onnx``.
    shapes : sequence of tuple of int
        What it was exported for.

    Raises
    ------
    PackageMissing
        ONNX Runtime is not installed.
    """

    def __init__(self, file: Path, shapes: Sequence[Shape]) -> None:
        runtime = import_package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        options.log_severity_level = 3  # errors only
        self._session = runtime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        self._names = [entry.name for entry in self._session.get_inputs()]
        self._shapes = tuple(shapes)

    def __call__(self, *inputs: torch.Tensor) -> Any:
        return call_numpy(self._run, inputs, self._shapes, "onnxruntime")

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        found: list[np.ndarray] = self._session.run(
            None, dict(zip(self._names, arrays, strict=True))
        )
        return found


def in_onnxruntime(files: Mapping[str, Path], shapes: Mapping[str, Sequence[Shape]]) -> Serving:
    """Serve exported parts by ONNX Runtime."""
    parts = {name: OnnxRuntime(file, shapes[name]) for name, file in files.items()}
    return Serving(f"onnxruntime-cpu-float32-{package_version('onnxruntime')}", parts)
