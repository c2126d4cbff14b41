"""Both answers side by side, and their place in `comparisons.jsonl`.

One JSON line per image that left the house: its hash, both answers, tokens, cost. No
header value, no file name, no context. Lines are only ever added.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from app.compare.claude import Usage
from app.intake.spool import sync_folder
from app.settings import Settings
from operators.job import Severity

FILE = "comparisons.jsonl"


def severity_match(local: Severity | None, cloud: Severity | None) -> bool | None:
    """Whether both say the same; None where one has not judged."""
    if None in (local, cloud) or "NOT_ASSESSED" in (local, cloud):
        return None
    return local == cloud


def confidence_delta(local: float | None, cloud: float | None) -> float | None:
    """Local minus cloud; None where one gives none."""
    return None if local is None or cloud is None else round(local - cloud, 6)


def cost_usd(usage: Usage | None, settings: Settings) -> float | None:
    """Price of a call, USD; None without its tokens or without the site's prices."""
    price_in, price_out = settings.claude_usd_per_mtok_in, settings.claude_usd_per_mtok_out
    if usage is None or price_in is None or price_out is None:
        return None
    return (usage.input_tokens * price_in + usage.output_tokens * price_out) / 1e6


def append(state_dir: Path, record: dict[str, Any]) -> None:
    """Add one line, durably.

    Parameters
    ----------
    state_dir : Path
        `settings.state_dir`; made if missing.
    record : dict
        JSON values.

    Raises
    ------
    OSError
        It can't be written.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, ensure_ascii=True, allow_nan=False) + "\n"
    descriptor = os.open(state_dir / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        # A line that a power cut tore stays torn, and does not swallow this one.
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = ("\n" * torn + line).encode()
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(state_dir)
