"""The listener, as a real process: acknowledged means kept, and nobody delays anybody else."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import Verification

from app.delivery.answers import keep_answers
from app.intake.turned_away import TurnedAway, take
from app.intake.wire import SPARE_CONNECTIONS, SPARE_PER_PEER
from tests.app.conftest import Listener, until
from tests.app.instances import STUDY, encoded, instance, write
from tests.e2e.raw_peer import ASSOCIATE_RJ, RawPeer, associate_rq

STORESCU = Path("/usr/bin/storescu")  # pynetdicom installs another one of that name
needs_dcmtk = pytest.mark.skipif(not STORESCU.exists(), reason="dcmtk is not installed")
NO_NAGLE = {**os.environ, "TCP_NODELAY": "1"}  # Debian's dcmtk waits 45 ms per instance otherwise
Start = Callable[..., Listener]


def associate(port: int, datasets: Sequence[Dataset] = (), *, calling: str = "PACS") -> Association:
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    entity.add_requested_context(Verification)
    for dataset in datasets:
        entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title="ANY")
    keep_answers(association)
    return association


def send(port: int, *datasets: Dataset) -> list[int]:
    association = associate(port, datasets)
    assert association.is_established
    statuses = [association.send_c_store(dataset).Status for dataset in datasets]
    association.release()
    return statuses


def echo(port: int) -> int | None:
    association = associate(port)
    if not association.is_established:
        return None
    status = association.send_c_echo().Status
    association.release()
    return int(status)


def test_the_data_set_is_kept_byte_for_byte(start_listener: Start) -> None:
    listener = start_listener()
    sent = instance(1, comment="odd length")

    assert send(listener.port, sent) == [0x0000]

    (row,) = listener.rows()
    (file,) = listener.files()
    assert file == listener.spool.path(row["name"])
    assert file.read_bytes().endswith(encode(sent, False, True))
    read = pydicom.dcmread(file)
    assert read == sent
    assert read.file_meta.MediaStorageSOPInstanceUID == sent.SOPInstanceUID
    assert row["calling_aet"] == "PACS"
    assert row["size"] == file.stat().st_size


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        JPEG2000Lossless,
        JPEGLSLossless,
        RLELossless,
    ],
)
def test_transfer_syntaxes_are_kept_as_they_come(start_listener: Start, syntax: str) -> None:
    listener = start_listener()
    sent = instance(1)
    if pydicom.uid.UID(syntax).is_encapsulated:
        sent.PixelData = pydicom.encaps.encapsulate([b"\x01\x02\x03\x04" * 99])
        sent["PixelData"].is_undefined_length = True
    sent.file_meta.TransferSyntaxUID = syntax

    assert send(listener.port, sent) == [0x0000]

    (file,) = listener.files()
    read = pydicom.dcmread(file)
    assert read.file_meta.TransferSyntaxUID == syntax == listener.rows()[0]["transfer_syntax_uid"]
    assert read.PixelData == sent.PixelData


def test_private_and_unknown_storage_classes_are_taken(start_listener: Start) -> None:
    listener = start_listener()
    datasets = [instance(1), instance(2)]
    datasets[0].SOPClassUID = "1.3.12.2.1107.5.9.1"  # a vendor's non-image storage
    datasets[1].SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.999"  # not in this year's standard

    assert send(listener.port, *datasets) == [0x0000, 0x0000]
    assert len(listener.files()) == 2


def test_one_uid_with_other_bytes_is_kept_too(start_listener: Start) -> None:
    listener = start_listener()
    sent = [instance(1, comment="a"), instance(1, comment="b"), instance(1, comment="a")]

    assert send(listener.port, *sent) == [0x0000] * 3
    assert len(listener.rows()) == len(listener.files()) == 2


def test_the_reserve_answers_a700_and_keeps_nothing(start_listener: Start) -> None:
    listener = start_listener(min_free_bytes=1 << 60)

    assert send(listener.port, instance(1), instance(2)) == [0xA700, 0xA700]
    assert listener.files() == [] == listener.rows()


def test_a_journal_that_fails_is_no_success(start_listener: Start) -> None:
    listener = start_listener()
    assert send(listener.port, instance(1)) == [0x0000]
    listener.journal.execute("ALTER TABLE instances RENAME TO lost")

    assert send(listener.port, instance(2)) == [0xC003]


def test_a_spool_that_fails_is_no_success(start_listener: Start) -> None:
    listener = start_listener()
    until(lambda: echo(listener.port) == 0)
    listener.spool.incoming.rmdir()
    listener.spool.incoming.write_text("no folder any more")

    assert send(listener.port, instance(1)) == [0xC002]
    assert listener.rows() == []


@pytest.mark.parametrize("uid", ["../../../tmp/evil", "1.2.3/../4", "/etc/passwd", "1.2.a"])
def test_a_uid_that_is_none_is_refused(
    start_listener: Start, monkeypatch: pytest.MonkeyPatch, uid: str
) -> None:
    monkeypatch.setattr(_config, "ENFORCE_UID_CONFORMANCE", False)
    listener = start_listener()
    bad = instance(1)
    bad.SOPInstanceUID = uid

    assert send(listener.port, bad) == [0xC001]
    assert listener.files() == [] == listener.rows()


def test_silent_peers_delay_nobody_and_are_dropped(start_listener: Start) -> None:
    listener = start_listener(max_associations=14)
    assert echo(listener.port) == 0x0000
    silent = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(12)]
    garbage = socket.create_connection(("127.0.0.1", listener.port))
    garbage.sendall(b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n")

    began = time.monotonic()
    assert echo(listener.port) == 0x0000
    assert time.monotonic() - began < 3.0

    for peer in silent:
        peer.settimeout(15.0)
        while peer.recv(1024):  # an abort, then the end
            pass
        peer.close()
    garbage.close()


def test_two_listeners_share_one_port_and_either_may_die(start_listener: Start) -> None:
    listener = start_listener(listeners=2)
    until(lambda: echo(listener.port) == 0)
    first, second = listener.process.pids
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: send(listener.port, instance(n)), range(24)))
    assert answers == [[0x0000]] * 24

    for victim in (first, second):
        os.kill(victim, signal.SIGKILL)
        assert send(listener.port, instance(100 + victim)) == [0x0000]
        said = until(listener.process.poll)
        assert "listener ended by itself" in said
        until(lambda: listener.process.poll() or len(listener.process.pids) == 2)

    assert len(listener.rows()) == 26
    assert not {first, second} & set(listener.process.pids)


@pytest.mark.parametrize("listeners", [1, 2])
@pytest.mark.parametrize(
    "caps",
    [
        {"max_associations": 3, "max_associations_per_peer": 9},
        {"max_associations": 9, "max_associations_per_peer": 3},
    ],
)
def test_a_cap_rejects_for_the_moment(
    start_listener: Start, listeners: int, caps: dict[str, int]
) -> None:
    listener = start_listener(listeners=listeners, **caps)
    until(lambda: echo(listener.port) == 0)
    until(lambda: len(listener.process.pids) == listeners)
    held = [associate(listener.port) for _ in range(3)]
    assert all(association.is_established for association in held)

    refused = associate(listener.port)
    assert refused.is_rejected
    answer = refused.acceptor.primitive
    assert answer is not None
    # Transient, presentation layer, local limit exceeded: PS3.8 9.3.4
    assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)

    held.pop().release()
    until(lambda: echo(listener.port) == 0)
    for association in held:
        association.release()


def test_one_silent_peer_does_not_take_every_connection(start_listener: Start) -> None:
    listener = start_listener(max_associations=2, max_associations_per_peer=2)
    until(lambda: echo(listener.port) == 0)
    share, beyond = 2 + SPARE_PER_PEER, 2 + SPARE_CONNECTIONS
    with ExitStack() as stack:
        for _ in range(beyond):
            stack.enter_context(RawPeer(listener.port))
        last = stack.enter_context(RawPeer(listener.port))
        assert share < beyond
        assert last.socket.recv(1) == b""  # at once, not after the seconds that silence may last

        other = stack.enter_context(RawPeer(listener.port, source="127.0.0.2"))
        other.send(associate_rq(CTImageStorage, [ExplicitVRLittleEndian]))
        assert other.receive()[0] == ASSOCIATE_RJ  # told so, not just closed


@pytest.mark.parametrize(
    ("proposed", "chosen"),
    [
        ([JPEGLSLossless, ExplicitVRLittleEndian], JPEGLSLossless),  # the peer's order stands
        ([ExplicitVRLittleEndian, JPEG2000Lossless], ExplicitVRLittleEndian),
        (["1.2.840.10008.1.2.4.100", JPEG2000Lossless], JPEG2000Lossless),  # no video before it
        (["1.2.3.4", "1.2.840.10008.1.2.4.110", RLELossless], RLELossless),
        (["1.2.3.4"], "1.2.3.4"),  # kept is better than refused
    ],
)
def test_of_several_transfer_syntaxes_the_first_that_we_read_is_taken(
    start_listener: Start, proposed: list[str], chosen: str
) -> None:
    listener = start_listener()
    entity = AE()
    entity.add_requested_context(CTImageStorage, proposed)

    association = entity.associate("127.0.0.1", listener.port)
    (context,) = association.accepted_contexts
    association.release()

    assert context.transfer_syntax == [chosen]


@needs_dcmtk
@pytest.mark.parametrize(
    ("encoder", "proposal", "syntax"),
    [
        (["dcmcjpeg", "+e1"], "-xs", JPEGLosslessSV1),
        (["dcmcjpls"], "-xt", JPEGLSLossless),
        (["dcmcrle"], "-xr", RLELossless),
        (["dcmconv", "+td"], "-xd", DeflatedExplicitVRLittleEndian),
    ],
)
def test_dcmtk_sends_compressed_and_our_decoders_read_it(
    start_listener: Start, tmp_path: Path, encoder: list[str], proposal: str, syntax: str
) -> None:
    listener = start_listener()
    (plain,) = write(tmp_path / "plain", instance(1))
    packed = tmp_path / "packed.dcm"
    subprocess.run([*encoder, plain, packed], check=True, capture_output=True, timeout=60)

    command = [STORESCU, proposal, "127.0.0.1", str(listener.port), packed]
    subprocess.run(command, check=True, capture_output=True, env=NO_NAGLE, timeout=60)

    (file,) = listener.files()
    kept = pydicom.dcmread(file)
    assert kept.file_meta.TransferSyntaxUID == syntax
    assert (kept.pixel_array == instance(1).pixel_array).all()


def test_only_listed_titles_may_send(start_listener: Start) -> None:
    listener = start_listener(allowed_calling_aets=("PACS", "CT 1"))

    assert associate(listener.port, calling="STRANGER").is_rejected
    for title in ("PACS", "CT 1"):
        association = associate(listener.port, calling=title)
        assert association.is_established
        association.release()


@pytest.mark.parametrize(("network", "welcome"), [("127.0.0.0/8", True), ("10.0.0.0/8", False)])
def test_only_listed_addresses_may_connect(
    start_listener: Start, network: str, welcome: bool
) -> None:
    listener = start_listener(allowed_addresses=(network,))

    assert (echo(listener.port) == 0x0000) is welcome


@pytest.mark.parametrize(
    ("rules", "noted"),
    [
        ({"allowed_calling_aets": ("PACS",)}, ("aet", "127.0.0.1", "STRANGER")),
        ({"allowed_addresses": ("10.0.0.0/8",)}, ("address", "127.0.0.1", "")),
        ({"max_associations_per_peer": 0}, ("associations", "127.0.0.1", "")),
    ],
)
def test_who_is_turned_away_is_noted_for_the_audit_trail(
    start_listener: Start, rules: dict[str, Any], noted: tuple[str, str, str]
) -> None:
    listener = start_listener(**rules)
    told: list[TurnedAway] = []

    assert not associate(listener.port, calling="STRANGER").is_established

    def is_told() -> bool:
        take(listener.spool.root, told.extend)
        return bool(told)

    until(is_told)
    assert [(peer.why, peer.address, peer.aet) for peer in told] == [noted]


def kill_while_it_receives(
    listener: Listener, folder: Path, *, after: int
) -> tuple[list[str | Path], int]:
    """kill -9 with `after` of 200 instances in; the sender's command and its count of successes."""
    files = write(folder, *(instance(number) for number in range(200)))
    until(lambda: echo(listener.port) == 0)
    command = [STORESCU, "-v", "127.0.0.1", str(listener.port), *files]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=NO_NAGLE) as sender:
        until(lambda: len(listener.rows()) >= after)
        (pid,) = listener.process.pids
        os.kill(pid, signal.SIGKILL)
        assert sender.stderr is not None
        acknowledged = len(re.findall(r"Received Store Response \(Success\)", sender.stderr.read()))
    return command, acknowledged


