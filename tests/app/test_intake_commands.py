"""Command sets against pynetdicom's own reading and writing."""

from __future__ import annotations

import contextlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dsutils import decode, encode
from pynetdicom.pdu import P_DATA_TF

from app.intake.commands import Command, as_pdu, read_command, store_response
from app.intake.peek import UID

uids = st.from_regex(UID, fullmatch=True).filter(lambda uid: len(uid) < 65)
numbers = st.integers(0, 0xFFFF)


def with_length(body: bytes) -> bytes:
    return b"\0\0\0\0\x04\0\0\0" + len(body).to_bytes(4, "little") + body


@given(field=numbers, message_id=numbers, kind=numbers, sop_class=uids, sop_instance=uids)
def test_a_request_is_read_as_pynetdicom_wrote_it(
    field: int, message_id: int, kind: int, sop_class: str, sop_instance: str
) -> None:
    written = Dataset()
    written.AffectedSOPClassUID, written.AffectedSOPInstanceUID = sop_class, sop_instance
    written.CommandField, written.MessageID, written.Priority = field, message_id, 0
    written.CommandDataSetType = kind
    written.MoveOriginatorApplicationEntityTitle = "PACS"
    encoded = encode(written, True, True)
    assert encoded is not None

    found = read_command(with_length(encoded))

    assert found == Command(field, message_id, kind != 0x0101, sop_class, sop_instance)


@given(message_id=numbers, status=numbers, sop_class=uids, sop_instance=uids)
def test_pynetdicom_reads_our_answer(
    message_id: int, status: int, sop_class: str, sop_instance: str
) -> None:
    asked = Command(0x0001, message_id, True, sop_class, sop_instance)

    sent = P_DATA_TF()
    sent.decode(as_pdu(7, store_response(asked, status)))
    (value,) = sent.presentation_data_value_items
    data = value.presentation_data_value
    answer = decode(BytesIO(data[1:]), True, True)

    assert (value.presentation_context_id, data[0]) == (7, 0x03)  # a command, and its last piece
    assert (answer.CommandField, answer.CommandDataSetType) == (0x8001, 0x0101)
    assert (answer.MessageIDBeingRespondedTo, answer.Status) == (message_id, status)
    assert answer.AffectedSOPClassUID == sop_class
    assert answer.AffectedSOPInstanceUID == sop_instance
    assert answer.CommandGroupLength == len(data) - 1 - 12
    optional = {Tag(0x0000, 0x0901), Tag(0x0000, 0x0902)}  # Offending Element, Error Comment
    assert {element.tag for element in answer} == set(C_STORE_RSP().command_set.keys()) - optional


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\0\0\0\1",
        b"\0\0\0\1\xff\xff\xff\xff",
        b"\x08\0\0\1\2\0\0\0\1\0",
        b"\0\0\0\1\4\0\0\0\1\0\0\0\0\0\0\x08\2\0\0\0\0\0",  # a command field of four bytes
        b"\0\0\0\1\2\0\0\0\1\0",  # no word of a data set
    ],
)
def test_what_is_no_command_is_said_to_be_none(encoded: bytes) -> None:
    with pytest.raises(ValueError, match="command"):
        read_command(encoded)


@given(st.binary(max_size=200))
def test_noise_is_read_or_refused(noise: bytes) -> None:
    with contextlib.suppress(ValueError):
        read_command(noise)
