"""The API where things go wrong: crashes, time limits, callers that leave, stops, strangers."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pydicom
import pytest
from pydicom.dataset import Dataset

from tests.app.conftest import until
from tests.e2e.callers import FINE_TUNE, HEALTH, HYBRID, LOCAL, caller, error, parts
from tests.e2e.cloud import cloud_server
from tests.e2e.serving import STORESCU, Served, gone, serve, storescu, stub
from tests.series import centred_grid, write_ct_series

CT = {"image_type": "ct"}


def slices(folder: Path, manufacturer: str = "Phantom", study: str = "study") -> list[Path]:
    def edit(dataset: Dataset, _: int) -> None:
        dataset.Manufacturer = manufacturer

    shape = (4, 8, 8)
    affine = centred_grid(shape, (2.0, 1.0, 1.0))
    return write_ct_series(folder, np.zeros(shape), affine, study=study, edit=edit)


def stub_service(folder: Path, **settings: object) -> object:
    more = {"api_port": 0, "state_dir": folder / "state", **settings}
    return serve(folder, stub("told"), **more)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("trouble")
    with stub_service(folder, study_timeout_s=3.0) as service:
        service.wait_for("worker: ready")
        yield service


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with caller(served) as client:
        yield client


def uploads(served: Served) -> list[Path]:
    return list((served.output.parent / "spool" / "api").iterdir())


def test_no_bundle_is_an_answer(client: httpx.Client, tmp_path: Path) -> None:
    body = client.post(LOCAL, data=CT, files=parts(slices(tmp_path))).json()

    assert body["status"] == "unavailable"
    assert body["reason"] == "no bundle of this test wants it"
    assert body["severity"] == "NOT_ASSESSED" and body["confidence"] is None
    assert body["recommendations"] == [
        "Refer to a radiologist: radloop measures, it does not diagnose."
    ]


def test_a_crash_is_503_a_hang_504_and_the_next_caller_is_served(
    served: Served, client: httpx.Client, tmp_path: Path
) -> None:
    crash = client.post(LOCAL, data=CT, files=parts(slices(tmp_path / "a", "POISON")))
    assert error(crash) == (503, "RL-1412") and "SIGSEGV" in crash.text

    began = time.monotonic()
    hang = client.post(LOCAL, data=CT, files=parts(slices(tmp_path / "b", "HANG")))
    assert error(hang) == (504, "RL-1413") and "RL-0802" in hang.text
    assert time.monotonic() - began < 30

    well = client.post(LOCAL, data=CT, files=parts(slices(tmp_path / "c")))
    assert well.status_code == 200
    until(lambda: not uploads(served))


def test_a_caller_that_leaves_takes_its_upload_along(tmp_path: Path) -> None:
    with stub_service(tmp_path, stop_seconds=0.1) as served, caller(served) as client:
        served.wait_for("worker: ready")
        url = str(client.base_url.join(LOCAL))
        for name in ("in work", "waiting"):
            files = parts(slices(tmp_path / name, "HANG"))
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(url, data=CT, files=files, timeout=1.0)
        # The one in work can't be taken from the worker; the other goes at once.
        until(lambda: len(uploads(served)) == 1, 5)
        assert served.end() == 0
        assert uploads(served) == []


def test_an_upload_that_breaks_off_leaves_nothing(served: Served, client: httpx.Client) -> None:
    url = client.base_url
    with socket.create_connection((url.host, url.port)) as sock:
        head = (
            f"POST {LOCAL} HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: 100000\r\n"
            "Content-Type: multipart/form-data; boundary=B\r\n\r\n"
            '--B\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        )
        sock.sendall(head.encode() + bytes(5000))
        until(lambda: uploads(served))
    until(lambda: not uploads(served))


@pytest.mark.skipif(not STORESCU.exists(), reason="dcmtk is not installed")
def test_a_caller_goes_before_waiting_studies_but_interrupts_none(tmp_path: Path) -> None:
    with stub_service(tmp_path, quiet_seconds=0.2) as served, caller(served) as client:
        running = slices(tmp_path / "a", "SLOW", "running")
        waiting = slices(tmp_path / "b", "SLOW", "waiting")
        first, second = (
            str(pydicom.dcmread(files[0]).StudyInstanceUID) for files in (running, waiting)
        )
        served.wait_for("worker: ready")
        storescu(served.port, *running)
        served.wait_for(f"study {first} v1: running")
        storescu(served.port, *waiting)
        served.wait_for(f"study {second} v1: ready")

        answer = client.post(LOCAL, data=CT, files=parts(slices(tmp_path / "c")))

        assert answer.status_code == 200
        served.wait_for(f"study {second} v1: running")
        order = [
            served.lines.index(found.string)
            for found in (
                served.said(f"study {first} v1: not applicable")[0],
                served.said("route=/api/phase-5/image/analyze-local-only status=200")[0],
                served.said(f"study {second} v1: running")[0],
            )
        ]
        # The answer is printed by another process, at once; states go through a database.
        assert order[0] < order[2]
        assert len(served.said(f"study {first} v1: running")) == 1
        assert answer.json()["processing_time_ms"] < 4000 + 3000


def test_a_killed_api_process_comes_back_and_leaves_no_uploads(
    served: Served, client: httpx.Client, tmp_path: Path
) -> None:
    files = parts(slices(tmp_path / "a", "HANG"))
    broken: list[Exception] = []

    def call() -> None:
        try:
            client.post(LOCAL, data=CT, files=files)
        except httpx.HTTPError as caught:
            broken.append(caught)

    threads = [threading.Thread(target=call) for _ in range(2)]  # one in work, one waiting
    for thread in threads:
        thread.start()
    until(lambda: len(uploads(served)) == 2)
    time.sleep(0.5)
    port = client.base_url.port
    (api,) = (child for child in served.children() if listens(child, port))
    os.kill(api.pid, signal.SIGKILL)
    for thread in threads:
        thread.join(20)
    assert len(broken) == 2

    served.wait_for("API process ended by itself")
    until(lambda: not uploads(served), 20)
    with caller(served) as again:
        answer = again.post(LOCAL, data=CT, files=parts(slices(tmp_path / "b")))
    assert answer.status_code == 200


def listens(process: psutil.Process, port: int | None) -> bool:
    return any(
        connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        for connection in process.net_connections("tcp")
    )


def test_a_stop_lets_the_one_in_work_end_and_tells_the_others(tmp_path: Path) -> None:
    with stub_service(tmp_path) as served, caller(served) as client:
        served.wait_for("worker: ready")
        url = str(client.base_url.join(LOCAL))
        answers: dict[str, httpx.Response] = {}

        def call(name: str, manufacturer: str) -> None:
            files = parts(slices(tmp_path / name, manufacturer))
            answers[name] = httpx.post(url, data=CT, files=files, timeout=60)

        threads = []
        for name, manufacturer in (("in work", "SLOW"), ("waiting", "Phantom")):
            threads.append(threading.Thread(target=call, args=(name, manufacturer)))
            threads[-1].start()
            time.sleep(1.0)
        children = served.children()
        assert served.end() == 0
        for thread in threads:
            thread.join(10)
        assert answers["in work"].status_code == 200
        assert error(answers["waiting"]) == (503, "RL-1414")
        until(lambda: gone(children), 5)
        assert uploads(served) == []


def test_a_stop_that_waits_no_longer_answers_all_the_same(tmp_path: Path) -> None:
    with stub_service(tmp_path, stop_seconds=0.5) as served, caller(served) as client:
        served.wait_for("worker: ready")
        url, files = str(client.base_url.join(LOCAL)), parts(slices(tmp_path / "a", "HANG"))
        answers: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: answers.append(httpx.post(url, data=CT, files=files, timeout=60))
        )
        thread.start()
        time.sleep(1.0)
        assert served.end() == 0
        thread.join(10)
        assert error(answers[0]) == (503, "RL-1414")


def test_strangers_are_kept_out(tmp_path: Path) -> None:
    token = {"api_token": "right"}
    with stub_service(tmp_path, **token) as served, caller(served) as client:
        files = parts(slices(tmp_path / "a"))
        for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic right"}):
            answer = client.post(LOCAL, data=CT, files=files, headers=header)
            assert error(answer) == (401, "RL-1404")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert error(client.get("/openapi.json")) == (401, "RL-1404")
        assert client.get(HEALTH).json() == {"status": "ok"}
        right = {"authorization": "Bearer right"}
        assert client.post(LOCAL, data=CT, files=files, headers=right).status_code == 200
        page = {**right, "origin": "https://example.org"}
        assert error(client.post(LOCAL, data=CT, files=files, headers=page)) == (403, "RL-1405")
        assert "access-control-allow-origin" not in client.get(HEALTH).headers


def test_without_a_token_only_this_machines_own_name_is_answered(client: httpx.Client) -> None:
    answer = client.get("/openapi.json", headers={"host": "attacker.example"})
    assert error(answer) == (403, "RL-1405")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_open_to_the_network_without_a_token_does_not_start(tmp_path: Path, host: str) -> None:
    with stub_service(tmp_path, api_host=host, api_token="") as served:
        assert served.process.wait(60) == 1
        until(lambda: served.said("RL-1401"))
        assert f"RL-1401: api_host {host}" in "\n".join(served.lines)
        assert "Traceback" not in "\n".join(served.lines)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with stub_service(tmp_path, api_port=port) as served:
            assert served.process.wait(60) == 1
            until(lambda: served.said("RL-1402"))
            assert f"127.0.0.1:{port}" in "\n".join(served.lines)


@pytest.mark.parametrize(
    ("data", "files", "expected"),
    [
        (CT, [], (415, "RL-1407")),
        ({}, parts([b"x"]), (422, "RL-1408")),
        ({"image_type": "PLANTED"}, parts([b"x"]), (422, "RL-1408")),
        ({**CT, "PLANTED": "1"}, parts([b"x"]), (422, "RL-1408")),
        ({**CT, "use_local_only": "true"}, parts([b"x"]), (422, "RL-1408")),
        ({**CT, "clinical_context": "PLANTED" * 2000}, parts([b"x"]), (422, "RL-1408")),
        ({**CT, "clinical_context": "PLANTED" * 20000}, parts([b"x"]), (413, "RL-1406")),
        (CT, parts([b""]), (422, "RL-1409")),
        (CT, parts([b"PLANTED, no image"]), (422, "RL-1409")),
        (CT, parts([b"\x89PNG\r\n\x1a\n" + bytes(40)]), (422, "RL-1409")),
        (CT, parts([b"\xff\xd8\xff", b"\xff\xd8\xff"]), (422, "RL-1409")),
        (CT, [("image", (None, b"", "text/plain"))], (422, "RL-1409")),
    ],
)
def test_what_can_not_be_used_is_refused_by_name(
    served: Served,
    client: httpx.Client,
    data: dict[str, str],
    files: list,
    expected: tuple[int, str],
) -> None:
    answer = client.post(LOCAL, data=data, files=files)
    assert error(answer) == expected
    assert "PLANTED" not in answer.text
    until(lambda: not uploads(served))


def test_a_truncated_slice_a_second_series_and_another_modality_are_refused(
    client: httpx.Client, tmp_path: Path
) -> None:
    whole = [path.read_bytes() for path in slices(tmp_path / "a")]
    other = [path.read_bytes() for path in slices(tmp_path / "b", study="other")]

    cut = client.post(LOCAL, data=CT, files=parts([whole[0], whole[1][:-40], *whole[2:]]))
    assert error(cut) == (422, "RL-1409") and "image part 2: RL-0" in cut.text
    two = client.post(LOCAL, data=CT, files=parts([*whole, *other]))
    assert error(two) == (422, "RL-1409") and "2 series" in two.text
    wrong = client.post(HYBRID, data={"image_type": "xray"}, files=parts(whole))
    assert error(wrong) == (422, "RL-1409")


def test_too_large_is_said_before_it_is_sent(client: httpx.Client) -> None:
    url = client.base_url
    with socket.create_connection((url.host, url.port)) as sock:
        head = (
            f"POST {LOCAL} HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {1 << 42}\r\n"
            "Content-Type: multipart/form-data; boundary=B\r\n\r\n"
        )
        sock.sendall(head.encode())
        answer = b""
        while received := sock.recv(65536):
            answer += received
    assert answer.startswith(b"HTTP/1.1 413") and b"RL-1406" in answer


@pytest.mark.parametrize("body", [b"{", b"null", b"[]", b'{"epochs": 3}', b"\xff"])
def test_a_fine_tune_that_is_none_is_refused(client: httpx.Client, body: bytes) -> None:
    answer = client.post(FINE_TUNE, content=body, headers={"content-type": "application/json"})
    assert error(answer)[0] in (400, 422)


@pytest.mark.parametrize(
    "change",
    [
        {"use_validated_cases": False},
        {"epochs": 0},
        {"max_cases": "500"},
        {"max_cases": 10**9},
        {"PLANTED": 1},
    ],
)
def test_fine_tune_takes_confirmed_cases_within_bounds_only(
    client: httpx.Client, change: dict[str, object]
) -> None:
    body = {"use_validated_cases": True, "max_cases": 500, "epochs": 3, **change}
    answer = client.post(FINE_TUNE, json=body)
    assert error(answer) == (422, "RL-1408")
    assert "PLANTED" not in answer.text


def test_paths_that_are_not_there(client: httpx.Client) -> None:
    for path in ("/docs", "/redoc", "/", "/api/v1/jobs/" + "0" * 32, "/api/v1/jobs/..%2Fx"):
        assert error(client.get(path))[0] == 404
    assert error(client.get(LOCAL)) == (405, "RL-1415")
    schema = client.get("/openapi.json").json()
    assert LOCAL in schema["paths"] and "multipart/form-data" in json.dumps(schema)


def test_nothing_leaves_where_the_site_did_not_switch_it_on(tmp_path: Path) -> None:
    with (
        cloud_server() as cloud,
        stub_service(tmp_path, claude_base_url=cloud.url, claude_api_key="sk") as served,
        caller(served) as client,
    ):
        body = client.post(HYBRID, data=CT, files=parts(slices(tmp_path / "a"))).json()
        assert body["claude_vision_reason"]["code"] == "disabled"
        assert cloud.received == [] and body["api_calls"] == 0


def test_what_was_sent_is_on_record_though_the_worker_crashed(tmp_path: Path) -> None:
    with (
        cloud_server() as cloud,
        stub_service(
            tmp_path, claude_base_url=cloud.url, claude_api_key="sk", claude_enabled=True
        ) as served,
        caller(served) as client,
    ):
        answer = client.post(HYBRID, data=CT, files=parts(slices(tmp_path / "a", "POISON")))
        assert error(answer) == (503, "RL-1412")
        (line,) = (tmp_path / "state" / "comparisons.jsonl").read_text().splitlines()
        record = json.loads(line)
        assert record["local"] is None and record["local_trouble"] == "RL-1412"
        assert record["claude"]["severity"] == "LOW" and len(cloud.received) == 1


def test_a_refusal_reaches_a_caller_who_is_still_sending(tmp_path: Path) -> None:
    with stub_service(tmp_path, api_token="right") as served, caller(served) as client:
        files = parts([bytes(4 << 20)])
        for _ in range(10):
            assert error(client.post(LOCAL, data=CT, files=files)) == (401, "RL-1404")


def test_a_fine_tune_is_one_job_whose_end_is_told(tmp_path: Path) -> None:
    """The real command: without an Orthanc to collect from it says so."""
    body = {"use_validated_cases": True, "max_cases": 500, "epochs": 3}
    with stub_service(tmp_path) as served, caller(served) as client:
        started = client.post(FINE_TUNE, json=body).json()
        job_id = started.pop("job_id")
        unknown = {"model_path": None, "validation_loss": None, "improvement_over_base": None}
        assert started == {"status": "started", **unknown}
        assert error(client.post(FINE_TUNE, json=body)) == (409, "RL-1416")

        def ended() -> dict[str, object] | None:
            job = client.get(f"/api/v1/jobs/{job_id}").json()
            return None if job["status"] == "running" else job

        job = until(ended, 120)
        assert job["status"] == "failed" and job["step"] == "collect"
        assert "RL-1306: orthanc_url is not set" in job["reason"]
        assert {name: job[name] for name in unknown} == unknown
