"""What stands in front of a data set in the spool, against pynetdicom's own writing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID
from pynetdicom.dsutils import create_file_meta, encode_file_meta

from app.intake.peek import UID as UID_FORM
from app.intake.reception import file_head

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
