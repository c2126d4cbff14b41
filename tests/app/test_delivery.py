"""Delivery to real peers: delivered means that the peer holds these very bytes."""

from __future__ import annotations

import json
import os
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pydicom
import pytest

from app.delivery import from_settings, keys
from app.delivery.cstore import CStoreDestination
from app.delivery.destination import (
    DeliveryRefusal,
    DestinationRefused,
    DestinationUnreachable,
    ReadBackDiffers,
)
from app.delivery.folder import FolderDestination
from app.delivery.orthanc import OrthancDestination
from app.demo.archive import Archive, running_archive
from app.demo.orthanc import (
    DemoPortTaken,
    Orthanc,
    find_orthanc,
    free_port,
    running_orthanc,
)
from app.settings import SettingsRefusal, load_settings
from operators.evidence.write import write_evidence
from tests.app.instances import STUDY, instance, write
from tests.operators.scene import RECORDED_AT, two_glands

needs_orthanc = pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed")
pytestmark = pytest.mark.orthanc


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc"), overwrite=False) as server:
        yield server


def held(server: Orthanc) -> set[bytes]:
    import json

    with urllib.request.urlopen(f"{server.url}/instances") as answer:
        ids = json.load(answer)
    contents = set()
    for name in ids:
        with urllib.request.urlopen(f"{server.url}/instances/{name}/file") as answer:
            contents.add(answer.read())
    return contents


@needs_orthanc
def test_orthanc_holds_every_byte_and_a_second_delivery_is_harmless(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    study = f"{STUDY}.100"
    files = write(tmp_path, instance(1, study=study), instance(2, study=study))
    destination = OrthancDestination(orthanc.url)

    destination.deliver(files)
    before = held(orthanc)
    destination.deliver(files)

    assert {file.read_bytes() for file in files} <= before == held(orthanc)
    assert "Orthanc" in destination.name
    assert "instances" in destination.self_test()


@needs_orthanc
def test_a_false_already_stored_is_found_out(orthanc: Orthanc, tmp_path: Path) -> None:
    """Orthanc answers 200 for the same UID with other content, and drops it."""
    study = f"{STUDY}.200"
    (old,) = write(tmp_path / "old", instance(1, study=study, comment="old"))
    (new,) = write(tmp_path / "new", instance(1, study=study, comment="newer"))
    destination = OrthancDestination(orthanc.url)
    destination.deliver([old])

    with pytest.raises(ReadBackDiffers, match="OverwriteInstances"):
        destination.deliver([new])


@needs_orthanc
def test_what_orthanc_cannot_read_is_refused_for_good(orthanc: Orthanc, tmp_path: Path) -> None:
    file = tmp_path / "no.dcm"
    file.write_bytes(b"no DICOM")

    with pytest.raises(DestinationRefused, match=rf"{orthanc.url}/instances refused .* HTTP 400"):
        OrthancDestination(orthanc.url).deliver([file])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"cstore_tls_certificate": "a.pem"}, "need each other, and cstore_tls_ca"),
        (
            {"cstore_tls_certificate": "a.pem", "cstore_tls_private_key": "a.key"},
            "need each other, and cstore_tls_ca",
        ),
        ({"cstore_tls_ca": "ca.pem", "cstore_commitment": True}, "the archive calls back"),
        ({"cstore_commitment_ae_title": "SEVENTEEN LETTERS"}, "1 to 16 ASCII"),
        ({"deliver_to_stow": "https://me:geheim@cloud/"}, "holds no user or password"),
        ({"destinations": {"b": {}}}, "destinations.b: has 0 addresses"),
        (
            {"destinations": {"b": {"orthanc_url": "http://a", "deliver_to_folder": "/b"}}},
            "destinations.b: has 2 addresses",
        ),
        ({"destinations": {"stow": {"orthanc_url": "http://a"}}}, "destinations.stow.* and not"),
        ({"destinations": {"b": {"orthnac_url": "http://a"}}}, "did you mean orthanc_url"),
        ({"destinations": {"b": {"stow_password": "geheim"}}}, "has 0 addresses"),
    ],
)
def test_settings_that_can_not_work_together_are_refused(
    words: dict[str, object], says: str
) -> None:
    with pytest.raises(SettingsRefusal, match=says) as caught:
        load_settings(**words)

    assert "geheim" not in str(caught.value)


