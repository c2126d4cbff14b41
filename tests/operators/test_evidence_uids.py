"""UIDs are a function of what they name."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from operators.evidence.uids import derive_uid

PARTS = st.lists(st.text(max_size=6), max_size=4)


@given(PARTS, PARTS)
def test_equal_parts_give_equal_uids_and_other_parts_other_ones(
    one: list[str], other: list[str]
) -> None:
    assert (derive_uid(*one) == derive_uid(*other)) == (one == other)


@given(PARTS)
def test_every_uid_is_valid_and_derived_from_a_uuid_of_version_5(parts: list[str]) -> None:
    uid = derive_uid(*parts)

    assert UID(uid).is_valid
    assert uid.startswith("2.25.")
    number = int(uid.removeprefix("2.25."))
    assert number >> 76 & 0xF == 5  # RFC 9562, version field


def test_another_process_derives_the_same_uid() -> None:
    code = "from operators.evidence.uids import derive_uid; print(derive_uid('study', 'ä'))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert printed.stdout.strip() == derive_uid("study", "ä")
