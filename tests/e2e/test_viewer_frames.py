"""Frames of our SEG through the viewer's proxy before a real Orthanc, on easy and odd grids."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest

from app.demo.orthanc import find_orthanc, running_orthanc
from app.viewer.proxy import OrthancAddress
from app.viewer.server import running_viewer
from operators.evidence.write import write_evidence
from operators.findings.measure import measure
from tests.operators.scene import RECORDED_AT, make_segmentation, segment
from tests.series import Ball, centred_grid

ACCEPT = "multipart/related; type=application/octet-stream; transfer-syntax=*"


def parts(answer: httpx.Response) -> list[bytes]:
    """Bodies of a multipart answer (RFC 2046)."""
    found = re.search(r'boundary="?([^";]+)', answer.headers["content-type"])
    assert found
    blocks = answer.content.split(b"--" + found[1].encode())
    return [block.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for block in blocks[1:-1]]


@pytest.mark.orthanc
@pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed")
@pytest.mark.parametrize("columns", [48, 41])  # 41: Orthanc itself answers 400
def test_a_frame_holds_the_bits_that_the_file_holds(tmp_path: Path, columns: int) -> None:
    from orthanc_api_client import OrthancApiClient

    shape = (12, 35, columns)
    affine = centred_grid(shape, (2.5, 1.0, 1.0))
    segments = [segment(1, "parotid", "right"), segment(2, "mandible")]
    shapes = [Ball((-9, 0, 0), 7.0, 10), Ball((9, 0, 0), 6.0, 20)]
    segmentation = make_segmentation(tmp_path / "ct", shapes, shape, affine, segments)
    seg, _ = write_evidence(measure(segmentation), tmp_path / "evidence", RECORDED_AT)
    dataset = pydicom.dcmread(seg.path)
    frames = dataset.pixel_array  # pydicom knows frames that begin within a byte
    assert frames.any(axis=(1, 2)).all() and len(frames) > 4
    (tmp_path / "ohif").mkdir()
    (tmp_path / "ohif" / "index.html").write_text("")

    with (
        running_orthanc(tmp_path / "orthanc") as orthanc,
        running_viewer(tmp_path / "ohif", OrthancAddress(orthanc.url)) as root,
        httpx.Client(trust_env=False, headers={"Accept": ACCEPT}) as client,
    ):
        OrthancApiClient(orthanc.url).upload_file(str(seg.path))
        path = (
            f"/dicom-web/studies/{dataset.StudyInstanceUID}/series/{dataset.SeriesInstanceUID}"
            f"/instances/{dataset.SOPInstanceUID}/frames/"
        )
        direct = client.get(f"{orthanc.url}{path}1").status_code
        assert direct == (200 if columns % 8 == 0 else 400), "Orthanc has learnt it: simplify"
        count = len(frames)
        for asked in (["1"], [str(count)], ["2", "3"]):
            answer = client.get(f"{root}{path}{','.join(asked)}")
            assert answer.status_code == 200
            bodies = parts(answer)
            assert len(bodies) == len(asked)
            for number, body in zip(asked, bodies, strict=True):
                bits = np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little")
                found = bits[: 35 * columns].reshape(35, columns)
                assert np.array_equal(found, frames[int(number) - 1])
        assert client.get(f"{root}{path}{count + 1}").status_code in (400, 404)
