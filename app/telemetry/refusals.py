"""How telemetry says that it can't start.

TelemetryRefusal         RL-1700
├── AuditFileUnusable    RL-1701   the audit file can't be written
└── MetricsPortTaken     RL-1702   the port for /metrics is not to be had
"""

from __future__ import annotations

from pathlib import Path

from operators.errors import Refusal


class TelemetryRefusal(Refusal):
    """Telemetry can't start."""

    code = "RL-1700"


class AuditFileUnusable(TelemetryRefusal):
    """What must be audited could not be."""

    code = "RL-1701"

    def __init__(self, file: Path, why: str) -> None:
        super().__init__(
            f"audit file {file} can't be written ({why}). Make its folder writable for this user, "
            "or choose another (RADLOOP_AUDIT_FILE)."
        )


class MetricsPortTaken(TelemetryRefusal):
    """Another program listens there."""

    code = "RL-1702"

    def __init__(self, host: str, port: int, why: str) -> None:
        super().__init__(
            f"can't serve /metrics on {host}:{port} ({why}). Choose another port "
            "(RADLOOP_METRICS_PORT)."
        )
