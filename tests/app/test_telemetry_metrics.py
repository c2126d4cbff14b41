"""`/metrics`, scraped from a real server and read by Prometheus' own parser."""

from __future__ import annotations

import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.telemetry.metrics import MetricsServer, Numbers
from app.telemetry.refusals import MetricsPortTaken

Samples = dict[tuple[str, tuple[str, ...]], float]


@contextmanager
def serving(numbers: Any, disk: Path) -> Iterator[MetricsServer]:
    server = MetricsServer("127.0.0.1", 0, numbers, disk)
    try:
        yield server
    finally:
        server.close()


def scrape(server: MetricsServer) -> Samples:
    host, port = server.address
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    return {
        (s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples
    }


def test_every_number_is_told_as_it_is_at_the_scrape(tmp_path: Path) -> None:
    now = Numbers(
        received_instances=412,
        received_bytes=1 << 40,
        refused_instances=3,
        studies={"receiving": 2, "not applicable": 5},
        oldest_waiting_s=12.5,
        step_seconds={"analyse": 90.25},
        step_count={"analyse": 4},
        failures={"RL-0902": 1},
        refused_peers={"aet": 9},
        audit_lost=7,
        audit_waiting=2,
    )
    kept = [now]
    with serving(lambda: kept[-1], tmp_path) as server:
        first = scrape(server)
        kept.append(Numbers(received_instances=413))
        second = scrape(server)

    assert first.pop(("radloop_disk_bytes", ("total",))) == shutil.disk_usage(tmp_path).total
    assert first.pop(("radloop_disk_bytes", ("free",))) > 0
    assert first == {
        ("radloop_up", ()): 1,
        ("radloop_received_instances_total", ()): 412,
        ("radloop_received_bytes_total", ()): 1 << 40,
        ("radloop_refused_instances_total", ()): 3,
        ("radloop_audit_lost_total", ()): 7,
        ("radloop_studies", ("receiving",)): 2,
        ("radloop_studies", ("not applicable",)): 5,
        ("radloop_oldest_waiting_seconds", ()): 12.5,
        ("radloop_step_seconds_count", ("analyse",)): 4,
        ("radloop_step_seconds_sum", ("analyse",)): 90.25,
        ("radloop_failures_total", ("RL-0902",)): 1,
        ("radloop_refused_peers_total", ("aet",)): 9,
        ("radloop_audit_waiting", ()): 2,
    }
    assert second[("radloop_received_instances_total", ())] == 413


def test_where_the_numbers_can_not_be_read_it_says_so_and_goes_on(tmp_path: Path) -> None:
    broken = [True]

    def numbers() -> Numbers:
        if broken:
            raise OSError("locked")
        return Numbers()

    with serving(numbers, tmp_path) as server:
        assert scrape(server) == {("radloop_up", ()): 0}
        broken.clear()
        assert scrape(server)[("radloop_up", ())] == 1


def test_a_port_that_is_taken_is_refused_and_one_that_was_closed_is_free(tmp_path: Path) -> None:
    with serving(Numbers, tmp_path) as server:
        host, port = server.address
        with pytest.raises(MetricsPortTaken, match=f"{port}"):
            MetricsServer(host, port, Numbers, tmp_path)
    MetricsServer(host, port, Numbers, tmp_path).close()
