"""Bad input at the port: a clean answer to each, a listener that lives, memory within a bound.

The listener is a real process with a real journal, and the ledger groups what it
took, as the service does. The bound is on the highest resident memory that the
kernel has seen of the process.
"""

from __future__ import annotations

import random
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    TwelveLeadECGWaveformStorage,
)
from pynetdicom.dsutils import encode

from app.intake.ledger import Ledger, State
from tests.app.conftest import Listener, listening, until
from tests.app.instances import instance
from tests.app.test_intake_listener import echo
from tests.e2e.raw_peer import (
    ABORT,
    ASSOCIATE_RQ,
    COMMAND,
    DATA,
    LAST,
    P_DATA,
    RawPeer,
    associate_rq,
    pdu,
    pdv,
    store_command,
)

MAX_INSTANCE = 96 << 20
BOUND = 64 << 20  # that a whole corpus may add, bytes
MIB = 1 << 20


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    folder = tmp_path_factory.mktemp("hostile")
    with listening(folder, max_instance_bytes=MAX_INSTANCE, max_associations=40) as found:
        assert until(lambda: echo(found.port) == 0)
        yield found


@pytest.fixture(autouse=True)
def lives(listener: Listener) -> Iterator[None]:
    """Around each test: the same process, still answering, not much bigger."""
    (pid,) = listener.process.pids
    before = psutil.Process(pid).memory_info().rss
    yield
    assert listener.process.poll() is None
    assert listener.process.pids == [pid]
    assert echo(listener.port) == 0
    assert peak(pid) - before < BOUND
    assert until(lambda: not list(listener.spool.incoming.iterdir())) is True


