"""The second door: studies that reach Orthanc by another way are analysed, once."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest

from app.demo.orthanc import find_orthanc, free_port, running_orthanc
from tests.app.conftest import until
from tests.app.instances import STUDY, encoded, instance, write
from tests.e2e.serving import STORESCU, serve, storescu, stub
from tests.e2e.test_grouping import held

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed"),
    pytest.mark.skipif(not STORESCU.exists(), reason="dcmtk is not installed"),
]
OLD, NEW, BOTH, AWAY = (f"{STUDY}.{number}" for number in range(1, 5))


def upload(url: str, study: str, *numbers: int) -> None:
    for number in numbers:
        content = encoded(instance(number, study=study))
        urllib.request.urlopen(f"{url}/instances", data=content, timeout=20).read()


def test_what_is_new_in_orthanc_is_analysed_and_our_results_are_not(tmp_path: Path) -> None:
    port = free_port()
    settings = {"orthanc_url": f"http://127.0.0.1:{port}", "orthanc_feed": "true"}
    with running_orthanc(tmp_path / "orthanc", http_port=port) as orthanc:
        upload(orthanc.url, OLD, 1)
        with serve(tmp_path, stub("evidence"), **settings) as served:
            served.wait_for("following what is new in Orthanc")
            until(lambda: mark(tmp_path) is not None)
            upload(orthanc.url, NEW, 1, 2, 3)
            # The same instances through both doors are one.
            storescu(served.port, *write(tmp_path / "in", instance(1, study=BOTH)))
            upload(orthanc.url, BOTH, 1, 2)
            for uid in (NEW, BOTH):
                served.wait_for(rf"study {re.escape(uid)} v\d: done")
            assert served.end() == 0
        upload(orthanc.url, AWAY, 1)  # while nobody follows
        with serve(tmp_path, stub("evidence"), **settings) as served:
            served.wait_for(rf"study {re.escape(AWAY)} v1: done")
            assert not served.said(re.escape(NEW)) and not served.said(re.escape(OLD) + " ")
            assert served.end() == 0
        results = {
            uid: [entry for entry in said if entry.startswith("S")]
            for uid, said in held(orthanc.url).items()
        }
    assert results == {
        OLD: [],
        NEW: ["SEG of 3 instances", "SR of 3 instances"],
        BOTH: ["SEG of 2 instances", "SR of 2 instances"],
        AWAY: ["SEG of 1 instances", "SR of 1 instances"],
    }


def mark(folder: Path) -> int | None:
    from contextlib import closing

    from app.intake import journal

    with closing(journal.connect(folder / "spool" / "journal.db")) as connection:
        row = connection.execute("SELECT last FROM marks").fetchone()
        return None if row is None else int(row["last"])
