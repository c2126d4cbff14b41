"""OpenVINO on the CPU: float32, or bfloat16 where the processor has it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.models.runtimes.interface import Precision, Serving
from operators.models.runtimes.machine import import_package, package_version, usable_cores
from operators.models.runtimes.shapes import Shape, call_numpy

if TYPE_CHECKING:
    import numpy as np
    import torch

_HINT = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoRuntime:
    """One IR file, compiled for this machine's CPU.

    Parameters
    ----------
    file : Path
        ``*.xml``, its weights beside it.
    shapes : sequence of tuple of int
        What it was exported for.
    precision : Precision
        Of the products; the file is float32 in both cases.

    Raises
    ------
    PackageMissing
        OpenVINO is not installed.
    """

    def __init__(self, file: Path, shapes: Sequence[Shape], precision: Precision) -> None:
        openvino = import_package("openvino")
        self._compiled = openvino.Core().compile_model(
            str(file),
            "CPU",
            {
                # Left alone it would take bfloat16 by itself where the CPU has it, unchecked.
                "INFERENCE_PRECISION_HINT": _HINT[precision],
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": usable_cores(),
            },
        )
        self._shapes = tuple(shapes)
        # A request serves one call at a time. Not in a `threading.local`: the graph's threads
        # are not Python's own, and a request that dies with one takes the process with it.
        self._free: deque[Any] = deque()

    def __call__(self, *inputs: torch.Tensor) -> Any:
        return call_numpy(self._run, inputs, self._shapes, "openvino")

    def _run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        try:
            request = self._free.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            found = request.infer(arrays, share_inputs=True)
            # Copied already: the next call writes into the request's own memory.
            return [found[port] for port in self._compiled.outputs]
        finally:
            self._free.append(request)


def in_openvino(
    files: Mapping[str, Path], shapes: Mapping[str, Sequence[Shape]], precision: Precision
) -> Serving:
    """Serve exported parts by OpenVINO."""
    parts = {name: OpenVinoRuntime(file, shapes[name], precision) for name, file in files.items()}
    return Serving(f"openvino-cpu-{precision}-{package_version('openvino')}", parts)