def test_nobody_there_is_worth_another_try(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for attempt in (
        lambda: OrthancDestination(url).deliver(write(tmp_path, instance(1))),
        OrthancDestination(url).self_test,
        CStoreDestination("GONE", "127.0.0.1", free_port()).self_test,
    ):
        with pytest.raises(DestinationUnreachable, match=r"127\.0\.0\.1"):
            attempt()


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (401, DestinationRefused),
        (403, DestinationRefused),
        (404, DestinationRefused),
        (413, DestinationRefused),
        (429, DestinationUnreachable),
        (500, DestinationUnreachable),
        (503, DestinationUnreachable),
    ],
)
def test_statuses_are_sorted_into_now_and_never(
    status: int, refusal: type[DeliveryRefusal], tmp_path: Path
) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            del words

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        destination = OrthancDestination(url, user="reader", password="geheim")
        with pytest.raises(refusal, match=rf"HTTP .*{status}") as caught:
            destination.deliver(write(tmp_path, instance(1)))
        server.shutdown()

    assert "geheim" not in str(caught.value) + destination.name


def test_a_folder_gets_whole_files(tmp_path: Path) -> None:
    files = write(tmp_path / "abc-v1", instance(1), instance(2))
    destination = FolderDestination(tmp_path / "share")

    destination.deliver(files)
    destination.deliver(files)

    copies = sorted((tmp_path / "share").rglob("*.dcm"))
    assert [copy.relative_to(tmp_path / "share") for copy in copies] == [
        Path("abc-v1/000.dcm"),
        Path("abc-v1/001.dcm"),
    ]
    assert [copy.read_bytes() for copy in copies] == [file.read_bytes() for file in files]
    assert len(list((tmp_path / "share" / "abc-v1").iterdir())) == 2  # no temporary file
    assert destination.self_test() == "writable"


def test_a_folder_that_is_a_file_is_worth_another_try(tmp_path: Path) -> None:
    (tmp_path / "share").write_text("a mount that is not there")

    with pytest.raises(DestinationUnreachable, match="share"):
        FolderDestination(tmp_path / "share").deliver(write(tmp_path / "in", instance(1)))


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with running_archive(tmp_path / "archive") as server:
        yield server


def test_the_archive_takes_and_lists_results(archive: Archive, tmp_path: Path) -> None:
    sent = [instance(1, modality="SEG"), instance(2, modality="SR"), instance(3, study="1.2.3")]
    destination = CStoreDestination(archive.aet, archive.host, archive.port)

    destination.deliver(write(tmp_path / "in", *sent))

    listed = archive.objects(STUDY)
    assert [(item.modality, item.sop_instance_uid) for item in listed] == [
        ("SEG", f"{STUDY}.9.1"),
        ("SR", f"{STUDY}.9.2"),
    ]
    assert pydicom.dcmread(listed[0].path) == sent[0]
    assert len(archive.objects()) == 3
    assert destination.self_test() == "C-ECHO answered 0x0000"


@needs_orthanc
def test_orthanc_takes_c_store_from_us_too(orthanc: Orthanc, tmp_path: Path) -> None:
    study = f"{STUDY}.300"
    files = write(tmp_path, instance(1, study=study))

    CStoreDestination(orthanc.aet, orthanc.host, orthanc.dicom_port).deliver(files)

    uids = {str(pydicom.dcmread(_memory(content)).StudyInstanceUID) for content in held(orthanc)}
    assert study in uids


def _memory(content: bytes) -> object:
    import io

    return io.BytesIO(content)


def test_a_full_archive_is_worth_another_try(archive: Archive, tmp_path: Path) -> None:
    archive.folder.rename(tmp_path / "gone")
    destination = CStoreDestination(archive.aet, archive.host, archive.port)

    with pytest.raises(DestinationUnreachable, match="0xa700"):
        destination.deliver(write(tmp_path / "in", instance(1)))


