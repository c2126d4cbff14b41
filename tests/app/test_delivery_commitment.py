"""Delivered by C-STORE with commitment: only when the archive has said that it keeps it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from app.delivery import cstore
from app.delivery.commitment import Commitments
from app.delivery.cstore import CStoreDestination
from app.delivery.destination import DestinationRefused, DestinationUnreachable, NotYet
from app.delivery.tls import TlsFiles
from app.demo.archive import running_archive
from app.demo.orthanc import free_port
from app.intake.tls import server_context
from tests.app.authority import Authority
from tests.app.committing import ANSWERS, Committing, running_committing
from tests.app.instances import STUDY, instance, write

UIDS = [f"{STUDY}.9.{number}" for number in (1, 2)]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cstore, "SAME_ASSOCIATION_SECONDS", 1.0)
    monkeypatch.setattr(cstore, "COMMIT_SECONDS", 2.0)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write(tmp_path / "in", instance(1), instance(2))


@contextmanager
def commitments(state_dir: Path, port: int, tls: TlsFiles | None = None) -> Iterator[Commitments]:
    asked = Commitments(state_dir, "RADLOOP_SC", port, tls)
    try:
        yield asked
    finally:
        asked.close()


def destination(archive: Committing, asked: Commitments) -> CStoreDestination:
    return CStoreDestination(archive.aet, "127.0.0.1", archive.port, commitments=asked)


@pytest.mark.parametrize("answers", ["same association", "new association"])
def test_committed_on_either_kind_of_association(
    answers: ANSWERS, files: list[Path], tmp_path: Path
) -> None:
    port = free_port()
    with (
        running_committing(answers, report_to=port) as archive,
        commitments(tmp_path, port) as asked,
    ):
        destination(archive, asked).deliver(files)

    assert archive.stored == UIDS
    assert archive.callers == ["RADLOOP_SC"]
    (question,) = archive.questions
    assert [item.ReferencedSOPInstanceUID for item in question.ReferencedSOPSequence] == UIDS
    assert archive.acknowledged == [0x0000]
    assert list((tmp_path / "commitments").iterdir()) == []


def test_without_an_answer_it_is_not_delivered_and_not_sent_again(
    files: list[Path], tmp_path: Path
) -> None:
    port = free_port()
    with (
        running_committing("never", report_to=port) as archive,
        commitments(tmp_path, port) as asked,
    ):
        for _ in range(2):
            with pytest.raises(NotYet, match=rf"RADLOOP_SC at this machine, port {port}"):
                destination(archive, asked).deliver(files)

        assert len(archive.questions) == 1 and archive.stored == UIDS


def test_an_answer_that_comes_late_is_found_after_a_restart(
    files: list[Path], tmp_path: Path
) -> None:
    port = free_port()
    with running_committing("never", report_to=port) as archive:
        with commitments(tmp_path, port) as asked, pytest.raises(NotYet):
            destination(archive, asked).deliver(files)
        with commitments(tmp_path, port) as other_process:
            other_process.listen()
            entity = AE(ae_title=archive.aet)
            entity.add_requested_context(StorageCommitmentPushModel)
            caller = entity.associate("127.0.0.1", port, ae_title="RADLOOP_SC")
            archive.tell(caller, archive.questions[0])
            caller.release()
            assert archive.acknowledged == [0x0000]

            # Its port is taken, but what the other one was told is in the folder.
            with commitments(tmp_path, port) as asked:
                destination(archive, asked).deliver(files)

        assert len(archive.questions) == 1 and archive.stored == UIDS


def test_other_bytes_of_the_same_uids_are_asked_for_anew(tmp_path: Path) -> None:
    port = free_port()
    old = write(tmp_path / "old", instance(1))
    new = write(tmp_path / "new", instance(1, comment="other"))
    with (
        running_committing("never", report_to=port) as archive,
        commitments(tmp_path, port) as asked,
    ):
        for files in (old, new):
            with pytest.raises(NotYet):
                destination(archive, asked).deliver(files)

        assert len(archive.questions) == 2


def test_a_question_that_is_too_old_is_asked_again(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    with (
        running_committing("never", report_to=port) as archive,
        commitments(tmp_path, port) as asked,
    ):
        with pytest.raises(NotYet):
            destination(archive, asked).deliver(files)
        later = time.time() + 601
        monkeypatch.setattr(time, "time", lambda: later)
        archive.answers = "same association"
        destination(archive, asked).deliver(files)

        assert len(archive.questions) == 2


@pytest.mark.parametrize(
    ("changes", "refusal", "says"),
    [
        (
            {"failed": {UIDS[1]: 0x0112}},
            DestinationRefused,
            rf"{UIDS[1]} with .* 0x0112",
        ),
        ({"failed": {UIDS[1]: 0x0213}}, DestinationUnreachable, "0x0213"),
        ({"forgotten": {UIDS[0]}}, DestinationRefused, rf"{UIDS[0]} with no word about it"),
        ({"status": 0x0122}, DestinationRefused, "0x0122"),
        ({"status": 0x0213}, DestinationUnreachable, "0x0213"),
    ],
)
def test_what_is_not_committed_is_not_delivered(
    changes: dict[str, object],
    refusal: type[Exception],
    says: str,
    files: list[Path],
    tmp_path: Path,
) -> None:
    port = free_port()
    with (
        running_committing("same association", report_to=port, **changes) as archive,
        commitments(tmp_path, port) as asked,
        pytest.raises(refusal, match=says),
    ):
        destination(archive, asked).deliver(files)


def test_a_report_about_a_question_that_nobody_asked_is_refused_and_not_kept(
    tmp_path: Path,
) -> None:
    port = free_port()
    report = Dataset()
    report.ReferencedSOPSequence = []
    with commitments(tmp_path, port) as asked:
        asked.listen()
        entity = AE()
        entity.add_requested_context(StorageCommitmentPushModel)
        caller = entity.associate("127.0.0.1", port)
        for transaction in (str(generate_uid()), "../../../etc/passwd", "*"):
            report.add_new("TransactionUID", "LO", transaction)
            status, _ = caller.send_n_event_report(
                report, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            assert status.Status == 0x0110
        caller.release()

    assert list(tmp_path.rglob("*.told")) == []


def test_an_archive_without_commitment_is_told_by_the_self_test(tmp_path: Path) -> None:
    with running_archive(tmp_path / "archive") as archive:
        asked = Commitments(tmp_path, "RADLOOP_SC", free_port())
        plain = CStoreDestination(archive.aet, archive.host, archive.port, commitments=asked)

        with pytest.raises(DestinationRefused, match="set cstore_commitment to false"):
            plain.self_test()


def test_the_self_test_says_that_commitment_is_offered(tmp_path: Path) -> None:
    with running_committing("never") as archive:
        asked = Commitments(tmp_path, "RADLOOP_SC", free_port())

        said = destination(archive, asked).self_test()

    assert said == "C-ECHO answered 0x0000, offers storage commitment"


def test_over_mutual_tls_both_ways(files: list[Path], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    theirs, ours = authority.sign("keeper"), authority.sign("radloop")
    port = free_port()
    tls = TlsFiles(authority.ca, ours.certificate, ours.private_key)
    calls_back = TlsFiles(authority.ca, theirs.certificate, theirs.private_key)
    with (
        running_committing(
            "new association",
            report_to=port,
            tls=calls_back.client_context(),
            server_tls=server_context(theirs.certificate, theirs.private_key, authority.ca),
        ) as archive,
        commitments(tmp_path, port, tls) as asked,
    ):
        CStoreDestination(
            archive.aet, "127.0.0.1", archive.port, tls=tls, commitments=asked
        ).deliver(files)

    assert archive.stored == UIDS and archive.acknowledged == [0x0000]
