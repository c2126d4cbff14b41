"""Prometheus metrics: numbers that others keep, asked for when somebody scrapes.

No counter lives here. A callable gives `Numbers`, read from the journal and the
workflow's database, so that what is shown after a restart is what is true. No label
holds anything of a study or a patient.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from app.telemetry.refusals import MetricsPortTaken

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


@dataclass(frozen=True)
class Numbers:
    """What a monitor may know.

    Attributes
    ----------
    received_instances, received_bytes : int
        Acknowledged since the journal began.
    refused_instances : int
        Answered with a failure.
    studies : mapping
        State → study versions in it now.
    oldest_waiting_s : float
        How long the oldest study that is not finished has waited, s; 0 where none does.
    step_seconds, step_count : mapping
        Step (receive, analyse, deliver…) → seconds spent in all, s, and how often.
    failures : mapping
        Code of the refusal (``RL-0902``) → how often.
    refused_peers : mapping
        Why (aet, address, tls…) → how often a peer was turned away.
    audit_lost : int
        Audit messages that syslog did not get.
    audit_waiting : int
        Audit messages that the audit file did not take yet.
    """

    received_instances: int = 0
    received_bytes: int = 0
    refused_instances: int = 0
    studies: Mapping[str, int] = field(default_factory=dict)
    oldest_waiting_s: float = 0.0
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    step_count: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    refused_peers: Mapping[str, int] = field(default_factory=dict)
    audit_lost: int = 0
    audit_waiting: int = 0


class NumbersCollector:
    """Turns `Numbers` into metric families, at each scrape.

    Parameters
    ----------
    numbers : callable
        Called in the metrics server's thread. Where it raises, `radloop_up` is 0 and
        nothing else is said: a monitor then sees a gap, not an old truth.
    disk : Path
        Whose file system's free bytes are told.
    """

    def __init__(self, numbers: Callable[[], Numbers], disk: Path) -> None:
        self._numbers, self._disk = numbers, disk

    def collect(self) -> Iterator[Metric]:
        """All families; called by prometheus_client."""
        from prometheus_client.core import GaugeMetricFamily

        try:
            families = list(_families(self._numbers(), shutil.disk_usage(self._disk)))
        except Exception:  # noqa: BLE001  a scrape must not fail for what it measures
            families = []
        up = bool(families)
        yield GaugeMetricFamily("radloop_up", "1 where the numbers could be read", value=float(up))
        yield from families


def _families(numbers: Numbers, disk: shutil._ntuple_diskusage) -> Iterator[Metric]:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        SummaryMetricFamily,
    )

    counters = (
        ("received_instances", "Instances acknowledged", numbers.received_instances),
        ("received_bytes", "Bytes acknowledged", numbers.received_bytes),
        ("refused_instances", "Instances answered with a failure", numbers.refused_instances),
        ("audit_lost", "Audit messages that syslog did not get", numbers.audit_lost),
    )
    for name, text, value in counters:
        yield CounterMetricFamily(f"radloop_{name}", text, value=value)
    studies = GaugeMetricFamily("radloop_studies", "Study versions by state", labels=["state"])
    for state, count in sorted(numbers.studies.items()):
        studies.add_metric([state], count)
    yield studies
    oldest = "Seconds that the oldest unfinished study has waited"
    yield GaugeMetricFamily("radloop_oldest_waiting_seconds", oldest, numbers.oldest_waiting_s)
    steps = SummaryMetricFamily("radloop_step_seconds", "Seconds per step", labels=["step"])
    for step, seconds in sorted(numbers.step_seconds.items()):
        steps.add_metric([step], count_value=numbers.step_count.get(step, 0), sum_value=seconds)
    yield steps
    failures = CounterMetricFamily("radloop_failures", "Refusals by code", labels=["code"])
    for code, count in sorted(numbers.failures.items()):
        failures.add_metric([code], count)
    yield failures
    peers = CounterMetricFamily("radloop_refused_peers", "Peers turned away", labels=["why"])
    for why, count in sorted(numbers.refused_peers.items()):
        peers.add_metric([why], count)
    yield peers
    waiting = "Audit messages that wait for the audit file"
    yield GaugeMetricFamily("radloop_audit_waiting", waiting, numbers.audit_waiting)
    free = "Free and total bytes of the spool's disk"
    space = GaugeMetricFamily("radloop_disk_bytes", free, labels=["kind"])
    space.add_metric(["free"], disk.free)
    space.add_metric(["total"], disk.total)
    yield space


class MetricsServer:
    """Serves `/metrics` from a daemon thread.

    Parameters
    ----------
    host, port : str, int
        Where; port 0 takes a free one.
    numbers : callable
        See `NumbersCollector`.
    disk : Path
        See `NumbersCollector`.

    Raises
    ------
    MetricsPortTaken
        The port is not to be had.
    """

    def __init__(self, host: str, port: int, numbers: Callable[[], Numbers], disk: Path) -> None:
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()
        registry.register(NumbersCollector(numbers, disk))
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise MetricsPortTaken(host, port, error.strerror or str(error)) from error
        self.address = host, int(self._server.server_port)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
