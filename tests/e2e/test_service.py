"""The service as its own process, with real peers and a worker whose job is a few lines.

What is shown here: acknowledged means kept and analysed, whatever is killed;
every study has a visible state; nothing is left running.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest

from app.demo.orthanc import find_orthanc, free_port, running_orthanc
from tests.app.conftest import until
from tests.app.instances import STUDY, instance, write
from tests.e2e.serving import ROOT, STORESCU, Served, environment, gone, serve, storescu, stub

pytestmark = pytest.mark.skipif(not STORESCU.exists(), reason="dcmtk is not installed")
OTHER = f"{STUDY}.77"


def uids(*numbers: int) -> set[str]:
    return {f"{STUDY}.9.{number}" for number in numbers}


def analysed(served: Served) -> set[str]:
    """SOP Instance UIDs that the newest analysis was given."""
    files = [path for path in served.results() if path.name == "inputs.txt"]
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    return set(newest.read_text().split())


def test_a_study_goes_in_and_its_result_comes_out(tmp_path: Path) -> None:
    files = write(tmp_path / "in", *(instance(number) for number in range(5)))
    with serve(tmp_path, stub("well"), deliver_to_folder=tmp_path / "share") as served:
        assert all(storescu(served.port, *files))
        served.wait_for(rf"study {STUDY} v1: done: delivered to folder {tmp_path}/share")

        assert analysed(served) == uids(*range(5))
        (copy,) = (tmp_path / "share").rglob("inputs.txt")
        states = [m[1] for m in served.said(rf"study {STUDY} v1: (\w+)")]
        assert states == ["receiving", "ready", "queued", "running", "delivering", "done"]
        assert copy.read_text() == (served.output / copy.parent.name / copy.name).read_text()
        assert not [line for line in served.lines if "Test" in line]  # no patient's name
        assert served.end(signal.SIGINT) == 0


def test_kill_9_in_the_middle_of_sending_loses_nothing_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    count = 300
    files = write(tmp_path / "in", *(instance(number) for number in range(count)))
    acknowledged: list[bool] = []
    with serve(tmp_path, stub("well"), quiet_seconds=60) as served:
        port = served.port
        sender = threading.Thread(
            target=lambda: acknowledged.extend(storescu(port, *files, check=False))
        )
        sender.start()
        instances = tmp_path / "spool" / "instances"
        until(lambda: sum(1 for _ in instances.glob("*/*.dcm")) > 30)
        children = served.children()
        served.process.kill()
        sender.join()
        until(lambda: gone(children), seconds=5)
    known = {number for number, was in enumerate(acknowledged) if was}
    assert 0 < len(known) < count, "the kill came too early or too late"

    with serve(tmp_path, stub("well"), port=port) as served:
        served.wait_for(rf"study {STUDY} v1: done")
        assert uids(*known) <= analysed(served)

        assert all(storescu(served.port, *files))
        served.wait_for(rf"study {STUDY} v2: done")
        assert analysed(served) == uids(*range(count))
        assert served.end() == 0


def test_kill_9_during_the_analysis_repeats_it(tmp_path: Path) -> None:
    files = write(tmp_path / "in", instance(1))
    with serve(tmp_path, stub("slowly")) as served:
        storescu(served.port, *files)
        until(lambda: any(path.name == "begun" for path in served.results()))
        served.process.kill()

    with serve(tmp_path, stub("well")) as served:
        served.wait_for(rf"study {STUDY} v1: running")
        served.wait_for(rf"study {STUDY} v1: done: kept in .*no destination is set")
        assert analysed(served) == uids(1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_hands_the_study_back_and_leaves_nobody_behind(tmp_path: Path, number: int) -> None:
    files = write(tmp_path / "in", instance(1))
    with serve(tmp_path, stub("slowly"), stop_seconds=1) as served:
        storescu(served.port, *files)
        until(lambda: any(path.name == "begun" for path in served.results()))
        children = served.children()
        assert len(children) >= 2

        began = time.monotonic()
        assert served.end(number) == 0
        assert time.monotonic() - began < 12.0

        until(lambda: gone(children), seconds=3)
        served.wait_for(rf"study {STUDY} v1: queued: handed back by a stop")
        assert served.lines[-1].endswith("stopped")

    with serve(tmp_path, stub("well")) as served:
        served.wait_for(rf"study {STUDY} v1: done")


def test_a_ctrl_c_at_a_terminal_reaches_everybody_and_still_ends_well(tmp_path: Path) -> None:
    with serve(tmp_path, stub("well")) as served:
        served.wait_for("worker: ready")
        os.killpg(served.process.pid, signal.SIGINT)  # as a terminal does: children as well

        assert served.process.wait(20) == 0
    assert "Traceback" not in "\n".join(served.lines)


def test_late_instances_make_a_new_version_and_the_old_one_is_not_delivered(
    tmp_path: Path,
) -> None:
    first, late = write(tmp_path / "in", instance(1), instance(2))
    with serve(tmp_path, stub("slowly"), study_timeout_s=8) as served:
        storescu(served.port, first)
        served.wait_for(rf"study {STUDY} v1: running")
        storescu(served.port, late)
        served.wait_for(rf"study {STUDY} v2: ready")
        served.wait_for(rf"study {STUDY} v1: superseded: more instances came")

    with serve(tmp_path, stub("well")) as served:
        served.wait_for(rf"study {STUDY} v2: done")
        assert analysed(served) == uids(1, 2)
        storescu(served.port, first, late)  # nothing new
        storescu(served.port, *write(tmp_path / "other", instance(1, study=OTHER)))
        served.wait_for(rf"study {OTHER} v1: done")
        assert not served.said(rf"study {STUDY} v3")


def test_a_study_that_kills_the_worker_fails_after_two_tries_and_the_next_one_succeeds(
    tmp_path: Path,
) -> None:
    poison = write(tmp_path / "bad", instance(1, manufacturer="POISON"))
    good = write(tmp_path / "good", instance(1, study=OTHER))
    with serve(tmp_path, stub("poisonable")) as served:
        storescu(served.port, *poison)
        served.wait_for(rf"study {STUDY} v1: queued: RL-0803: .*SIGSEGV.*next try in 2 s")
        storescu(served.port, *good)
        served.wait_for(rf"study {OTHER} v1: done")
        served.wait_for(rf"study {STUDY} v1: failed: RL-0803: .*SIGSEGV.*given up after 2 tries")


def test_a_result_that_comes_back_is_not_analysed(tmp_path: Path) -> None:
    ours = instance(1, manufacturer="radloop", modality="SEG")
    with serve(tmp_path, stub("well")) as served:
        storescu(served.port, *write(tmp_path / "in", ours))
        served.wait_for(rf"study {STUDY} v1: not applicable: holds only results that radloop wrote")
        assert not served.said("running")


def test_a_listener_that_is_killed_is_replaced(tmp_path: Path) -> None:
    files = write(tmp_path / "in", instance(1))
    with serve(tmp_path, stub("well")) as served:
        port = served.port
        served.wait_for("worker: ready")
        listener = next(
            child
            for child in served.children()
            if any(connection.laddr.port == port for connection in child.net_connections())
        )
        listener.send_signal(signal.SIGKILL)
        served.wait_for("listener ended by itself")

        assert all(storescu(port, *files))
        served.wait_for(rf"study {STUDY} v1: done")


@pytest.mark.orthanc
@pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed")
def test_orthanc_that_is_down_gets_the_result_when_it_is_back(tmp_path: Path) -> None:
    http_port = free_port()
    url = f"http://127.0.0.1:{http_port}"
    (tmp_path / "in").mkdir()
    with serve(tmp_path, stub("echo_input"), orthanc_url=url) as served:
        served.wait_for(f"delivering to Orthanc {url}/: RL-0901: .*Results wait for it")
        storescu(served.port, *write(tmp_path / "in", instance(1)))
        served.wait_for(rf"study {STUDY} v1: delivering: RL-0901: {url}/instances can't be reached")

        with running_orthanc(tmp_path / "orthanc", http_port=http_port):
            served.wait_for(rf"study {STUDY} v1: done: delivered to Orthanc {url}/")


def refused(folder: Path, **settings: object) -> str:
    """What a service says that may not start."""
    done = subprocess.run(
        stub("well"),
        cwd=ROOT,
        env=environment(folder, settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_second_start_is_refused_by_name(tmp_path: Path) -> None:
    with serve(tmp_path, stub("well")) as served:
        port = served.port

        same_spool = refused(tmp_path, port=port)
        assert f"RL-0611: spool {tmp_path}/spool is in use" in same_spool
        assert f"(process {served.process.pid})" in same_spool
        same_port = refused(tmp_path / "second", port=port)
        assert f"RL-0612: can't listen on 127.0.0.1:{port}" in same_port
        assert "RADLOOP_PORT" in same_port
        assert served.process.poll() is None


def test_a_port_of_somebody_else_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        assert f"RL-0612: can't listen on 127.0.0.1:{port} (Address already in use)" in refused(
            tmp_path, port=port
        )


def test_nothing_is_left_after_a_refused_start(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("no folder")

    assert "RL-0613" in refused(tmp_path)
    assert not [
        child for child in psutil.Process().children() if "tests.e2e.service" in child.cmdline()
    ]
