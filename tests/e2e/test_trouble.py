"""Trouble with one study is said, and stays with that study."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.intake.ledger import study_key
from tests.app.instances import STUDY, instance, write
from tests.e2e.serving import ROOT, STORESCU, environment, serve, storescu, stub

pytestmark = pytest.mark.skipif(not STORESCU.exists(), reason="dcmtk is not installed")
UIDS = [f"{STUDY}.{number}" for number in (1, 2, 3)]


def test_a_destination_that_fails_for_some_studies_does_not_hold_up_the_others(
    tmp_path: Path,
) -> None:
    share = tmp_path / "share"
    share.mkdir()
    for uid in UIDS[:2]:
        (share / f"{study_key(uid)}-v1").touch()  # a file where the study's folder has to be
    with serve(tmp_path, stub("well"), deliver_to_folder=share) as served:
        for uid in UIDS[:2]:
            storescu(served.port, *write(tmp_path / uid, instance(1, study=uid)))
            served.wait_for(rf"study {re.escape(uid)} v1: delivering: RL-0901")
        storescu(served.port, *write(tmp_path / UIDS[2], instance(1, study=UIDS[2])))
        served.wait_for(rf"study {re.escape(UIDS[2])} v1: done")

        (share / f"{study_key(UIDS[0])}-v1").unlink()
        served.wait_for(rf"study {re.escape(UIDS[0])} v1: done", 90)
        assert served.end() == 0


def test_an_analysis_that_cannot_begin_fails_by_name_and_can_be_tried_again(
    tmp_path: Path,
) -> None:
    uid = UIDS[0]
    with serve(tmp_path, stub("well")) as served:
        storescu(served.port, *write(tmp_path / "well", instance(1, study=UIDS[1])))
        served.wait_for(rf"study {re.escape(UIDS[1])} v1: done")
        shutil.rmtree(tmp_path / "spool" / "work")
        (tmp_path / "spool" / "work").touch()
        storescu(served.port, *write(tmp_path / "in", instance(1, study=uid)))
        served.wait_for(rf"study {re.escape(uid)} v1: queued: RL-0674: .*next try in 2 s")
        served.wait_for(rf"study {re.escape(uid)} v1: failed: RL-0674: .*Not a directory")
        assert "Traceback" not in "\n".join(served.lines)

        (tmp_path / "spool" / "work").unlink()
        (tmp_path / "spool" / "work").mkdir()
        subprocess.run(
            [sys.executable, "-m", "app.cli.main", "studies", "retry", uid],
            env={**os.environ, **environment(tmp_path, {})},
            cwd=ROOT,
            check=True,
            timeout=60,
        )
        served.wait_for(rf"study {re.escape(uid)} v1: done")
        assert served.end() == 0