def peak(pid: int) -> int:
    """Highest resident memory ever, bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def body(number: int = 1, **changes: str) -> bytes:
    dataset = instance(number)
    for name, value in changes.items():
        setattr(dataset, name, value)
    encoded = encode(dataset, False, True)
    assert encoded is not None
    return encoded


def grouped(listener: Listener) -> dict[str, str]:
    """What the ledger says of the instances that came since it was last asked: reasons."""
    ledger = Ledger(listener.journal, listener.spool)
    changes = []
    while more := ledger.group():
        changes += more
    reasons = [study.reason for study in changes if study.reason]
    return {reason.split()[2]: reason for reason in reasons}


HUGE_LENGTH = b"\x08\x00\x18\x00OB\0\0" + struct.pack("<L", 0xFFFFFFF0) + b"1.2.3"
QUARANTINED = {
    "1.9.1": body()[: len(body()) // 2][:40],  # truncated, before its study is named
    "1.9.2": b"\0" * 128 + b"DICM",  # preamble only
    "1.9.3": HUGE_LENGTH,  # an element of 4 GB
    "1.9.4": body(StudyInstanceUID="../../../../etc/passwd"),
    "1.9.5": random.Random(5).randbytes(5000),
}


def test_what_is_no_image_is_kept_and_set_aside_with_its_reason(listener: Listener) -> None:
    with RawPeer(listener.port) as peer:
        assert peer.associate() == 0
        statuses = {uid: peer.store(uid, dataset) for uid, dataset in QUARANTINED.items()}

    assert set(statuses.values()) == {0x0000}
    reasons = grouped(listener)
    assert set(reasons) == set(QUARANTINED)
    assert all(reason.startswith("RL-0702") for reason in reasons.values())
    assert not any("etc" in reason for reason in reasons.values())


def test_an_instance_cut_in_its_pixels_is_kept_with_its_study(listener: Listener) -> None:
    with RawPeer(listener.port) as peer:
        peer.associate()
        assert peer.store("1.9.7", body(StudyInstanceUID="1.2.7")[:-500]) == 0x0000

    assert grouped(listener) == {}
    study = Ledger(listener.journal, listener.spool).latest("1.2.7")
    assert study is not None and study.state is State.RECEIVING


def test_no_byte_and_no_uid_are_refused_and_leave_nothing(listener: Listener) -> None:
    rows, files = listener.rows(), listener.files()
    with RawPeer(listener.port) as peer:
        peer.associate()
        assert peer.store("1.9.8", b"") == 0xC005
        for uid in ("../../../tmp/evil", "/etc/passwd", "1.2.a", "1.2\0.3", "1" * 64 + ".2"):
            assert peer.store(uid, body()) in (0xC001, None), uid
            if len(uid) > 64:
                break  # pynetdicom ends an association for this one
        with RawPeer(listener.port) as other:
            other.associate()
            assert other.store("1.9.8", body(), sop_class_uid="../x") == 0xC001

    assert (listener.rows(), listener.files()) == (rows, files)


@pytest.mark.parametrize(
    "sop_class",
    [BasicTextSRStorage, EncapsulatedPDFStorage, TwelveLeadECGWaveformStorage, "1.3.12.2.1107.9"],
)
def test_storage_of_other_things_than_images_is_taken(listener: Listener, sop_class: str) -> None:
    with RawPeer(listener.port) as peer:
        assert peer.associate(sop_class) == 0
        assert peer.store("1.9.9", body(), sop_class_uid=sop_class) == 0x0000


@pytest.mark.parametrize(
    "sop_class",
    [
        "1.2.840.10008.5.1.4.1.2.2.1",  # Study Root Query
        "1.2.840.10008.5.1.4.1.2.2.2",  # Study Root Move
        "1.2.840.10008.5.1.1.9",  # Basic Grayscale Print
        "1.2.840.10008.5.1.4.31",  # Modality Worklist
        "1.2.840.10008.1.20.1",  # Storage Commitment
        "1.2.840.10008.5.1.4.34.6.1",  # Unified Procedure Step
    ],
)
def test_other_services_are_not_offered(listener: Listener, sop_class: str) -> None:
    with RawPeer(listener.port) as peer:
        assert peer.associate(sop_class) == 3  # abstract syntax not supported
        assert peer.store("1.9.9", body(), sop_class_uid=sop_class) is None


def test_an_instance_is_not_taken_where_verification_was_agreed_on(listener: Listener) -> None:
    rows = listener.rows()
    with RawPeer(listener.port) as peer:
        assert peer.associate("1.2.840.10008.1.1") == 0
        assert peer.store("1.9.20", body()) == 0x0122  # SOP class not supported

    assert listener.rows() == rows


def test_a_deflate_bomb_is_kept_small(listener: Listener) -> None:
    squeeze = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = b"\x08\x00\x05\x00UN\0\0" + struct.pack("<L", 512 * MIB)
    bomb = squeeze.compress(head)
    bomb += b"".join(squeeze.compress(bytes(MIB)) for _ in range(512)) + squeeze.flush()
    before = psutil.Process().memory_info().rss

    with RawPeer(listener.port) as peer:
        assert peer.associate(syntaxes=[DeflatedExplicitVRLittleEndian]) == 0
        assert peer.store("1.9.10", bomb) == 0x0000

    assert "1.9.10" in grouped(listener)
    assert psutil.Process().memory_info().rss - before < BOUND


def test_a_large_instance_costs_disk_and_no_memory(listener: Listener) -> None:
    with RawPeer(listener.port) as peer:
        peer.associate()
        assert peer.store("1.9.11", bytes(MAX_INSTANCE)) == 0x0000
        assert peer.store("1.9.12", bytes(MAX_INSTANCE + 1)) == 0xC004
        assert peer.store("1.9.13", body()) == 0x0000  # and the association goes on

    kept = {row["sop_instance_uid"] for row in listener.rows()}
    assert {"1.9.11", "1.9.13"} <= kept and "1.9.12" not in kept


def test_messages_that_are_not_waited_for_wait_in_the_network(listener: Listener) -> None:
    """150 x 0.9 MB without reading an answer, and a journal that is slow: TCP slows the peer."""

    def send(peer: RawPeer) -> None:
        for number in range(150):
            peer.send_store(f"1.9.14.{number}", bytes(900_000))  # small enough for memory

    with RawPeer(listener.port) as peer, ThreadPoolExecutor(1) as pool:
        peer.associate()
        listener.journal.execute("BEGIN IMMEDIATE")
        sending = pool.submit(send, peer)
        time.sleep(3.0)  # long enough for all, if anybody took them
        listener.journal.execute("ROLLBACK")
        statuses = [peer.status() for _ in range(150)]
        sending.result()
    assert statuses == [0x0000] * 150


def test_an_instance_that_breaks_off_leaves_nothing(listener: Listener) -> None:
    rows = listener.rows()
    for tail in (b"", pdu(ABORT, bytes(4)), pdu(P_DATA, b"", 5000)):
        with RawPeer(listener.port) as peer:
            peer.associate()
            peer.send(pdu(P_DATA, pdv(store_command("1.9.15"), COMMAND | LAST)))
            for _ in range(40):
                peer.send(pdu(P_DATA, pdv(bytes(100_000), DATA)))
            until(lambda: list(listener.spool.incoming.iterdir()))
            peer.send(tail)
        until(lambda: not list(listener.spool.incoming.iterdir()))

    assert listener.rows() == rows


def test_half_open_sockets_are_dropped_and_delay_nobody(listener: Listener) -> None:
    begun = associate_rq(CTImageStorage, [ExplicitVRLittleEndian])
    peers = [RawPeer(listener.port) for _ in range(20)]
    for number, peer in enumerate(peers):
        peer.send(begun[: number * 5])

    assert echo(listener.port) == 0

    for peer in peers:
        peer.socket.settimeout(15)  # not the 30 s that a PDU may take once they are let in
        while peer.receive()[0]:  # an abort at most, then the end
            pass
        peer.socket.close()


NO_SYNTAX = associate_rq(CTImageStorage, [])
TWO_COMMANDS = 2 * pdu(P_DATA, pdv(store_command("1.9.16"), COMMAND | LAST))
GARBAGE = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n",
    "TLS to a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(508),
    "unknown type": pdu(0x55, b"x" * 100),
    "association of 4 GB": pdu(ASSOCIATE_RQ, b"x" * 100, 0xFFFFFFFF),
    "data before an association": pdu(P_DATA, pdv(body(), DATA | LAST)),
    "association without content": pdu(ASSOCIATE_RQ, b""),
    "association of noise": pdu(ASSOCIATE_RQ, random.Random(1).randbytes(4000)),
    "item beyond the end": pdu(ASSOCIATE_RQ, NO_SYNTAX[6:] + b"\x20\0\xff\xffxx"),
}


@pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE)
def test_garbage_instead_of_an_association_ends_the_connection(
    listener: Listener, sent: bytes
) -> None:
    with RawPeer(listener.port) as peer:
        peer.send(sent)
        assert peer.receive()[0] in (0, 3, ABORT)


def test_a_context_without_transfer_syntax_is_not_accepted(listener: Listener) -> None:
    with RawPeer(listener.port) as peer:
        peer.send(NO_SYNTAX)
        peer.receive()
        assert peer.store("1.9.17", body()) is None


GARBAGE_INSIDE = {
    "PDU of 4 GB": pdu(P_DATA, b"x" * 100, 0xFFFFFFFF),
    "PDV beyond its PDU": pdu(P_DATA, struct.pack(">LBB", 0xFFFFFFF0, 1, LAST)),
    "PDV without content": pdu(P_DATA, struct.pack(">LB", 1, 1)),
    "command of noise": pdu(P_DATA, pdv(random.Random(2).randbytes(300), COMMAND | LAST)),
    "command without end": pdu(P_DATA, pdv(bytes(100_000), COMMAND)) * 30,
    "data before its command": pdu(P_DATA, pdv(body(), DATA | LAST)),
    "two commands in one message": TWO_COMMANDS,
    "context that was not proposed": pdu(P_DATA, pdv(store_command("1.9.18"), COMMAND | LAST, 77))
    + pdu(P_DATA, pdv(body(), DATA | LAST, 77)),
    "unknown type": pdu(0x42, b"x" * 100),
    "second association": associate_rq(CTImageStorage, [ImplicitVRLittleEndian]),
}


@pytest.mark.parametrize("sent", GARBAGE_INSIDE.values(), ids=GARBAGE_INSIDE)
def test_garbage_in_an_association_ends_it(listener: Listener, sent: bytes) -> None:
    rows = listener.rows()
    with RawPeer(listener.port) as peer:
        assert peer.associate() == 0
        peer.send(sent)
        assert peer.receive()[0] in (0, ABORT)

    assert listener.rows() == rows


def test_noise_of_any_kind_ends_in_nothing_worse(listener: Listener) -> None:
    """200 seeded mutations of a whole conversation; the seed is in the source."""
    noise = random.Random(20)
    conversation = pdu(P_DATA, pdv(store_command("1.9.19"), COMMAND | LAST))
    conversation += pdu(P_DATA, pdv(body()[:2000], DATA | LAST))
    for _ in range(200):
        mutant = bytearray(conversation)
        for _ in range(noise.randint(1, 8)):
            mutant[noise.randrange(len(mutant))] = noise.randrange(256)
        with RawPeer(listener.port) as peer:
            assert peer.associate() == 0
            peer.send(bytes(mutant[: noise.randint(1, len(mutant))]))
