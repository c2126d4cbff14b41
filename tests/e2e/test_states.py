"""States of studies in the metadata of a real Orthanc: right, and right again after an outage."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.delivery import states
from app.delivery.destination import DestinationRefused
from app.delivery.orthanc import OrthancDestination
from app.delivery.states import ShownStates, shown
from app.demo.orthanc import Orthanc, find_orthanc, free_port, running_orthanc
from app.intake.ledger import State, StudyVersion
from tests.app.conftest import until
from tests.app.instances import STUDY, instance, write
from tests.e2e.serving import serve, storescu, stub

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed"),
]
V1 = StudyVersion(STUDY, 1, State.QUEUED)


def metadata(url: str, study: str = STUDY, name: str = "RadloopState") -> dict[str, Any] | None:
    """What Orthanc says of a study."""
    lookup = urllib.request.Request(f"{url}/tools/lookup", data=study.encode(), method="POST")
    with urllib.request.urlopen(lookup) as answer:
        found = json.loads(answer.read())
    for entry in found:
        if entry["Type"] == "Study":
            try:
                with urllib.request.urlopen(
                    f"{url}/studies/{entry['ID']}/metadata/{name}"
                ) as answer:
                    return dict(json.loads(answer.read()))
            except urllib.error.HTTPError as error:
                assert error.code == 404
    return None


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "orthanc") as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(states, "FIRST_WAIT_SECONDS", 0.1)


def says(url: str, state: str, **more: object) -> bool:
    said = metadata(url)
    return said is not None and {"by": "radloop", "state": state, **more}.items() <= said.items()


def test_a_state_waits_for_its_study_and_follows_its_changes(
    tmp_path: Path, orthanc: Orthanc
) -> None:
    destination = OrthancDestination(orthanc.url)
    board = ShownStates(tmp_path, [destination])
    board.want([V1])
    destination.deliver(write(tmp_path / "in", instance(1)))
    until(lambda: says(orthanc.url, "pending", version=1))

    failed = replace(V1, state=State.FAILED, reason="RL-0203: uneven")
    board.want([failed])
    until(lambda: says(orthanc.url, "failed", code="RL-0203"))
    board.want([replace(V1, state=State.RECEIVING, version=2)])
    board.want([replace(V1, state=State.DONE, version=2)])
    until(lambda: says(orthanc.url, "done", version=2))
    board.stop()

    assert "reason" not in (metadata(orthanc.url) or {})


def test_what_changed_while_orthanc_was_down_is_right_after_both_have_started_again(
    tmp_path: Path,
) -> None:
    port, folder = free_port(), tmp_path / "orthanc"
    destination = OrthancDestination(f"http://127.0.0.1:{port}")
    with running_orthanc(folder, http_port=port) as server:
        destination.deliver(write(tmp_path / "in", instance(1)))
        board = ShownStates(tmp_path, [destination])
        board.want([V1])
        until(lambda: says(server.url, "pending"))
    board.want([replace(V1, state=State.DONE)])
    board.stop()
    again = ShownStates(tmp_path, [destination])
    with running_orthanc(folder, http_port=port) as server:
        until(lambda: says(server.url, "done"), 20)
    again.stop()


def test_a_restart_writes_nothing_anew(tmp_path: Path, orthanc: Orthanc) -> None:
    destination = OrthancDestination(orthanc.url)
    destination.deliver(write(tmp_path / "in", instance(1)))
    board = ShownStates(tmp_path, [destination])
    board.want([V1])
    until(lambda: says(orthanc.url, "pending"))
    before = metadata(orthanc.url)
    board.stop()
    time.sleep(1.1)  # another second: a new entry would bear another time

    again = ShownStates(tmp_path, [destination])
    again.want([V1])
    again.want([replace(V1, state=State.RUNNING)])
    time.sleep(1.0)  # many looks
    again.stop()
    assert metadata(orthanc.url) == before


def test_what_somebody_else_wrote_there_stays(tmp_path: Path, orthanc: Orthanc) -> None:
    destination = OrthancDestination(orthanc.url)
    destination.deliver(write(tmp_path / "in", instance(1)))
    lookup = urllib.request.Request(f"{orthanc.url}/tools/lookup", STUDY.encode(), method="POST")
    with urllib.request.urlopen(lookup) as answer:
        (study,) = json.loads(answer.read())
    theirs = urllib.request.Request(
        f"{orthanc.url}/studies/{study['ID']}/metadata/1025", b'{"theirs":1}', method="PUT"
    )
    urllib.request.urlopen(theirs).close()

    with pytest.raises(DestinationRefused, match="in use there for something else"):
        destination.show_state(STUDY, '{"by":"radloop","state":"done"}')
    assert metadata(orthanc.url) == {"theirs": 1}


def test_nobody_asked_for_it_so_nothing_is_said_unless_it_stands_as_pending(
    tmp_path: Path, orthanc: Orthanc
) -> None:
    destination = OrthancDestination(orthanc.url)
    destination.deliver(write(tmp_path / "in", instance(1)))
    unwanted = replace(V1, state=State.NOT_APPLICABLE, reason="no route wants it")
    board = ShownStates(tmp_path, [destination])
    board.want([unwanted])
    board._look()
    assert metadata(orthanc.url) is None

    board.want([V1])
    until(lambda: says(orthanc.url, "pending"))
    board.want([replace(unwanted, version=2)])
    until(lambda: says(orthanc.url, "not applicable", version=2))
    board.stop()


@pytest.mark.parametrize("state", [State.RECEIVING, State.READY, State.SUPERSEDED])
def test_a_version_that_is_not_decided_about_says_nothing(state: State) -> None:
    assert shown(replace(V1, state=state)) is None


def test_serve_shows_what_became_of_a_study(tmp_path: Path, orthanc: Orthanc) -> None:
    OrthancDestination(orthanc.url).deliver(write(tmp_path / "pacs", instance(1)))
    with serve(tmp_path, stub("told"), orthanc_url=orthanc.url) as served:
        storescu(served.port, *write(tmp_path / "in", instance(1)))
        until(lambda: says(orthanc.url, "not applicable", version=1), 60)
        served.end()
    assert (metadata(orthanc.url) or {})["reason"] == "no bundle of this test wants it"
