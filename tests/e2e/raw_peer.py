"""A peer that sends what it likes: PDUs and messages byte by byte (PS3.8 9.3, PS3.7 E)."""

from __future__ import annotations

import socket
import struct
from io import BytesIO
from types import TracebackType

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom.dsutils import decode, encode

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, ABORT = 1, 2, 3, 4, 7
COMMAND, DATA, LAST = 1, 0, 2  # message control header bits
FRAGMENT = 100_000


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """A PDU; `length` is the announced one where it lies."""
    return struct.pack(">BBL", kind, 0, len(body) if length is None else length) + body


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def pdv(data: bytes, header: int, context_id: int = 1) -> bytes:
    return struct.pack(">LBB", len(data) + 2, context_id, header) + data


def associate_rq(abstract: str, syntaxes: list[str]) -> bytes:
    context = bytes([1, 0, 0, 0]) + item(0x30, abstract.encode())
    context += b"".join(item(0x40, syntax.encode()) for syntax in syntaxes)
    user = item(0x51, struct.pack(">L", 131072)) + item(0x52, b"1.2.3")
    body = struct.pack(">HH16s16s32x", 1, 0, b"ANY".ljust(16), b"HOSTILE".ljust(16))
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
    return pdu(ASSOCIATE_RQ, body)


def store_command(sop_instance_uid: str, sop_class_uid: str = CTImageStorage) -> bytes:
    command = Dataset()
    command.AffectedSOPClassUID = sop_class_uid
    command.CommandField, command.MessageID, command.Priority = 0x0001, 1, 0
    command.CommandDataSetType = 0x0001
    command.AffectedSOPInstanceUID = sop_instance_uid
    body = encode(command, True, True)
    assert body is not None
    return b"\0\0\0\0\x04\0\0\0" + struct.pack("<L", len(body)) + body


class RawPeer:
    """One TCP connection."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        address = ("127.0.0.1", port)
        self.socket = socket.create_connection(address, timeout=60, source_address=(source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def associate(
        self, abstract: str = CTImageStorage, syntaxes: list[str] | None = None
    ) -> int | None:
        """The result of the one presentation context (PS3.8 9.3.3.2); None where rejected."""
        self.send(associate_rq(abstract, syntaxes or [ExplicitVRLittleEndian]))
        kind, body = self.receive()
        if kind != ASSOCIATE_AC:
            return None
        at = 68
        while body[at] != 0x21:
            at += 4 + struct.unpack(">H", body[at + 2 : at + 4])[0]
        return body[at + 6]

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_store(self, sop_instance_uid: str, dataset: bytes, **command: str) -> None:
        """A whole C-STORE-RQ, in fragments that fit."""
        self.send(pdu(P_DATA, pdv(store_command(sop_instance_uid, **command), COMMAND | LAST)))
        for at in range(0, max(len(dataset), 1), FRAGMENT):
            part = dataset[at : at + FRAGMENT]
            last = LAST if at + FRAGMENT >= len(dataset) else 0
            self.send(pdu(P_DATA, pdv(part, DATA | last)))

    def store(self, sop_instance_uid: str, dataset: bytes, **command: str) -> int | None:
        """Send an instance; the status, or None where the association ended instead."""
        self.send_store(sop_instance_uid, dataset, **command)
        return self.status()

    def status(self) -> int | None:
        kind, body = self.receive()
        return int(decode(BytesIO(body[6:]), True, True).Status) if kind == P_DATA else None

    def receive(self) -> tuple[int, bytes]:
        """The next PDU; (0, b"") where the connection ends."""
        try:
            head = self._exactly(6)
            return head[0], self._exactly(struct.unpack(">L", head[2:])[0])
        except (ConnectionError, EOFError):
            return 0, b""

    def _exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            more = self.socket.recv(count - len(found))
            if not more:
                raise EOFError
            found += more
        return found
