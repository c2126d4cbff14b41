"""The service obeys its routes, and tells an auditor and a monitor what it did."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import urllib.request
import xml.etree.ElementTree as ET
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.app.conftest import until
from tests.app.instances import STUDY, instance, write
from tests.e2e.serving import STORESCU, Served, serve, stub

pytestmark = pytest.mark.skipif(not STORESCU.exists(), reason="dcmtk is not installed")
ROUTES = """\
version: 1
routes:
  - id: research
    when: {calling_aet: RESEARCH}
    bundles: none
  - id: emergency
    when: {calling_aet: CT_ER, modality: CT}
    bundles: [head_neck_oar_ct]
    ignore_body_part: true
    quiet_seconds: 1
    priority: stat
    deliver: [folder]
  - id: patient
    when: {calling_aet: SLOWPACS}
    bundles: [head_neck_oar_ct]
    quiet_seconds: 6
  - id: rest
    bundles: all
    priority: low
"""


def send(served: Served, calling: str, *files: Path) -> None:
    subprocess.run(
        [STORESCU, "-R", "-aet", calling, "127.0.0.1", str(served.port), *files],
        check=True,
        timeout=60,
    )


def studies(folder: Path, count: int, begin: int = 1) -> list[tuple[str, Path]]:
    uids = [f"{STUDY}.{number}" for number in range(begin, begin + count)]
    return [(uid, write(folder / uid, instance(1, study=uid))[0]) for uid in uids]


def noted(output: Path) -> list[dict[str, object]]:
    log = output / "requests.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_routes_decide_what_runs_how_soon_and_who_gets_it(tmp_path: Path) -> None:
    (tmp_path / "routes.yaml").write_text(ROUTES)
    share, other = tmp_path / "share", tmp_path / "other"
    with serve(
        tmp_path,
        stub("routed"),
        routes=tmp_path / "routes.yaml",
        deliver_to_folder=share,
        destinations=json.dumps({"second": {"deliver_to_folder": str(other)}}),
    ) as served:
        served.wait_for("worker: ready")
        all_of_them = studies(tmp_path / "in", 7)
        (research, patient, first, *waiting, stat) = all_of_them
        send(served, "RESEARCH", research[1])
        served.wait_for(rf"study {re.escape(research[0])} v1: not applicable: no route wants it")
        send(served, "SLOWPACS", patient[1])
        # One is in work (a second each), three wait; then an urgent one comes.
        for _, path in (first, *waiting):
            send(served, "PACS", path)
        served.wait_for(rf"study {re.escape(waiting[-1][0])} v1: queued")
        send(served, "CT_ER", stat[1])
        for uid, _ in (first, *waiting, stat, patient):
            served.wait_for(rf"study {re.escape(uid)} v1: done")

        order = [entry["study"] for entry in noted(served.output)]
        assert research[0] not in order
        assert order.index(stat[0]) < order.index(waiting[-1][0])
        by_study = {entry["study"]: entry["routed"] for entry in noted(served.output)}
        assert by_study[stat[0]] == [["head_neck_oar_ct", f"{stat[0]}.8", False]]
        assert ["head_neck_oar_ct", f"{first[0]}.8", True] in by_study[first[0]]  # type: ignore[operator]
        assert served.said(rf"study {re.escape(stat[0])} v1: done: delivered to folder {share}$")
        everywhere = served.said(rf"study {re.escape(first[0])} v1: done: delivered to (.*)")
        assert str(share) in everywhere[0][1] and str(other) in everywhere[0][1]
        assert len({path.parent for path in other.rglob("*.txt")}) == 5
        assert len({path.parent for path in share.rglob("*.txt")}) == 6
        # The patient route waited for six quiet seconds: those sent later went first.
        assert order.index(patient[0]) > order.index(first[0])


def test_a_wrong_route_stops_the_start_and_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "routes.yaml").write_text(ROUTES.replace("head_neck_oar_ct", "head_nek_oar_ct"))
    with serve(tmp_path, stub("routed"), routes=tmp_path / "routes.yaml") as served:
        until(lambda: served.process.poll() is not None, 30)
    said = "\n".join(served.lines)
    assert served.process.returncode == 1
    assert "RL-0652" in said and "head_nek_oar_ct" in said and "routes.yaml:8:" in said
    assert "Traceback" not in said


def test_an_auditor_and_a_monitor_are_told(tmp_path: Path) -> None:
    audit = tmp_path / "audit.xml"
    with serve(
        tmp_path,
        stub("routed"),
        audit_file=audit,
        metrics_port=0,
        deliver_to_folder=tmp_path / "share",
    ) as served:
        url = served.wait_for(r"metrics on (http://\S+)")[1]
        ((uid, path),) = studies(tmp_path / "in", 1)
        send(served, "CT_ER", path)
        served.wait_for("v1: done")
        until(lambda: "radloop_step_seconds_count" in scrape(url))
        told = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(scrape(url))
            for sample in family.samples
        }
        assert served.end() == 0

    assert told["radloop_up",] == 1
    assert told["radloop_received_instances_total",] == 1
    (kept,) = (tmp_path / "spool" / "instances").rglob("*.dcm")
    assert told["radloop_received_bytes_total",] == kept.stat().st_size
    assert told["radloop_studies", "done"] == 1
    assert told["radloop_step_seconds_count", "analyse"] == 1
    assert told["radloop_step_seconds_sum", "analyse"] >= 1.0
    assert told["radloop_step_seconds_count", "deliver"] == 1
    assert told["radloop_oldest_waiting_seconds",] == 0
    codes = []
    for line in audit.read_bytes().splitlines():
        message = ET.fromstring(line)
        codes.append(message.find("EventIdentification/EventID").get("csd-code"))  # type: ignore[union-attr]
    assert codes == ["110100", "110104", "110103", "110104", "110100"]
    content = audit.read_text()
    assert uid in content and "Test" not in content  # the study; nobody's name
    assert "Test" not in "\n".join(served.lines)


def scrape(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def test_another_system_is_told_once_it_listens(tmp_path: Path) -> None:
    heard: list[dict[str, object]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(503 if len(heard) == 1 else 204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    with (
        HTTPServer(("127.0.0.1", 0), Hook) as hook,
        serve(
            tmp_path, stub("noted"), notify_url=f"http://127.0.0.1:{hook.server_port}/done"
        ) as served,
    ):
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        ((uid, path),) = studies(tmp_path / "in", 1)
        send(served, "CT_ER", path)
        until(lambda: len(heard) == 2, 40)
        hook.shutdown()
        assert served.end() == 0
    assert heard[0] == heard[1]
    assert heard[1] == {
        "study_instance_uid": uid,
        "version": 1,
        "state": "not applicable",
        "reason": "no bundle of this test wants it",
    }


def test_an_auditor_is_told_who_was_turned_away_and_a_monitor_how_often(tmp_path: Path) -> None:
    audit = tmp_path / "audit.xml"
    with serve(
        tmp_path, stub("told"), allowed_calling_aets="CT_ER", audit_file=audit, metrics_port=0
    ) as served:
        url = served.wait_for(r"metrics on (\S+)")[1]
        (file,) = write(tmp_path / "in", instance(1))
        with pytest.raises(subprocess.CalledProcessError):
            send(served, "STRANGER", file)

        def alerts() -> list[ET.Element]:
            told = [ET.fromstring(line) for line in audit.read_bytes().splitlines()]
            return [
                m
                for m in told
                if m.find("EventIdentification/EventID[@csd-code='110113']") is not None
            ]

        until(lambda: len(alerts()) == 1, 20)
        (alert,) = alerts()
        assert [p.attrib["UserID"] for p in alert.iter("ActiveParticipant")] == [
            "RADLOOP",
            "STRANGER",
        ]

        def counted() -> bool:  # once the audit message is durable, not before
            with urllib.request.urlopen(url) as answer:
                return b'radloop_refused_peers_total{why="aet"} 1.0' in answer.read()

        until(counted, 20)
