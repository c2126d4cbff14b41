"""Many senders at once, and late slices before and after a confirmation: one live result."""

from __future__ import annotations

import random
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.demo.orthanc import find_orthanc, running_orthanc
from app.register import Register
from app.verdicts.record import ObjectRef, Verdict, append_verdict
from tests.app.instances import STUDY, instance, write
from tests.e2e.serving import STORESCU, archived, serve, storescu, stub

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed"),
    pytest.mark.skipif(not STORESCU.exists(), reason="dcmtk is not installed"),
]
ONE, TWO = f"{STUDY}.1", f"{STUDY}.2"


def held(url: str) -> dict[str, list[str]]:
    """Study → what it holds: modality and what it was made of."""
    found: dict[str, list[str]] = {}
    for dataset in archived(url):
        said = f"{dataset.Modality} of {dataset.ImageComments}"
        found.setdefault(str(dataset.StudyInstanceUID), []).append(said)
    return {uid: sorted(said) for uid, said in found.items()}


def confirm(state: Path, study: str) -> None:
    """A reader confirms the newest result of a study."""
    register = Register(state)
    sr, seg = register.in_study(study, "SR")[-1], register.in_study(study, "SEG")[-1]
    append_verdict(
        state,
        Verdict(
            at="2026-01-02T03:04:05+00:00",
            verdict="confirmed",
            reader="ada",
            because=None,
            study_instance_uid=study,
            series_instance_uid=sr.source_series_uid,
            part="",
            bundle=sr.bundle,
            weights_sha256="",
            sr=ObjectRef(sr.sop_instance_uid, sr.sha256),
            seg=ObjectRef(seg.sop_instance_uid, seg.sha256),
            verified_sr=ObjectRef("9.1", "c" * 64),
        ),
    )


def test_two_studies_over_eight_associations_with_late_slices(tmp_path: Path) -> None:
    one = write(tmp_path / "one", *(instance(k + 1, study=ONE) for k in range(26)))
    two = write(tmp_path / "two", *(instance(k + 1, study=TWO) for k in range(24)))
    early = [*one[:24], *two]
    random.Random(7).shuffle(early)
    with (
        running_orthanc(tmp_path / "orthanc") as orthanc,
        serve(
            tmp_path,
            stub("evidence"),
            orthanc_url=orthanc.url,
            state_dir=tmp_path / "state",
            quiet_seconds=3,
        ) as served,
    ):
        port = served.port
        with ThreadPoolExecutor(8) as senders:
            sent = senders.map(lambda k: storescu(port, *early[k::8]), range(8))
            assert all(all(acknowledged) for acknowledged in sent)
        for uid in (ONE, TWO):
            served.wait_for(rf"study {re.escape(uid)} v1: done")
        whole = ["SEG of 24 instances", "SR of 24 instances"]
        assert held(orthanc.url) == {ONE: whole, TWO: whole}

        storescu(port, one[24])  # late, and nobody has confirmed
        served.wait_for(rf"study {re.escape(ONE)} v2: done")
        later = ["SEG of 25 instances", "SR of 25 instances"]
        assert held(orthanc.url) == {ONE: later, TWO: whole}

        confirm(tmp_path / "state", ONE)
        storescu(port, one[25])
        served.wait_for(rf"study {re.escape(ONE)} v3: done")
        latest = ["SEG of 26 instances", "SR of 26 instances"]
        assert held(orthanc.url) == {ONE: sorted([*later, *latest]), TWO: whole}
        assert served.end() == 0


def test_the_same_images_in_another_transfer_syntax_are_analysed_once(tmp_path: Path) -> None:
    first = write(tmp_path / "first", *(instance(k + 1, study=ONE) for k in range(4)))
    again = []
    for path in first:
        again.append(path.with_suffix(".rle"))
        subprocess.run(["dcmcrle", path, again[-1]], check=True)
    altered = instance(1, study=ONE)
    altered.PixelData = bytes(len(altered.PixelData))
    with serve(tmp_path, stub("evidence"), state_dir=tmp_path / "state") as served:
        storescu(served.port, *first)
        served.wait_for(rf"study {re.escape(ONE)} v1: done")
        assert all(storescu(served.port, *again, syntax="-xr"))
        storescu(served.port, *write(tmp_path / "altered", altered))
        said = served.wait_for(rf"study {re.escape(ONE)} v2: failed: RL-0701.*the pixels differ")
        assert f"{ONE}.9.1 " in said.string
        assert not served.said(r"v2: ready") and len(served.said(" v2: failed")) == 1
        assert served.end() == 0