def test_an_archive_that_does_not_know_the_class_refuses_for_good(
    archive: Archive, tmp_path: Path
) -> None:
    private = instance(1)
    private.SOPClassUID = "1.3.12.2.1107.5.9.1"
    destination = CStoreDestination(archive.aet, archive.host, archive.port)

    with pytest.raises(DestinationRefused, match="no presentation context"):
        destination.deliver(write(tmp_path / "in", private))


def test_settings_name_the_destinations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("RADLOOP_")]:
        monkeypatch.delenv(variable)
    assert from_settings(load_settings()) == []
    settings = load_settings(
        orthanc_url="http://pacs:8042/",
        orthanc_password="geheim",
        deliver_to_folder=tmp_path,
        deliver_to_cstore="ARC@10.0.0.1:104",
        deliver_to_stow="https://cloud/dicom-web/",
        stow_token="geheim",
        state_dir=tmp_path / "state",
    )

    destinations = from_settings(settings)

    assert {destination.key: destination.name for destination in destinations} == {
        "orthanc": "Orthanc http://pacs:8042/",
        "folder": f"folder {tmp_path}",
        "cstore": "C-STORE ARC@10.0.0.1:104",
        "stow": "DICOMweb https://cloud/dicom-web",
    }
    assert keys(settings) == tuple(destination.key for destination in destinations)
    assert not (tmp_path / "state").exists()  # making them changes nothing


def test_several_of_a_kind_have_the_names_that_the_site_gave_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = {
        "research": {"orthanc_url": "http://research:8042"},
        "old_pacs": {"deliver_to_cstore": "OLD@10.0.0.1:104"},
        "new_pacs": {"deliver_to_cstore": "NEW@10.0.0.2:104", "cstore_commitment": True},
    }
    monkeypatch.setenv("RADLOOP_DESTINATIONS", json.dumps(places))
    settings = load_settings(orthanc_url="http://main:8042")

    assert [(destination.key, destination.name) for destination in from_settings(settings)] == [
        ("orthanc", "Orthanc http://main:8042/"),
        ("research", "Orthanc http://research:8042/"),
        ("old_pacs", "C-STORE OLD@10.0.0.1:104"),
        ("new_pacs", "C-STORE NEW@10.0.0.2:104"),
    ]
    assert keys(settings) == ("orthanc", *places)


@needs_orthanc
def test_a_taken_port_is_named(tmp_path: Path, orthanc: Orthanc) -> None:
    port = int(orthanc.url.rpartition(":")[2])
    with (
        pytest.raises(DemoPortTaken, match=f"port {port} "),
        running_orthanc(tmp_path, http_port=port),
    ):
        pass


@needs_orthanc
def test_orthanc_is_gone_after_the_block(tmp_path: Path) -> None:
    import psutil

    with running_orthanc(tmp_path / "private") as server:
        assert psutil.pid_exists(server.pid)

    assert not psutil.pid_exists(server.pid)


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """SEG, SR, key image and PDF of one result."""
    folder = tmp_path_factory.mktemp("kinds")
    report = two_glands(folder / "in")
    written = write_evidence(report, folder / "out", RECORDED_AT, ("key_images", "pdf"))
    assert [item.kind for item in written] == ["SEG", "SR", "KEY_IMAGE", "PDF"]
    return [item.path for item in written]


@needs_orthanc
def test_orthanc_holds_every_kind_byte_for_byte(orthanc: Orthanc, every_kind: list[Path]) -> None:
    OrthancDestination(orthanc.url).deliver(every_kind)

    assert {file.read_bytes() for file in every_kind} <= held(orthanc)


def test_every_kind_goes_over_c_store(tmp_path: Path, every_kind: list[Path]) -> None:
    with running_archive(tmp_path) as archive:
        CStoreDestination(archive.aet, archive.host, archive.port).deliver(every_kind)
        stored = archive.objects()

    assert sorted(item.modality for item in stored) == ["DOC", "OT", "SEG", "SR"]
