"""Several processes on one queue: all work, nothing twice; the living take over from the dead."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from app.workflow.engine import SILENT_SECONDS, SWEEP_SECONDS
from tests.app.conftest import until
from tests.app.instances import STUDY, instance, write
from tests.e2e.postgres import find_postgres, running_postgres
from tests.e2e.serving import STORESCU, Served, serve, storescu, stub

pytestmark = pytest.mark.skipif(not STORESCU.exists(), reason="dcmtk is not installed")
TAKEN_OVER_SECONDS = SILENT_SECONDS + 2 * SWEEP_SECONDS + 10.0


def send(served: Served, folder: Path, count: int, manufacturer: str) -> list[str]:
    """Studies of one instance each; their UIDs."""
    first = sum(1 for _ in folder.parent.glob("*/*/*.dcm")) + 1
    uids = [f"{STUDY}.77.{first + number}" for number in range(count)]
    files = [
        write(folder / uid, instance(number, study=uid, manufacturer=manufacturer))[0]
        for number, uid in enumerate(uids)
    ]
    assert all(storescu(served.port, *files))
    return uids


def analyses(log: Path) -> list[tuple[str, str]]:
    """(folder of the study version, process) of every analysis that was begun."""
    return [tuple(line.split()) for line in log.read_text().splitlines()] if log.exists() else []  # type: ignore[misc]


def done(served: Served, uids: list[str]) -> bool:
    return all(served.said(rf"study {re.escape(uid)} v1: not applicable") for uid in uids)


@pytest.mark.skipif(find_postgres() is None, reason="PostgreSQL is not installed")
def test_two_workers_share_a_queue_and_the_living_takes_the_dead_ones_study(
    tmp_path: Path,
) -> None:
    with running_postgres() as url:
        settings = {
            "database_url": url,
            "state_dir": tmp_path / "state",
            "host": "127.0.0.1",
        }
        with (
            serve(tmp_path, stub("noted"), **settings) as served,
            serve(tmp_path, stub("noted", "2"), **settings) as second,
        ):
            served.wait_for("worker: ready")
            second.wait_for("worker: ready")
            uids = send(served, tmp_path / "in", 8, "BRIEF")
            until(lambda: done(served, uids), 60)
            begun = analyses(tmp_path / "output" / "analyses.log")
            assert sorted(name for name, _ in begun) == sorted({name for name, _ in begun})
            assert len(begun) == 8 and len({process for _, process in begun}) == 2

            # Both are at something long; the lone worker is killed and never comes back.
            slow = send(served, tmp_path / "slow", 2, "SLOW")
            until(lambda: len(analyses(tmp_path / "output" / "analyses.log")) == 10, 30)
            second.process.kill()
            killed = time.monotonic()
            served.wait_for("worker .*/worker-2 is silent: 1 workflows taken over", 40)
            until(lambda: done(served, slow), 40)
            assert time.monotonic() - killed < TAKEN_OVER_SECONDS
            assert served.end() == 0


def test_waiting_studies_survive_an_upgrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_WORKFLOW_VERSION", "0")
    with serve(tmp_path, stub("slowly")) as served:
        served.wait_for("worker: ready")
        uids = send(served, tmp_path / "in", 3, "X")
        for uid in uids:
            served.wait_for(rf"study {re.escape(uid)} v1: queued")
        served.wait_for("running")
        served.process.kill()

    monkeypatch.delenv("TEST_WORKFLOW_VERSION")
    with serve(tmp_path, stub("noted")) as served:
        until(lambda: done(served, uids), 40)
        assert (
            len(served.said("ready: begun anew: its workflow is lost, or of another release")) == 3
        )
        assert len(analyses(tmp_path / "output" / "analyses.log")) == 3
        assert served.end() == 0


def test_a_worker_that_is_stopped_hands_back_at_once(tmp_path: Path) -> None:
    state = {"state_dir": tmp_path / "state", "stop_seconds": 1}
    with (
        serve(tmp_path, stub("noted", "2"), **state) as second,
        serve(tmp_path, stub("unfit"), **state) as served,  # its own worker never starts
    ):
        second.wait_for("worker: ready")
        # Each takes one; that of the service waits for a worker that never gets ready.
        uids = send(served, tmp_path / "in", 2, "SLOW")
        until(lambda: len(analyses(tmp_path / "output" / "analyses.log")) == 1, 30)
        assert second.end() == 0
        second.wait_for("study .*-v1 is handed back by a stop")
    with serve(tmp_path, stub("noted"), **state) as served:
        until(lambda: done(served, uids), 40)
        assert served.end() == 0


def test_two_living_workers_never_share_a_name(tmp_path: Path) -> None:
    with serve(tmp_path, stub("noted", "2")) as first:
        first.wait_for("worker: ready")
        with serve(tmp_path, stub("noted", "2")) as second:
            until(lambda: second.process.poll() is not None, 30)
        assert second.process.returncode == 1
        assert "RL-0671: worker slot 'worker-2'" in "\n".join(second.lines)
        assert "Traceback" not in "\n".join(second.lines)
