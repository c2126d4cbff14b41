"""What stands before a data set in the spool, as pynetdicom writes it; what a flood can't do."""

from __future__ import annotations

import logging
import queue
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID
from pynetdicom.dsutils import create_file_meta, encode_file_meta
from pynetdicom.sop_class import Verification

from app.intake.peek import UID as UID_FORM
from app.intake.reception import Reception, file_head
from app.intake.wire import BoundedSocket
from tests.e2e.raw_peer import COMMAND, LAST, pdv, store_command

uids = st.from_regex(UID_FORM, fullmatch=True).filter(lambda uid: len(uid) < 65)


@given(sop_class=uids, sop_instance=uids, transfer_syntax=uids)
def test_the_head_is_what_pynetdicom_writes(
    sop_class: str, sop_instance: str, transfer_syntax: str
) -> None:
    meta = create_file_meta(
        sop_class_uid=UID(sop_class),
        sop_instance_uid=UID(sop_instance),
        transfer_syntax=UID(transfer_syntax),
    )

    head = file_head(sop_class, sop_instance, transfer_syntax)

    assert head == bytes(128) + b"DICM" + encode_file_meta(meta)


@pytest.fixture
def flooded() -> Any:
    """As much of an association as these tests need; it agreed on verification only."""
    dul = SimpleNamespace(event_queue=queue.Queue(), _kill_thread=False)
    context = SimpleNamespace(abstract_syntax=Verification)
    return SimpleNamespace(dul=dul, _sent_abort=False, _accepted_cx={1: context})


def test_a_flood_of_refusals_is_one_line_of_log(
    flooded: Any, caplog: pytest.LogCaptureFixture
) -> None:
    reception = Reception(flooded, None, None, 100)  # type: ignore[arg-type]
    with memoryview(store_command("1.2")) as command, caplog.at_level(logging.ERROR):
        for _ in range(3):
            reception.take(1, COMMAND | LAST, command)
            assert reception.take(1, LAST, memoryview(b"data")) is not None

    assert [record.getMessage() for record in caplog.records] == ["event=refused status=0x0122"]


def test_what_follows_the_end_of_an_association_is_not_dealt_with(flooded: Any) -> None:
    taken = []

    def take(context_id: int, *_: object) -> None:
        taken.append(context_id)
        flooded.dul.event_queue.put("Evt17")

    with socket.socketpair()[0] as ours:
        bounded = BoundedSocket(flooded, ours)
        flooded.dul.event_queue.get_nowait()  # "connected"
        bounded.reception = SimpleNamespace(take=take)  # type: ignore[assignment]
        bounded._take_values(memoryview(1000 * pdv(store_command("1.2"), COMMAND | LAST)))
        bounded.forget_wakes()
        bounded.wake()  # its descriptor may be another's by now

    assert taken == [1]
