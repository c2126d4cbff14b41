"""The peek: the right study from any encoding, never a wrong one, in bounded memory."""

from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from app.intake.peek import PREFIXES, UnreadableError, peek
from tests.app.instances import STUDY, encoded, instance

SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]


def stored(folder: Path, content: bytes) -> Path:
    path = folder / "instance.dcm"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_study_is_read_from_every_encoding(tmp_path: Path, syntax: str) -> None:
    found = peek(stored(tmp_path, encoded(instance(7, syntax=syntax))))

    assert found.study_instance_uid == STUDY
    assert found.sop_instance_uid == f"{STUDY}.9.7"
    assert found.transfer_syntax_uid == syntax
    assert not found.ours


@settings(max_examples=150, deadline=None)
@given(data=st.data(), syntax=st.sampled_from(SYNTAXES))
def test_a_cut_file_gives_the_right_study_or_none(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, syntax: str
) -> None:
    content = encoded(instance(syntax=syntax))
    length = data.draw(st.integers(0, len(content)))
    path = stored(tmp_path_factory.getbasetemp(), content[:length])

    try:
        found = peek(path)
    except UnreadableError:
        return

    assert found.study_instance_uid == STUDY


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_file_that_ends_within_the_uid_is_unreadable(tmp_path: Path, syntax: str) -> None:
    content = encoded(instance(syntax=syntax))
    start = content.rindex(STUDY.encode(), 0, content.index(b"\x20\x00\x0e\x00"))
    for length in range(1, len(STUDY)):
        with pytest.raises(UnreadableError):
            peek(stored(tmp_path, content[: start + length]))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("short_by", [0, 1, 8, 20, 40, 80])
def test_a_uid_that_straddles_the_first_prefix_is_read_whole(
    tmp_path: Path, syntax: str, short_by: int
) -> None:
    dataset = instance(syntax=syntax)
    block = dataset.private_block(0x0019, "RADLOOP TEST", create=True)
    block.add_new(0x01, "OB", bytes(PREFIXES[0] - 300))
    block.add_new(0x02, "OB", bytes(250 - 2 * short_by))

    assert peek(stored(tmp_path, encoded(dataset))).study_instance_uid == STUDY


def test_a_sequence_before_the_uid_is_stepped_over(tmp_path: Path) -> None:
    dataset, item = instance(), Dataset()
    item.StudyInstanceUID = "9.9.9"
    item.ReferencedSOPInstanceUID = "1." * 30 + "1"
    dataset.ReferencedStudySequence = [item] * 2000

    assert peek(stored(tmp_path, encoded(dataset))).study_instance_uid == STUDY


@pytest.mark.parametrize(
    ("manufacturer", "modality", "ours"),
    [
        ("radloop", "SEG", True),
        ("radloop", "RTSTRUCT", True),
        ("radloop", "SR", True),
        ("radloop", "OT", True),  # key images
        ("radloop", "DOC", True),  # PDF
        ("radloop", "CT", False),
        ("ACME", "OT", False),
        ("ACME", "DOC", False),
        ("ACME", "SEG", False),
        ("radloop tests", "SR", False),
    ],
)
def test_only_our_own_results_are_ours(
    tmp_path: Path, manufacturer: str, modality: str, ours: bool
) -> None:
    dataset = instance(manufacturer=manufacturer, modality=modality)

    assert peek(stored(tmp_path, encoded(dataset))).ours is ours


def test_a_deflate_bomb_costs_no_more_than_the_prefix(tmp_path: Path) -> None:
    start = encoded(instance(syntax=DeflatedExplicitVRLittleEndian))
    meta_end = 144 + int.from_bytes(start[140:144], "little")
    deflater = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    # (0008,0005) OB of 150 MB of zeros, before the UID
    bomb = deflater.compress(b"\x08\x00\x05\x00OB\0\0" + (150 << 20).to_bytes(4, "little"))
    for _ in range(150):
        bomb += deflater.compress(bytes(1 << 20))
    path = stored(tmp_path, start[:meta_end] + bomb + deflater.flush())

    tracemalloc.start()
    with pytest.raises(UnreadableError):
        peek(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 4 * PREFIXES[-1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(132),
        bytes(128) + b"DICM",
        encoded(instance())[:200],
        bytes(128) + b"DICM" + b"\x08\x00\x05\x00UN\0\0\xff\xff\xff\xff",
        b"\xff" * 5000,
    ],
    ids=["empty", "zeros", "preamble only", "cut meta", "4 GB", "garbage"],
)
def test_what_is_no_dicom_is_said_to_be_unreadable(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UnreadableError):
        peek(stored(tmp_path, content))


def test_a_study_uid_that_is_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="not a UID"):
        peek(stored(tmp_path, encoded(instance(study="../../etc"))))
