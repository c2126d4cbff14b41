"""The two command sets of a C-STORE, read and written without a data set object.

A command set is implicit VR little endian, whatever the context's transfer syntax (PS3.7 6.3.1).
pydicom reads and writes one in half a millisecond, twice for every image: more
than its bytes cost on their way to the disk.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
NO_DATA_SET = 0x0101
COMMAND_FIELD, MESSAGE_ID, DATA_SET_TYPE = 0x0100, 0x0110, 0x0800
AFFECTED_SOP_CLASS, AFFECTED_SOP_INSTANCE = 0x0002, 0x1000
_HEAD = struct.Struct("<HHL")
_US = struct.Struct("<H")


@dataclass(frozen=True)
class Command:
    """What is asked of us.

    Attributes
    ----------
    field : int
        Command Field (0000,0100).
    message_id : int
        (0000,0110); 0 where there is none.
    has_data_set : bool
        Whether one follows, by (0000,0800).
    sop_class_uid, sop_instance_uid : str
        Affected, as the peer wrote them, padding removed; empty where there is none.
    """

    field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str


def read_command(encoded: bytes | bytearray) -> Command:
    """Read a command set (PS3.7 section 9.3 and annex E).

    Raises
    ------
    ValueError
        It is none: an element beyond the end, out of group 0000 or of another length.
    """
    elements: dict[int, bytes] = {}
    at = 0
    while at < len(encoded):
        try:
            group, element, length = _HEAD.unpack_from(encoded, at)
        except struct.error as error:
            raise ValueError("a command element without its head") from error
        at += _HEAD.size
        if group or at + length > len(encoded):
            raise ValueError("a command element beyond the end or out of its group")
        elements[element] = bytes(encoded[at : at + length])
        at += length
    if COMMAND_FIELD not in elements or DATA_SET_TYPE not in elements:
        raise ValueError("a command without its field or data set type")
    return Command(
        field=_number(elements[COMMAND_FIELD]),
        message_id=_number(elements.get(MESSAGE_ID, b"\0\0")),
        has_data_set=_number(elements[DATA_SET_TYPE]) != NO_DATA_SET,
        sop_class_uid=_uid(elements.get(AFFECTED_SOP_CLASS, b"")),
        sop_instance_uid=_uid(elements.get(AFFECTED_SOP_INSTANCE, b"")),
    )


def store_response(command: Command, status: int) -> bytes:
    """The C-STORE-RSP to a C-STORE-RQ (PS3.7 table 9.3-2), as a command set."""
    return _encode(
        (
            (AFFECTED_SOP_CLASS, _padded(command.sop_class_uid)),
            (COMMAND_FIELD, _US.pack(C_STORE_RSP)),
            (0x0120, _US.pack(command.message_id)),  # Message ID Being Responded To
            (DATA_SET_TYPE, _US.pack(NO_DATA_SET)),
            (0x0900, _US.pack(status)),
            (AFFECTED_SOP_INSTANCE, _padded(command.sop_instance_uid)),
        )
    )


def as_pdu(context_id: int, command: bytes) -> bytes:
    """A whole command set as one P-DATA-TF PDU (PS3.8 9.3.5); of a hundred bytes or two."""
    size = len(command)
    head = struct.pack(">BBLLBB", 0x04, 0, size + 6, size + 2, context_id, 0x03)
    return head + command


def _encode(elements: Sequence[tuple[int, bytes]]) -> bytes:
    body = b"".join(_HEAD.pack(0, element, len(value)) + value for element, value in elements)
    return _HEAD.pack(0, 0, 4) + struct.pack("<L", len(body)) + body


def _number(value: bytes) -> int:
    if len(value) != _US.size:
        raise ValueError("a number of other than two bytes in a command")
    return int(_US.unpack(value)[0])


def _uid(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("ascii", "replace")


def _padded(uid: str) -> bytes:
    encoded = uid.encode("ascii", "replace")
    return encoded + b"\0" * (len(encoded) % 2)
