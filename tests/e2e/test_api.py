"""The three paths under the real service: a DICOM series whose truth is a formula, and a PNG.

The cloud model is a stand-in on this machine that keeps every byte it receives, so that
what left the house can be searched for what was planted.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset

from tests.app.conftest import until
from tests.e2e.callers import HYBRID, LOAD_SECONDS, LOCAL, caller, error, parts
from tests.e2e.cloud import GOOD, Cloud, cloud_server
from tests.e2e.serving import ROOT, Served, serve
from tests.series import Ball, centred_grid, render, write_ct_series

SLICES, SPACING_ZYX_MM, SHAPE = 30, (2.0, 0.8, 1.1), (30, 72, 64)
SOFT = Ball((-12.0, 4.0, -3.0), 14.0, 100)
BONE = Ball((16.0, -5.0, 6.0), 11.0, 600)
TOKEN = "correct-horse"
PLANTED = {
    "PatientName": "PLANTED^NAME",
    "PatientID": "PLANTED-ID-1",
    "AccessionNumber": "PLANTEDACC",
    "StudyDescription": "PLANTED STUDY TEXT",
    "SeriesDescription": "PLANTED SERIES TEXT",
    "InstitutionName": "PLANTED HOSPITAL",
    "ReferringPhysicianName": "PLANTED^DOCTOR",
    "PatientBirthDate": "19330412",
    "StudyDate": "20230917",
    "ImageComments": "PLANTED COMMENT",
    "DeviceSerialNumber": "PLANTED-SERIAL",
}
PRIVATE, FILE_NAME, CONTEXT = "PLANTED PRIVATE", "PLANTED_file^name.dcm", "PLANTED context"
STUDY = "planted study"


def plant(dataset: Dataset, _: int) -> None:
    for keyword, value in PLANTED.items():
        setattr(dataset, keyword, value)
    block = dataset.private_block(0x0099, "PLANTED CREATOR", create=True)
    block.add_new(1, "LO", PRIVATE)
    dataset.WindowCenter, dataset.WindowWidth = "300", "1000"


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    affine = centred_grid(SHAPE, SPACING_ZYX_MM)
    return write_ct_series(
        tmp_path_factory.mktemp("phantom"),
        render([SOFT, BONE], SHAPE, affine),
        affine,
        body_part="PHANTOM",
        study=STUDY,
        shuffle_seed=1,
        edit=plant,
    )


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with cloud_server() as server:
        yield server


@dataclass
class House:
    """A service whose cloud is the stand-in."""

    served: Served
    client: httpx.Client
    folder: Path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, cloud: Cloud) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    with (
        serve(
            folder,
            bundles=ROOT / "tests" / "bundles",
            state_dir=folder / "state",
            api_port=0,
            api_token=TOKEN,
            claude_enabled=True,
            claude_api_key="sk-test",
            claude_base_url=cloud.url,
            claude_usd_per_mtok_in=3.0,
            claude_usd_per_mtok_out=15.0,
        ) as served,
        caller(served, authorization=f"Bearer {TOKEN}") as client,
    ):
        yield House(served, client, folder)
        assert served.end() == 0


@pytest.fixture(autouse=True)
def fresh(cloud: Cloud) -> None:
    cloud.received.clear()
    cloud.status, cloud.body = 200, Cloud().body


def png(text: str = "") -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", text)
    out = io.BytesIO()
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def test_a_series_is_measured_and_every_number_names_its_source(
    house: House, phantom: list[Path], cloud: Cloud
) -> None:
    answer = house.client.post(LOCAL, data={"image_type": "ct"}, files=parts(phantom))

    assert answer.status_code == 200, answer.text
    body = answer.json()
    evidence = {item["kind"]: item for item in body["evidence"]}
    assert set(evidence) == {"SEG", "SR"}
    regions = {region["region"]: region for region in body["regions_of_interest"]}
    for name, ball in (("Soft ball", SOFT), ("Bone ball", BONE)):
        region = regions[name]
        # A ball of 11 mm on this grid has 1.4 % fewer voxel centres than its volume.
        assert region["volume_ml"] == pytest.approx(ball.volume_ml, rel=0.02)
        assert region["center_lps_mm"] == pytest.approx(ball.centre_lps_mm, abs=0.4)
        for axis, step in enumerate(SPACING_ZYX_MM[::-1]):
            low, high = region["box_lps_mm"]["low"][axis], region["box_lps_mm"]["high"][axis]
            assert high - low == pytest.approx(2 * ball.radius_mm, abs=2 * step + 0.01)
        assert region["mean"] == ball.hu
        assert region["concern"] is None and region["severity"] == "NOT_ASSESSED"
        assert region["seg_sop_instance_uid"] == evidence["SEG"]["sop_instance_uid"]
        assert region["sr_sop_instance_uid"] == evidence["SR"]["sop_instance_uid"]
        assert f"{name}: {region['volume_ml']:.1f} mL" in body["findings"]
        assert evidence["SR"]["sop_instance_uid"] in body["findings"]
    assert body["status"] == "analysed" and body["model"] == "hu_threshold 1.0.0"
    assert body["severity"] == "NOT_ASSESSED"
    assert body["confidence"] is None and body["learned_insights"] is None
    assert body["differential_diagnoses"] == []
    assert body["recommendations_are_fixed_text"] is True
    assert (body["api_calls"], body["cost"], body["device"]) == (0, 0.0, "cpu")
    assert body["processing_time_ms"] > 0 and body["timestamp"].endswith("Z")
    assert cloud.received == []


def test_nothing_that_names_anybody_reaches_the_cloud(
    house: House, phantom: list[Path], cloud: Cloud
) -> None:
    answer = house.client.post(
        HYBRID,
        data={"image_type": "ct", "clinical_context": CONTEXT},
        files=parts(phantom, FILE_NAME),
    )

    assert answer.status_code == 200, answer.text
    assert len(cloud.received) == 1
    header = pydicom.dcmread(phantom[0], stop_before_pixels=True)
    uids = [header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID]
    uids += [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in phantom]
    secrets = [*PLANTED.values(), PRIVATE, FILE_NAME, CONTEXT, "PLANTED", "PHANTOM-1", *uids, TOKEN]
    (picture,) = cloud.pictures()
    chunks = png_chunks(picture)
    assert [kind for kind, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    raw = cloud.received[0]
    for place in (
        raw,
        json.dumps(cloud.requests()).encode(),
        picture,
        zlib.decompress(chunks[1][1]),
    ):
        assert [secret for secret in secrets if holds(place, secret)] == []


def png_chunks(picture: bytes) -> list[tuple[bytes, bytes]]:
    """Type and content of every chunk (PNG, section 5.3)."""
    chunks, at = [], 8
    while at < len(picture):
        length = int.from_bytes(picture[at : at + 4], "big")
        chunks.append((picture[at + 4 : at + 8], picture[at + 8 : at + 8 + length]))
        at += length + 12
    return chunks


def holds(place: bytes, secret: str) -> bool:
    """Whether a text stands there: plain, UTF-16, hexadecimal, base64 at any alignment."""
    plain = secret.encode()
    forms = [plain, secret.encode("utf-16-le"), secret.encode("utf-16-be"), plain.hex().encode()]
    for encoded in (plain, secret.encode("utf-16-le")):
        for shift in range(3):
            # Characters that depend on the neighbours are cut off at both ends.
            text = base64.b64encode(bytes(shift) + encoded)
            forms.append(text[4 if shift else 0 : len(text) // 4 * 4 - 4])
    lowered = place.lower()
    return any(form and (form in place or form.lower() in lowered) for form in forms)


def test_the_search_finds_what_is_there() -> None:
    for shift in range(3):
        inside = bytes(shift) + b"PLANTED^NAME and more"
        assert holds(base64.b64encode(inside), "PLANTED^NAME")
    assert holds("PLANTED^NAME".encode("utf-16-le"), "PLANTED^NAME")
    assert holds(b"planted^name", "PLANTED^NAME") and not holds(b"other", "PLANTED^NAME")


def test_the_middle_slice_leaves_as_its_window_shows_it(
    house: House, phantom: list[Path], cloud: Cloud
) -> None:
    house.client.post(HYBRID, data={"image_type": "ct"}, files=parts(phantom))

    (picture,) = cloud.pictures()
    # 72 rows of 0.8 mm and 64 columns of 1.1 mm; drawn with square pixels.
    width, height = Image.open(io.BytesIO(picture)).size
    assert width / height == pytest.approx(64 * 1.1 / (72 * 0.8), rel=0.02)
    shown = np.asarray(Image.open(io.BytesIO(picture)).resize((64, 72), Image.Resampling.NEAREST))
    truth = render([SOFT, BONE], SHAPE, centred_grid(SHAPE, SPACING_ZYX_MM))[SLICES // 2]
    # PS3.3 C.11.2.1.2.1: ((x - (c - 0.5)) / (w - 1) + 0.5) of the range.
    expected = np.clip((truth - 299.5) / 999 + 0.5, 0, 1) * 255
    assert np.mean(np.abs(shown - expected) < 3) > 0.95
    assert shown[expected > 150].size and np.median(shown[expected > 150]) == pytest.approx(
        204, abs=3
    )


def test_hybrid_answers_with_both_and_stores_the_comparison(
    house: House, phantom: list[Path], cloud: Cloud
) -> None:
    store = house.folder / "state" / "comparisons.jsonl"
    before = store.read_text() if store.exists() else ""

    answer = house.client.post(
        HYBRID,
        data={
            "image_type": "ct",
            "clinical_context": "round things",
            "context_is_deidentified": "true",
        },
        files=parts(phantom),
    )

    body = answer.json()
    assert body["local_model"]["status"] == "analysed"
    assert body["claude_vision"] == {**GOOD, "model": "claude-stand-in"}
    assert body["claude_vision_reason"] is None
    assert body["severity_match"] is None and body["confidence_delta"] is None  # one has not judged
    assert body["processing_time_local_ms"] > 0 and body["processing_time_claude_ms"] > 0
    assert body["api_calls"] == 1
    assert body["api_cost"] == pytest.approx((1200 * 3 + 300 * 15) / 1e6)
    assert body["comparison_stored"] is True
    assert "round things" in cloud.requests()[0]["messages"][0]["content"][1]["text"]
    now = store.read_text()
    assert now.startswith(before)
    (line,) = now[len(before) :].splitlines()
    record = json.loads(line)
    assert record["claude"] == GOOD and record["local"] == body["local_model"]
    assert record["usage"] == {"input_tokens": 1200, "output_tokens": 300}
    assert record["sent_sha256"] == hashlib.sha256(cloud.pictures()[0]).hexdigest()
    assert not holds(line.encode(), "PLANTED") and "round things" not in line
    assert stat.S_IMODE(store.stat().st_mode) == 0o600


def test_use_local_only_sends_nothing(house: House, phantom: list[Path], cloud: Cloud) -> None:
    data = {"image_type": "ct", "use_local_only": "true"}
    body = house.client.post(HYBRID, data=data, files=parts(phantom)).json()

    assert cloud.received == []
    assert body["claude_vision"] is None and body["claude_vision_reason"]["code"] == "local_only"
    assert body["local_model"]["status"] == "analysed"
    assert (body["api_calls"], body["api_cost"], body["comparison_stored"]) == (0, 0.0, False)


def test_an_overloaded_cloud_does_not_cost_the_local_answer(
    house: House, phantom: list[Path], cloud: Cloud
) -> None:
    cloud.status, cloud.body = 529, b"{}"
    answer = house.client.post(HYBRID, data={"image_type": "ct"}, files=parts(phantom))

    body = answer.json()
    assert answer.status_code == 200
    assert body["local_model"]["regions_of_interest"]
    assert body["claude_vision"] is None
    assert body["claude_vision_reason"]["code"] == "overloaded"
    assert body["api_cost"] is None and body["comparison_stored"] is True


def test_a_picture_is_sent_only_on_its_senders_word(
    house: House,
    cloud: Cloud,
    medsam_weights: Path,  # noqa: ARG001  (skips without them)
) -> None:
    files = parts([png("PLANTED IN THE PNG")], "PLANTED.png")
    local = house.client.post(LOCAL, data={"image_type": "xray"}, files=files).json()
    # Regions of it are proposed; whatever they are, nothing is said of them.
    assert local["status"] == "analysed" and local["model"].startswith("medsam_lite")
    assert local["findings"].endswith("proposed by a model, nothing assessed.")
    assert local["severity"] == "NOT_ASSESSED" and local["evidence"] == []
    assert local["confidence"] is None and local["learned_insights"] is None
    slice_of_ct = house.client.post(LOCAL, data={"image_type": "ct"}, files=files).json()
    assert slice_of_ct["status"] == "unavailable" and slice_of_ct["regions_of_interest"] == []

    for said in ({}, {"pixels_are_deidentified": "false"}):
        body = house.client.post(HYBRID, data={"image_type": "xray", **said}, files=files).json()
        assert cloud.received == []
        assert body["claude_vision_reason"]["code"] == "pixels_not_stated_deidentified"

    data = {"image_type": "xray", "pixels_are_deidentified": "true"}
    body = house.client.post(HYBRID, data=data, files=files).json()
    assert body["claude_vision"]["findings"] == GOOD["findings"]
    (picture,) = cloud.pictures()
    assert [kind for kind, _ in png_chunks(picture)] == [b"IHDR", b"IDAT", b"IEND"]
    assert not holds(cloud.received[0], "PLANTED")
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(picture))), np.arange(4096, dtype=np.uint8).reshape(64, 64)
    )


def test_a_mismatch_of_modality_is_said_and_nothing_leaves(
    house: House, phantom: list[Path], cloud: Cloud
) -> None:
    for path in (LOCAL, HYBRID):
        answer = house.client.post(path, data={"image_type": "mri"}, files=parts(phantom))
        assert error(answer) == (422, "RL-1409")
        assert "Modality CT" in answer.text
    assert cloud.received == []


def test_uploads_leave_no_trace(house: House, phantom: list[Path]) -> None:
    house.client.post(LOCAL, data={"image_type": "ct"}, files=parts(phantom, FILE_NAME))

    folder = house.folder / "spool" / "api"
    until(lambda: not list(folder.iterdir()), 10)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for line in house.served.lines:
        assert "PLANTED" not in line
    names = [str(path) for path in house.folder.rglob("*")]
    assert not [name for name in names if "PLANTED" in name]


def test_only_one_process_holds_the_models(house: House) -> None:
    house.client.get("/openapi.json")
    house.served.wait_for("worker: ready", LOAD_SECONDS)  # or none would hold them yet
    mapped = [
        any("libtorch" in entry.path for entry in child.memory_maps())
        for child in house.served.children()
    ]
    assert mapped.count(True) == 1
