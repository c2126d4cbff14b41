"""Status SRs in a real Orthanc: there while there is no result, and gone with it."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pydicom
import pytest

from app.demo.orthanc import Orthanc, find_orthanc, free_port, running_orthanc
from tests.app.conftest import until
from tests.app.instances import STUDY, instance, write
from tests.e2e.serving import STORESCU, Served, serve, storescu, stub

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed"),
    pytest.mark.skipif(not STORESCU.exists(), reason="dcmtk is not installed"),
]
ROUTES = """\
version: 1
routes:
  - id: all-of-them
    bundles: [head_neck_oar_ct]
    ignore_body_part: true
    deliver: [orthanc]
    status_sr: true
"""


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "orthanc") as server:
        yield server


def held(orthanc: Orthanc, study: str = STUDY) -> dict[str, list[str]]:
    """Modality → what Orthanc holds of it: the line of a status, else nothing."""

    def ask(path: str, body: object = None) -> bytes:
        data = json.dumps(body).encode() if body else None
        with urllib.request.urlopen(f"{orthanc.url}/{path}", data=data) as answer:
            return bytes(answer.read())

    found: dict[str, list[str]] = {}
    query = {"Level": "Instance", "Query": {"StudyInstanceUID": study}}
    for entry in json.loads(ask("tools/find", query)):
        try:
            dataset = pydicom.dcmread(io.BytesIO(ask(f"instances/{entry}/file")))
        except urllib.error.HTTPError as gone:
            if gone.code != 404:
                raise
            continue  # removed between the list and this
        texts = [item.TextValue for item in dataset.get("ContentSequence", [])]
        found.setdefault(str(dataset.Modality), []).append(texts[0] if texts else "")
    return found


def begin(folder: Path, orthanc: Orthanc) -> AbstractContextManager[Served]:
    (folder / "routes.yaml").write_text(ROUTES)
    # The feed is the second door: a status that came back by it must not be analysed.
    return serve(
        folder,
        stub("fateful"),
        routes=folder / "routes.yaml",
        orthanc_url=orthanc.url,
        orthanc_feed="true",
        max_attempts=1,
    )


def pending(held_now: dict[str, list[str]]) -> bool:
    return any("analysis pending since 2" in text for text in held_now.get("SR", []))


def test_the_result_replaces_the_status(tmp_path: Path, orthanc: Orthanc) -> None:
    with begin(tmp_path, orthanc) as served:
        served.wait_for("worker: ready")
        storescu(served.port, *write(tmp_path / "in", instance(1)))
        until(lambda: pending(held(orthanc)), 30)
        assert "SEG" not in held(orthanc)
        served.wait_for(r"v1: done", 60)
        until(lambda: held(orthanc) == {"SEG": [""], "SR": [""]}, 20)
        # And a late slice: its status stands beside the older result, until the new one is there.
        storescu(served.port, *write(tmp_path / "late", instance(2)))
        until(lambda: pending(held(orthanc)) and "SEG" in held(orthanc), 30)
        served.wait_for(r"v2: done", 60)
        until(lambda: held(orthanc) == {"SEG": [""], "SR": [""]}, 20)
        assert not served.said(r"v3")


@pytest.mark.parametrize(
    ("manufacturer", "line"),
    [
        ("POISON", "radloop: analysis failed, no result: RL-"),
        ("UNFIT", "radloop: analysis not applicable, no result: RL-0401: no series fits"),
    ],
)
def test_where_no_result_comes_the_status_says_why(
    tmp_path: Path, orthanc: Orthanc, manufacturer: str, line: str
) -> None:
    with begin(tmp_path, orthanc) as served:
        served.wait_for("worker: ready")
        made = instance(1, manufacturer=manufacturer)
        storescu(served.port, *write(tmp_path / "in", made))
        until(lambda: pending(held(orthanc)), 30)

        def only_the_end() -> bool:
            texts = held(orthanc).get("SR", [])
            return len(texts) == 1 and texts[0].startswith(line)

        until(only_the_end, 60)
        assert set(held(orthanc)) == {"SR"}


def test_an_orthanc_that_was_away_is_left_with_the_result_alone(tmp_path: Path) -> None:
    port = free_port()
    away = Orthanc(f"http://127.0.0.1:{port}", "ORTHANC", "127.0.0.1", 0, tmp_path, 0, False)
    with begin(tmp_path, away) as served:
        served.wait_for("worker: ready")
        storescu(served.port, *write(tmp_path / "in", instance(1)))
        served.wait_for(r"v1: delivering: RL-0901", 60)
        with running_orthanc(tmp_path / "orthanc", http_port=port) as server:
            served.wait_for(r"v1: done", 90)
            until(lambda: held(server) == {"SEG": [""], "SR": [""]}, 90)
