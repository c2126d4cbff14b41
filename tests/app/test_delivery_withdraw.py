"""Withdrawing: what is ours goes, what is not stays, and a rejection is in the register first."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pydicom
import pytest

from app.delivery.cstore import CStoreDestination
from app.delivery.destination import DestinationUnreachable, NotOurs, NotWithdrawn
from app.delivery.folder import FolderDestination
from app.delivery.rejections import Rejections
from app.demo.archive import running_archive
from app.register import Register
from tests.app.instances import instance, write
from tests.app.results import Results, write_results

LATER = "20260203040506"
BECAUSE = "superseded by a result of 412 instances"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return write_results(tmp_path_factory.mktemp("results"))


def test_a_folder_loses_the_copies_and_nothing_else(tmp_path: Path) -> None:
    old = write(tmp_path / "abc-v1", instance(1), instance(2))
    new = write(tmp_path / "abc-v2", instance(3))
    share = tmp_path / "share"
    destination = FolderDestination(share)
    destination.deliver(old)
    destination.deliver(new)

    destination.withdraw(old, BECAUSE, LATER)
    destination.withdraw(old, BECAUSE, LATER)

    assert [path.relative_to(share) for path in share.rglob("*")] == [
        Path("abc-v2"),
        Path("abc-v2/000.dcm"),
    ]
    assert all(file.exists() for file in old)


def test_a_copy_that_somebody_changed_stays_and_the_others_go(tmp_path: Path) -> None:
    files = write(tmp_path / "abc-v1", instance(1), instance(2))
    share = tmp_path / "share"
    destination = FolderDestination(share)
    destination.deliver(files)
    (share / "abc-v1" / "000.dcm").write_bytes(b"annotated")

    with pytest.raises(NotWithdrawn, match=r"000\.dcm"):
        destination.withdraw(files, BECAUSE, LATER)

    assert [path.name for path in (share / "abc-v1").iterdir()] == ["000.dcm"]


def test_a_share_that_is_not_mounted_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    files = write(tmp_path / "abc-v1", instance(1))

    with pytest.raises(DestinationUnreachable, match="share"):
        FolderDestination(tmp_path / "share").withdraw(files, BECAUSE, LATER)


def test_a_rejection_is_registered_with_its_bytes_and_written_once(results: Results) -> None:
    rejections = Rejections(results.state_dir)

    (path,) = rejections.write(results.files, BECAUSE, LATER)
    content = path.read_bytes()
    again = rejections.write(results.files, BECAUSE, LATER)

    assert again == [path] and path.read_bytes() == content
    document = pydicom.dcmread(path)
    entry = Register(results.state_dir).find(str(document.SOPInstanceUID))
    assert entry is not None
    assert entry.kind == "KOS"
    assert entry.sha256 == hashlib.sha256(content).hexdigest()
    assert entry.study_instance_uid == document.StudyInstanceUID
    assert entry.recorded_at == LATER
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing unfinished


def test_only_what_the_register_knows_by_its_bytes_is_rejected(
    results: Results, tmp_path: Path
) -> None:
    (foreign,) = write(tmp_path, instance(1))
    changed = tmp_path / "changed.dcm"
    changed.write_bytes(results.files[1].read_bytes() + b"\0\0")

    for file in (foreign, changed):
        with pytest.raises(NotOurs, match="not in the register with these bytes"):
            Rejections(results.state_dir).write([results.files[0], file], BECAUSE, LATER)


def test_an_archive_that_deletes_nothing_gets_one_rejection(
    results: Results, tmp_path: Path
) -> None:
    with running_archive(tmp_path / "archive") as archive:
        destination = CStoreDestination(
            archive.aet,
            archive.host,
            archive.port,
            rejections=Rejections(results.state_dir),
        )
        destination.deliver(results.files)

        destination.withdraw(results.files, BECAUSE, LATER)
        destination.withdraw(results.files, BECAUSE, LATER)
        destination.withdraw([], BECAUSE, LATER)

        held = archive.objects()
    assert [item.modality for item in held] == ["KO", "SEG", "SR"]
    (study,) = pydicom.dcmread(held[0].path).CurrentRequestedProcedureEvidenceSequence
    rejected = {
        item.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert rejected == results.uids()
