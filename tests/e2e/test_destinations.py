"""Destinations against real archives: Orthanc with DICOMweb, and dcmtk's storescp over TLS."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pydicom
import pytest

from app.delivery.commitment import Commitments
from app.delivery.cstore import CStoreDestination
from app.delivery.destination import (
    ContentDiffers,
    DestinationRefused,
    DestinationUnreachable,
    NotWithdrawn,
)
from app.delivery.orthanc import OrthancDestination
from app.delivery.rejections import Rejections
from app.delivery.stow import StowDestination
from app.delivery.tls import TlsFiles
from app.demo.orthanc import Orthanc, find_orthanc, free_port, running_orthanc
from tests.app.authority import Authority
from tests.app.conftest import until
from tests.app.instances import STUDY, instance, write
from tests.app.results import Results, write_results

LATER = "20260203040506"
BECAUSE = "superseded by a result of 412 instances"
STORESCP = Path("/usr/bin/storescp")  # by path: pynetdicom puts another one into the environment
needs_orthanc = pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed")


@pytest.fixture(scope="module")
def commitment_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, commitment_port: int) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("orthanc")
    peer = ("RADLOOP_SC", "127.0.0.1", commitment_port)
    with running_orthanc(folder, overwrite=False, modalities={"radloop": peer}) as server:
        if not server.has_dicomweb:
            pytest.skip("Orthanc has no DICOMweb plugin (Debian: orthanc-dicomweb)")
        yield server


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return write_results(tmp_path_factory.mktemp("results"))


def stow(orthanc: Orthanc, state_dir: Path) -> StowDestination:
    return StowDestination(f"{orthanc.url}/dicom-web", Rejections(state_dir))


def held(orthanc: Orthanc, study: str) -> dict[str, bytes]:
    """SOP Instance UID → bytes of what Orthanc holds of a study."""

    def ask(path: str, body: Any = None) -> bytes:
        data = json.dumps(body).encode() if body else None
        with urllib.request.urlopen(f"{orthanc.url}/{path}", data=data) as answer:
            return bytes(answer.read())

    query = {"Level": "Instance", "Query": {"StudyInstanceUID": study}, "Expand": True}
    return {
        entry["MainDicomTags"]["SOPInstanceUID"]: ask(f"instances/{entry['ID']}/file")
        for entry in json.loads(ask("tools/find", query))
    }


@pytest.mark.orthanc
@needs_orthanc
def test_by_stow_every_byte_arrives_and_a_second_delivery_is_harmless(
    orthanc: Orthanc, results: Results
) -> None:
    destination = stow(orthanc, results.state_dir)
    study = str(pydicom.dcmread(results.files[0]).StudyInstanceUID)

    destination.deliver(results.files)
    before = held(orthanc, study)
    destination.deliver(results.files)

    assert set(before) == results.uids()
    assert set(before.values()) == {file.read_bytes() for file in results.files}
    assert held(orthanc, study) == before
    assert destination.self_test() == "answers to QIDO-RS"


@pytest.mark.orthanc
@needs_orthanc
def test_by_stow_a_rejection_stands_beside_what_it_rejects(
    orthanc: Orthanc, results: Results
) -> None:
    destination = stow(orthanc, results.state_dir)
    study = str(pydicom.dcmread(results.files[0]).StudyInstanceUID)
    destination.deliver(results.files)

    destination.withdraw(results.files, BECAUSE, LATER)
    destination.withdraw(results.files, BECAUSE, LATER)

    (rejection,) = set(held(orthanc, study)) - results.uids()
    (path,) = Rejections(results.state_dir).write(results.files, BECAUSE, LATER)
    assert held(orthanc, study)[rejection] == path.read_bytes()


@pytest.mark.orthanc
@needs_orthanc
def test_a_false_success_of_stow_is_found_out(orthanc: Orthanc, tmp_path: Path) -> None:
    """Orthanc keeps the older object of the same UID, and says 200."""
    study = f"{STUDY}.2"
    (old,) = write(tmp_path / "old", instance(1, study=study, comment="old"))
    (new,) = write(tmp_path / "new", instance(1, study=study, comment="newer"))
    destination = stow(orthanc, tmp_path)
    destination.deliver([old])

    with pytest.raises(ContentDiffers, match=r"1 elements differ \(\(0020,4000\)\)"):
        destination.deliver([new])


@pytest.mark.orthanc
@needs_orthanc
def test_a_wrong_root_is_told_from_a_server_that_is_away(orthanc: Orthanc, tmp_path: Path) -> None:
    wrong = StowDestination(f"{orthanc.url}/dicomweb", Rejections(tmp_path))

    with pytest.raises(DestinationRefused, match=r"HTTP 404\. Is deliver_to_stow the root"):
        wrong.self_test()
    with pytest.raises(DestinationRefused, match=r"HTTP 404\. Is deliver_to_stow the root"):
        wrong.deliver(write(tmp_path / "in", instance(1)))


@pytest.mark.orthanc
@needs_orthanc
def test_orthanc_loses_what_is_ours_and_nothing_else(orthanc: Orthanc, tmp_path: Path) -> None:
    study = f"{STUDY}.4"
    ours = write(tmp_path / "ours", instance(1, study=study), instance(2, study=study))
    others = write(tmp_path / "others", instance(3, study=study))
    destination = OrthancDestination(orthanc.url)
    destination.deliver([*ours, *others])

    destination.withdraw(ours, BECAUSE, LATER)
    destination.withdraw(ours, BECAUSE, LATER)

    assert set(held(orthanc, study)) == {f"{study}.9.3"}


@pytest.mark.orthanc
@needs_orthanc
def test_orthanc_keeps_what_has_other_bytes_than_ours(orthanc: Orthanc, tmp_path: Path) -> None:
    study = f"{STUDY}.5"
    (foreign,) = write(tmp_path / "foreign", instance(1, study=study, comment="not ours"))
    ours = write(tmp_path / "ours", instance(1, study=study), instance(2, study=study))
    destination = OrthancDestination(orthanc.url)
    destination.deliver([foreign, ours[1]])

    with pytest.raises(NotWithdrawn, match=r"000\.dcm"):
        destination.withdraw(ours, BECAUSE, LATER)

    assert held(orthanc, study) == {f"{study}.9.1": foreign.read_bytes()}


@pytest.mark.orthanc
@needs_orthanc
def test_orthanc_commits_itself(orthanc: Orthanc, commitment_port: int, tmp_path: Path) -> None:
    study = f"{STUDY}.6"
    files = write(tmp_path / "in", instance(1, study=study), instance(2, study=study))
    with closing(Commitments(tmp_path / "state", "RADLOOP_SC", commitment_port)) as commitments:
        destination = CStoreDestination(
            orthanc.aet, orthanc.host, orthanc.dicom_port, commitments=commitments
        )

        assert destination.self_test() == "C-ECHO answered 0x0000, offers storage commitment"
        destination.deliver(files)

    assert set(held(orthanc, study)) == {f"{study}.9.1", f"{study}.9.2"}


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[tuple[int, Path, Authority]]:
    """dcmtk's receiver, which wants to see a certificate of the authority."""
    if not STORESCP.exists():
        pytest.skip("storescp is not installed (Debian: dcmtk)")
    authority = Authority(tmp_path / "authority")
    theirs, folder, port = authority.sign("pacs"), tmp_path / "received", free_port()
    folder.mkdir()
    process = subprocess.Popen(
        [
            *(STORESCP, "--enable-tls", theirs.private_key, theirs.certificate),
            *("--add-cert-file", authority.ca, "--require-peer-cert"),
            *("--output-directory", folder, str(port)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: _listens(port))
        yield port, folder, authority
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_dcmtk_takes_results_over_mutual_tls(
    storescp: tuple[int, Path, Authority], tmp_path: Path
) -> None:
    port, folder, authority = storescp
    ours = authority.sign("radloop")
    tls = TlsFiles(authority.ca, ours.certificate, ours.private_key)
    sent = instance(1)

    CStoreDestination("PACS", "127.0.0.1", port, tls=tls).deliver(write(tmp_path / "in", sent))

    (received,) = folder.iterdir()
    assert pydicom.dcmread(received) == sent


def test_dcmtk_takes_nothing_without_a_certificate(
    storescp: tuple[int, Path, Authority], tmp_path: Path
) -> None:
    port, folder, authority = storescp
    files = write(tmp_path / "in", instance(1))

    for tls in (None, TlsFiles(authority.ca)):
        with pytest.raises(DestinationUnreachable, match="TLS"):
            CStoreDestination("PACS", "127.0.0.1", port, tls=tls).deliver(files)

    assert list(folder.iterdir()) == []
