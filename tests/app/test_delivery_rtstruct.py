"""A structure set, in implicit VR unlike our other objects, reaches a real archive unchanged."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
import pytest

from app.delivery.cstore import CStoreDestination
from app.delivery.orthanc import OrthancDestination
from app.delivery.rejections import Rejections
from app.delivery.stow import StowDestination
from app.demo.orthanc import find_orthanc, running_orthanc
from operators.evidence.write import write_structure_set
from tests.app.test_delivery import held
from tests.operators.scene import RECORDED_AT, two_glands

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed"),
]


@pytest.mark.parametrize("door", ["rest", "cstore", "stow"])
def test_orthanc_holds_the_structure_set_as_it_was_written(door: str, tmp_path: Path) -> None:
    (written,) = write_structure_set(two_glands(tmp_path / "in"), tmp_path / "out", RECORDED_AT)
    with running_orthanc(tmp_path / "orthanc", overwrite=False) as server:
        if door == "stow" and not server.has_dicomweb:
            pytest.skip("Orthanc's DICOMweb plugin is not installed")
        destination = {
            "rest": OrthancDestination(server.url),
            "cstore": CStoreDestination(server.aet, server.host, server.dicom_port),
            "stow": StowDestination(f"{server.url}/dicom-web", Rejections(tmp_path / "state")),
        }[door]

        destination.deliver([written.path])

        (content,) = held(server)
        assert pydicom.dcmread(io.BytesIO(content)) == pydicom.dcmread(written.path)
