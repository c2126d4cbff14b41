"""The whole product beside a real Orthanc: CT in by C-STORE, SEG and SR back, judged by others.

The network is the HU-threshold test bundle, so that what has to come back is a
formula: two balls of known place and volume.
"""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pydicom
import pytest

from app.demo.orthanc import Orthanc, find_orthanc, running_orthanc
from tests.app.conftest import until
from tests.e2e.serving import ROOT, STORESCU, Served, gone, serve, storescu
from tests.series import Ball, centred_grid, render, write_ct_series
from tests.validators import dciodvfy_errors, pixelmed_sr_errors

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed"),
    pytest.mark.skipif(not STORESCU.exists(), reason="dcmtk is not installed"),
]
SLICES, SPACING_ZYX_MM = 30, (2.0, 0.8, 1.1)
SOFT = Ball((-12.0, 4.0, -3.0), 14.0, 100)
BONE = Ball((16.0, -5.0, 6.0), 11.0, 600)
LOAD_SECONDS = 400.0  # monai on a cold, busy machine
BUNDLES = ROOT / "tests" / "bundles"


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A CT series that only the test bundle accepts."""
    affine = centred_grid((SLICES, 72, 64), SPACING_ZYX_MM)
    volume = render([SOFT, BONE], (SLICES, 72, 64), affine)
    folder = tmp_path_factory.mktemp("phantom")
    return write_ct_series(folder, volume, affine, body_part="PHANTOM", shuffle_seed=1)


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path / "orthanc") as server:
        yield server


def ask(url: str, body: bytes | None = None) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=60) as answer:
        return answer.read()


def results(server: Orthanc, folder: Path) -> dict[str, Path]:
    """What Orthanc holds, by modality; each modality once."""
    folder.mkdir(exist_ok=True)
    found: dict[str, Path] = {}
    for name in json.loads(ask(f"{server.url}/instances")):
        content = ask(f"{server.url}/instances/{name}/file")
        modality = str(pydicom.dcmread(io.BytesIO(content)).Modality)
        assert modality not in found, f"two objects of modality {modality}"
        found[modality] = folder / f"{modality}.dcm"
        found[modality].write_bytes(content)
    return found


def balls(seg: Path) -> dict[int, tuple[float, np.ndarray]]:
    """Volume, mL, and centroid, LPS mm, of every segment by the SEG's own headers."""
    dataset = pydicom.dcmread(seg)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    rows_mm, columns_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    along = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    places: dict[int, list[np.ndarray]] = {}
    for group, frame in zip(
        dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True
    ):
        number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        row, column = np.nonzero(frame)
        offsets = np.outer(column * columns_mm, along[:3]) + np.outer(row * rows_mm, along[3:])
        places.setdefault(number, []).append(origin + offsets)
    voxel_ml = rows_mm * columns_mm * SPACING_ZYX_MM[0] / 1000
    return {
        number: (len(points := np.concatenate(parts)) * voxel_ml, points.mean(axis=0))
        for number, parts in places.items()
    }


def test_a_ct_sent_by_dcmtk_comes_back_into_orthanc_as_seg_and_sr(
    phantom: list[Path], orthanc: Orthanc, tmp_path: Path
) -> None:
    study = str(pydicom.dcmread(phantom[0]).StudyInstanceUID)
    with serve(tmp_path, bundles=BUNDLES, orthanc_url=orthanc.url) as served:
        assert all(storescu(served.port, *phantom))
        served.wait_for(rf"study {study} v1: done: delivered to Orthanc", LOAD_SECONDS)
        found = results(orthanc, tmp_path / "back")

        assert set(found) == {"SEG", "SR"}
        measured = balls(found["SEG"])
        assert set(measured) == {1, 2}
        for number, ball in ((1, SOFT), (2, BONE)):
            volume_ml, centroid = measured[number]
            # A ball of 11 mm on this grid has 1.4 % fewer voxel centres than its volume.
            assert volume_ml == pytest.approx(ball.volume_ml, rel=0.02)
            assert centroid == pytest.approx(np.array(ball.centre_lps_mm), abs=0.4)
        inherited = dciodvfy_errors(phantom[0])
        for path in found.values():
            assert not dciodvfy_errors(path) - inherited
        assert pixelmed_sr_errors(found["SR"]) == []

        # Auto-routing sends the results back to where the images came from: nothing happens.
        assert all(storescu(served.port, *found.values()))
        journal = tmp_path / "spool" / "instances"
        until(lambda: sum(1 for _ in journal.glob("*/*.dcm")) == SLICES + 2)
        assert served.end() == 0
        assert not served.said(rf"study {study} v2")


def test_kill_9_of_the_service_while_it_receives_and_a_restart_lose_nothing(
    phantom: list[Path], orthanc: Orthanc, tmp_path: Path
) -> None:
    study = str(pydicom.dcmread(phantom[0]).StudyInstanceUID)
    acknowledged: list[bool] = []

    def send(served: Served) -> None:
        acknowledged.extend(storescu(served.port, *phantom, check=False))

    with serve(tmp_path, bundles=BUNDLES, orthanc_url=orthanc.url, quiet_seconds=30) as served:
        sender = Thread(target=send, args=(served,))
        served.wait_for("listening")
        sender.start()
        instances = tmp_path / "spool" / "instances"
        until(lambda: sum(1 for _ in instances.glob("*/*.dcm")) >= 8)
        children = served.children()
        served.process.kill()
        sender.join()
        until(lambda: gone(children), seconds=10)
    kept = [path for path, was in zip(phantom, acknowledged, strict=True) if was]
    assert 0 < len(kept) < SLICES, "the kill came too early or too late"

    with serve(tmp_path, bundles=BUNDLES, orthanc_url=orthanc.url) as served:
        served.wait_for(rf"study {study} v1: done: delivered to Orthanc", LOAD_SECONDS)
        seg = pydicom.dcmread(results(orthanc, tmp_path / "back")["SEG"])
        assert served.end() == 0

    referenced = {
        str(item.ReferencedSOPInstanceUID)
        for series in seg.ReferencedSeriesSequence
        for item in series.ReferencedInstanceSequence
    }
    assert {str(pydicom.dcmread(path).SOPInstanceUID) for path in kept} <= referenced
