"""Two studies of one patient through `radloop serve` beside a real Orthanc: what grew is said.

The network is the HU-threshold test bundle, so the growth is a formula.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from app.demo.orthanc import find_orthanc, running_orthanc
from tests.e2e.serving import STORESCU, Served, archived, serve, storescu
from tests.e2e.test_serve import BUNDLES, LOAD_SECONDS
from tests.series import Ball, centred_grid, render, stable_uid, write_ct_series
from tests.validators import dciodvfy_errors, dsrdump, pixelmed_sr_errors, result_errors

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed"),
    pytest.mark.skipif(not STORESCU.exists(), reason="dcmtk is not installed"),
]
SHAPE = (30, 72, 64)
PLACE = (12.0, 4.0, -3.0)  # on the left, as the test bundle calls it


def ct(
    folder: Path, radius_mm: float, date: str, patient_id: str = "P-1"
) -> tuple[str, list[Path]]:
    """Study Instance UID and files."""
    affine = centred_grid(SHAPE, (2.0, 0.8, 1.1))
    shapes = [Ball(PLACE, radius_mm, 100), Ball((-16.0, -5.0, 6.0), 11.0, 600)]

    def edit(dataset: Dataset, _k: int) -> None:
        dataset.StudyDate = date
        dataset.FrameOfReferenceUID = stable_uid("frame", date)

    files = write_ct_series(
        folder,
        render(shapes, SHAPE, affine),
        affine,
        body_part="PHANTOM",
        patient_id=patient_id,
        study=date,
        edit=edit,
    )
    return str(pydicom.dcmread(files[0]).StudyInstanceUID), files


def analysed(served: Served, folder: Path, *of: Any) -> dict[str, Any]:
    """The `result.json` of a study that was sent and delivered."""
    study, files = ct(folder, *of)
    assert all(storescu(served.port, *files))
    served.wait_for(rf"study {study} v1: done: delivered to Orthanc", LOAD_SECONDS)
    results = [json.loads(path.read_text()) for path in served.output.rglob("result.json")]
    (result,) = [one for one in results if one["studies"] == [study]]
    assert result_errors(result) == []
    return dict(result["results"][0])


def test_the_second_study_of_a_patient_is_compared_with_the_first(tmp_path: Path) -> None:
    with (
        running_orthanc(tmp_path / "orthanc") as server,
        serve(tmp_path, bundles=BUNDLES, orthanc_url=server.url) as served,
    ):
        first = analysed(served, tmp_path / "first", 10.0, "20240102")
        second = analysed(served, tmp_path / "second", 12.0, "20240201")
        other = analysed(served, tmp_path / "other", 12.0, "20240202", "P-2")
        held = {str(one.SOPInstanceUID): one for one in archived(server.url)}

    for alone in (first, other):
        assert alone["comparison"]["prior"] is None
        assert "prior-not-compared" in [flag["name"] for flag in alone["quality"]]
    uids = {item["kind"]: item["sop_instance_uid"] for item in first["evidence"]}
    said = second["comparison"]
    assert said["prior"]["seg_sop_instance_uid"] == uids["SEG"]
    assert said["prior"]["reports"] == [uids["SR"]]
    assert said["interval_days"] == 30
    soft, bone = said["pairs"]
    assert soft["changes"][0]["change_percent"] == pytest.approx(72.8, abs=5)
    assert soft["changes"][0]["exceeds_uncertainty"]
    assert bone["changes"][0]["change"] == pytest.approx(0, abs=1e-9)
    assert bone["changes"][0]["exceeds_uncertainty"] is False

    (sr,) = [item["sop_instance_uid"] for item in second["evidence"] if item["kind"] == "SR"]
    document = held[sr]
    assert uids["SEG"] in str(document.PertinentOtherEvidenceSequence)
    path = tmp_path / "sr.dcm"
    content = io.BytesIO()
    document.save_as(content, enforce_file_format=True)
    path.write_bytes(content.getvalue())
    assert not dciodvfy_errors(path)
    assert pixelmed_sr_errors(path) == []
    assert "the result of 2024-01-02, 30 days earlier" in dsrdump(path)
