"""Times of several contestants in turn, and what the machine could do at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
GEMM_SIDE = 2048


def in_turn(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Shortest seconds of each call; a first one of each is not counted, then they take turns."""
    for call in calls.values():
        call()
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def gemm_calls(side: int = GEMM_SIDE) -> dict[str, Callable[[], Any]]:
    """A product of two square matrices by oneDNN (as torch calls it), for each number format."""
    import torch

    single = torch.rand(side, side)
    half = single.bfloat16()
    return {"float32": lambda: single @ single, "bfloat16": lambda: half @ half}


def gemm_gflops(seconds: Mapping[str, float], side: int = GEMM_SIDE) -> dict[str, float]:
    """10^9 operations a second of `gemm_calls`."""
    return {name: 2 * side**3 / taken / 1e9 for name, taken in seconds.items()}


def flops(call: Callable[[], Any]) -> int:
    """Operations of the products and convolutions in one call of torch modules."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def memory_mb(field: str) -> float:
    """VmRSS (now) or VmHWM (highest) of this process, MB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Set VmHWM back to VmRSS."""
    Path("/proc/self/clear_refs").write_text("5")
