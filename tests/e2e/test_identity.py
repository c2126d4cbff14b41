"""Two patients in one study, and one patient under two names: nothing moves by itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID

from app.demo.orthanc import find_orthanc, running_orthanc
from tests.app.instances import STUDY, instance, write
from tests.e2e.serving import ROOT, STORESCU, Served, archived, serve, storescu, stub
from tests.e2e.test_grouping import confirm
from tests.e2e.test_serve import BUNDLES, LOAD_SECONDS, SOFT, SPACING_ZYX_MM
from tests.series import centred_grid, render, write_ct_series

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed"),
    pytest.mark.skipif(not STORESCU.exists(), reason="dcmtk is not installed"),
]


def held(url: str) -> dict[str, str]:
    """SOP Instance UID → modality and patient of what Orthanc holds."""
    return {
        str(dataset.SOPInstanceUID): f"{dataset.Modality} {dataset.PatientID}"
        for dataset in archived(url)
    }


def stranger(path: Path, study: str) -> Path:
    """A copy of an image of a study as a new one, of another patient."""
    dataset = pydicom.dcmread(path)
    dataset.PatientID, dataset.PatientName = "SOMEBODY-ELSE", "Else^Somebody"
    dataset.StudyInstanceUID = study
    uid = UID(f"{study[:60]}.77")
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    made = path.with_name(f"stranger-{len(study)}-{study[-6:]}.dcm")
    dataset.save_as(made)
    return made


def test_two_patients_in_one_study_make_no_result_and_take_none_away(tmp_path: Path) -> None:
    shape = (30, 72, 64)
    affine = centred_grid(shape, SPACING_ZYX_MM)
    volume = render([SOFT], shape, affine)
    sent = write_ct_series(tmp_path / "ct", volume, affine, body_part="PHANTOM")
    together = write_ct_series(
        tmp_path / "mixed", volume, affine, body_part="PHANTOM", study="mixed", series="mixed"
    )
    study, mixed = (str(pydicom.dcmread(ct[0]).StudyInstanceUID) for ct in (sent, together))
    with (
        running_orthanc(tmp_path / "orthanc") as orthanc,
        serve(tmp_path, bundles=BUNDLES, orthanc_url=orthanc.url) as served,
    ):
        storescu(served.port, *sent)
        served.wait_for(rf"study {re.escape(study)} v1: done", LOAD_SECONDS)
        before = held(orthanc.url)
        assert sorted(said[:3].strip() for said in before.values()) == ["SEG", "SR"]

        storescu(served.port, *together, stranger(sent[0], mixed))
        storescu(served.port, stranger(sent[0], study))
        for uid, version in ((mixed, 1), (study, 2)):
            refused = rf"study {re.escape(uid)} v{version}: failed: .*RL-0201.*of 2 patients"
            said = served.wait_for(refused).string
            assert "SOMEBODY" not in said and "Else" not in said
        assert held(orthanc.url) == before
        assert served.end() == 0


def of_patient(patient: str) -> list[Dataset]:
    made = [instance(number) for number in range(1, 5)]
    for dataset in made:
        dataset.PatientID = patient
    return made


def release(folder: Path, option: str, status: int = 0) -> str:
    """By the command, beside the running service."""
    own = {"SPOOL": folder / "spool", "STATE_DIR": folder / "state"}
    done = subprocess.run(
        [sys.executable, "-m", "app.cli.main", "studies", "release", STUDY, option],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            **{f"RADLOOP_{name}": str(value) for name, value in own.items()},
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def waits(served: Served, version: int, came: int) -> None:
    served.wait_for(rf"{re.escape(STUDY)} v{version}: failed: RL-0703: {came} of 4 instances")


@pytest.mark.parametrize("is_confirmed", [False, True])
def test_a_corrected_patient_is_taken_over_when_a_person_says_so(
    tmp_path: Path, is_confirmed: bool
) -> None:
    old = write(tmp_path / "old", *of_patient("A"))
    new = write(tmp_path / "new", *of_patient("B"))
    with (
        running_orthanc(tmp_path / "orthanc") as orthanc,
        serve(
            tmp_path,
            stub("evidence"),
            orthanc_url=orthanc.url,
            state_dir=tmp_path / "state",
        ) as served,
    ):
        storescu(served.port, *old)
        served.wait_for(rf"{re.escape(STUDY)} v1: done")
        before = held(orthanc.url)
        assert sorted(before.values()) == ["SEG A", "SR A"]
        if is_confirmed:
            confirm(tmp_path / "state", STUDY)

        storescu(served.port, *new[:3])
        waits(served, 2, 3)
        assert "3 of 4" in release(tmp_path, "--newer", status=1)
        storescu(served.port, new[3])
        waits(served, 3, 4)
        assert held(orthanc.url) == before

        said = release(tmp_path, "--newer")
        served.wait_for(rf"{re.escape(STUDY)} v3: done")
        after = held(orthanc.url)
        assert served.end() == 0
    (sr,) = (uid for uid, what in before.items() if what == "SR A")
    assert (sr in said) == is_confirmed
    kept = before if is_confirmed else {}
    assert {uid: what for uid, what in after.items() if what.endswith("A")} == kept
    assert sorted(what for what in after.values() if what.endswith("B")) == ["SEG B", "SR B"]
