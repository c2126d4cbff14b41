"""Images that their department takes back: what was found on them goes, unless confirmed."""

from __future__ import annotations

import re
from pathlib import Path

import pydicom
import pytest

from app.demo.orthanc import find_orthanc, running_orthanc
from app.workflow.triage import opened
from tests.app.conftest import until
from tests.e2e.serving import STORESCU, archived, serve, storescu
from tests.e2e.test_grouping import confirm
from tests.e2e.test_serve import BUNDLES, LOAD_SECONDS, SOFT, SPACING_ZYX_MM
from tests.rejection import rejection_note
from tests.series import centred_grid, render, write_ct_series

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed"),
    pytest.mark.skipif(not STORESCU.exists(), reason="dcmtk is not installed"),
]


def held(url: str) -> list[tuple[str, str]]:
    """Study and modality of what Orthanc holds."""
    return sorted((str(one.StudyInstanceUID), str(one.Modality)) for one in archived(url))


def test_results_of_rejected_images_are_withdrawn_and_confirmed_ones_stay(tmp_path: Path) -> None:
    shape = (30, 72, 64)
    affine = centred_grid(shape, SPACING_ZYX_MM)
    volume = render([SOFT], shape, affine)
    sent = [
        write_ct_series(
            tmp_path / name, volume, affine, body_part="PHANTOM", study=name, series=name
        )
        for name in ("one", "two")
    ]
    one, two = (str(pydicom.dcmread(ct[0]).StudyInstanceUID) for ct in sent)
    notes = []
    for number, images in enumerate(sent):
        note = rejection_note([pydicom.dcmread(path) for path in images])
        notes.append(tmp_path / f"note{number}.dcm")
        note.save_as(notes[-1])
    with (
        running_orthanc(tmp_path / "orthanc") as orthanc,
        serve(
            tmp_path, bundles=BUNDLES, orthanc_url=orthanc.url, state_dir=tmp_path / "state"
        ) as served,
    ):
        storescu(served.port, *sent[0], *sent[1])
        for uid in (one, two):
            served.wait_for(rf"study {re.escape(uid)} v1: done", LOAD_SECONDS)
        assert held(orthanc.url) == sorted([(one, "SEG"), (one, "SR"), (two, "SEG"), (two, "SR")])
        confirm(tmp_path / "state", two)

        storescu(served.port, *notes)
        for uid in (one, two):
            served.wait_for(rf"{re.escape(uid)} v2: ready: instances rejected .*: 30 by 'Rejected")
            served.wait_for(rf"{re.escape(uid)} v2: (not applicable|failed)")
        until(lambda: held(orthanc.url) == [(two, "SEG"), (two, "SR")])

        storescu(served.port, *sent[0], *sent[1])  # what was taken back does not come to life
        assert served.end() == 0
    with opened(tmp_path / "spool") as ledger:
        while ledger.group():
            pass
        for uid in (one, two):
            latest = ledger.latest(uid)
            assert latest is not None and (latest.version, len(ledger.inputs(latest))) == (2, 1)
