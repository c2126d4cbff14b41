"""The only door to holoscan: what must be done before its first import is done here.

`monai.deploy.core.Application` and `Operator` are these very classes; taking
them from `holoscan.core` avoids the 10 to 20 s of `import monai`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import resource
from pathlib import Path

STACK_BYTES = 32 << 20


def _preload_cuda_runtime() -> None:
    """Load libcudart.so.13 from its wheel, where no CUDA toolkit is installed."""
    spec = importlib.util.find_spec("nvidia.cu13")
    for folder in spec.submodule_search_locations or () if spec else ():
        library = Path(folder) / "lib" / "libcudart.so.13"
        if library.exists():
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            return


def _raise_stack_limit() -> None:
    """holoscan warns, and may crash, below 32 MB of stack."""
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    enough = soft == resource.RLIM_INFINITY or soft >= STACK_BYTES
    if not enough and (hard == resource.RLIM_INFINITY or hard >= STACK_BYTES):
        resource.setrlimit(resource.RLIMIT_STACK, (STACK_BYTES, hard))


_preload_cuda_runtime()
_raise_stack_limit()
# An operator's exception comes out of run() unchanged; the C++ lines before it only repeat it.
os.environ.setdefault("HOLOSCAN_LOG_LEVEL", "OFF")

from holoscan.conditions import CountCondition  # noqa: E402  (the preload must come first)
from holoscan.core import (  # noqa: E402  (the preload must come first)
    Application,
    ExecutionContext,
    InputContext,
    Operator,
    OperatorSpec,
    OutputContext,
)

__all__ = [
    "Application",
    "CountCondition",
    "ExecutionContext",
    "InputContext",
    "Operator",
    "OperatorSpec",
    "OutputContext",
]