@needs_dcmtk
def test_kill_9_of_the_listener_loses_nothing_that_was_acknowledged(
    start_listener: Start, tmp_path: Path
) -> None:
    listener = start_listener()
    command, acknowledged = kill_while_it_receives(listener, tmp_path / "out", after=20)
    assert 0 < acknowledged < 200, "the kill came too early or too late"

    until(lambda: listener.process.poll() is not None)
    until(lambda: listener.process.poll() or listener.process.pids)
    # Nobody was refused meanwhile: the socket is the parent's.
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=NO_NAGLE)

    assert done.returncode == 0, done.stderr[-500:]
    kept = {row["sop_instance_uid"]: row for row in listener.rows()}
    assert set(kept) == {f"{STUDY}.9.{number}" for number in range(200)}
    for row in kept.values():
        pydicom.dcmread(listener.spool.path(row["name"]))


@needs_dcmtk
def test_rows_are_there_for_every_acknowledged_instance_at_the_kill(
    start_listener: Start, tmp_path: Path
) -> None:
    """Without a restart: what the sender was told must already be on disk."""
    listener = start_listener()
    _, acknowledged = kill_while_it_receives(listener, tmp_path / "out", after=15)

    kept = {row["sop_instance_uid"]: row for row in listener.rows()}
    for number in range(acknowledged):  # storescu sends in order
        row = kept[f"{STUDY}.9.{number}"]
        stored = listener.spool.path(row["name"]).read_bytes()
        assert stored.endswith(encode(instance(number), False, True))


def test_the_listener_ends_with_its_parent_and_gives_the_port_back(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from app.intake import journal
from app.intake.listener import ListenerConfig
from app.intake.process import IntakeProcess, bind_patiently
from app.intake.spool import Spool

if __name__ == "__main__":
    root = Path(sys.argv[1])
    journal.prepare(Spool(root).journal_file).close()
    listening = bind_patiently("127.0.0.1", 0)
    process = IntakeProcess(ListenerConfig(root, "RADLOOP", 0, 10, 131072), listening)
    process.poll()
    print(listening.getsockname()[1], flush=True)
    time.sleep(600)
"""
    script = tmp_path / "parent.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, script, tmp_path / "spool"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert until(lambda: echo(port) == 0)
        parent.kill()

    def is_free() -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
            return True

    until(is_free, seconds=5.0)


def test_intake_holds_no_model_code() -> None:
    program = (
        "import sys, app.intake, app.intake.listener, app.intake.process, app.intake.ledger\n"
        "heavy = {'operators', 'torch', 'monai', 'holoscan', 'highdicom', 'app.settings'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def test_encoded_helper_matches_the_explicit_little_endian_default() -> None:
    assert encode(instance(1), False, True) in encoded(instance(1))
    assert instance(1).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
