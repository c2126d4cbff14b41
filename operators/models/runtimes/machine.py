"""What the machine is, as far as the speed and the rounding of a network depend on it."""

from __future__ import annotations

import functools
import importlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from operators.models.runtimes.refusals import PackageMissing

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
# Its telemetry package asks the network at the mere import of openvino. Where that package
# can't be imported, openvino takes a stub of its own, so nothing can be sent.
TELEMETRY = "openvino_telemetry"


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    try:
        first = CPUINFO.read_text().split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_model() -> str:
    """What the processor calls itself, family and model with it: names alone may be vague."""
    info = _cpuinfo()
    parts = (info.get(key, "") for key in ("model name", "cpu family", "model", "stepping"))
    return " ".join(filter(None, parts)) or platform.processor() or platform.machine()


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; without, it is slower than float32."""
    return bool(BFLOAT16_FLAGS & set(_cpuinfo().get("flags", "").split()))


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def package_version(package: str) -> str | None:
    """Version of an installed package, ``"2026.4.1"``; None where it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def import_package(package: str) -> Any:
    """Import a runtime.

    Raises
    ------
    PackageMissing
        It can't be imported.
    """
    if package == "openvino":
        # setdefault: whoever has imported it before us has decided for the process.
        sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise PackageMissing(package) from error
