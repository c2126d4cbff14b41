"""What is remembered of contexts reads and writes as pynetdicom itself does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom import pdu, pdu_items
from pynetdicom.presentation import PresentationContext, build_context

from app.intake import negotiation
from app.intake.peek import UID as UID_FORM
from tests.e2e.raw_peer import associate_rq

uids = st.from_regex(UID_FORM, fullmatch=True).filter(lambda uid: len(uid) < 65)
PDU_HEAD_AND_FIXED_BYTES = 74  # of an A-ASSOCIATE-RQ, PS3.8 9.3.2


@given(
    context_id=st.integers(0, 127).map(lambda number: 2 * number + 1),
    result=st.integers(0, 4),
    transfer_syntax=uids,
)
def test_an_answered_context_is_written_as_pynetdicom_writes_it(
    context_id: int, result: int, transfer_syntax: str
) -> None:
    context = PresentationContext()
    context.context_id, context.result = context_id, result
    context.transfer_syntax = [transfer_syntax]
    item = pdu_items.PresentationContextItemAC()
    item.from_primitive(context)

    written = negotiation._write_context(item)

    assert written == pdu_items.PDUItem.encode(item)


@given(abstract_syntax=uids, transfer_syntaxes=st.lists(uids, min_size=1, max_size=20, unique=True))
def test_a_request_is_read_as_pynetdicom_reads_it(
    abstract_syntax: str, transfer_syntaxes: list[str]
) -> None:
    encoded = associate_rq(abstract_syntax, transfer_syntaxes)[PDU_HEAD_AND_FIXED_BYTES:]
    request = pdu.A_ASSOCIATE_RQ()

    for _ in range(2):  # the second time it is remembered
        assert negotiation._read_items(request, encoded) == pdu.PDU._wrap_generate_items(
            request, encoded
        )


def test_what_is_remembered_is_bounded_and_not_changed_by_a_negotiation() -> None:
    negotiation._proposed.cache_clear()
    short = associate_rq("1.2.3", ["1.2.840.10008.1.2"])
    long = associate_rq("1.2.3", [f"1.2.840.10008.1.2.{number}" for number in range(40)])
    request = pdu.A_ASSOCIATE_RQ()
    for rq in (short, short, long, long):
        (context,) = (
            item.to_primitive()
            for item in negotiation._read_items(request, rq[PDU_HEAD_AND_FIXED_BYTES:])
            if isinstance(item, pdu_items.PresentationContextItemRQ)
        )
        context.abstract_syntax = "1.2.4"
        context.transfer_syntax = ["1.2.5"]

    (again, *_) = (
        item
        for item in negotiation._read_items(request, short[PDU_HEAD_AND_FIXED_BYTES:])
        if isinstance(item, pdu_items.PresentationContextItemRQ)
    )
    assert (again.abstract_syntax, again.transfer_syntax) == ("1.2.3", ["1.2.840.10008.1.2"])
    assert negotiation._proposed.cache_info().currsize == 1


@pytest.mark.parametrize("abstract_syntax", ["1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.2"])
def test_verification_and_storage_are_offered(abstract_syntax: str) -> None:
    assert negotiation.is_offered(build_context(abstract_syntax).abstract_syntax)
