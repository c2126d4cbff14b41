"""Bytes that were made to break a reader: bounded time and memory, a name for each, no crash."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import RLELossless

from operators.errors import FileRefusal, VolumeRefusal
from operators.study.layout import open_layout
from operators.study.read import Drop, read_drop
from operators.study.refusals import HeaderTooLarge, NestedTooDeep, TruncatedFile, Unparsable
from operators.study.walk import SEQUENCE_LIMIT_DEPTH, walk
from operators.volume.build import build_volumes
from tests.series import Ball, centred_grid, render, write_ct_series

SHAPE = (2, 8, 6)
AFFINE = centred_grid(SHAPE, (2.5, 0.8, 1.1))


@cache
def sound_file() -> bytes:
    """Bytes of one slice with a sequence and a private element in it."""

    def rich(dataset, _):
        item = dataset.__class__()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", "x"
        dataset.ProcedureCodeSequence = [item]
        dataset["ProcedureCodeSequence"].is_undefined_length = True
        dataset.private_block(0x0029, "MAKER", create=True).add_new(0x10, "OB", b"\1\2\3\4")

    with TemporaryDirectory() as folder:
        array = render([Ball((0.0, 0.0, 0.0), 2.0, 100)], SHAPE, AFFINE)
        return write_ct_series(Path(folder), array, AFFINE, edit=rich)[0].read_bytes()


def drop_of(*files: bytes) -> Drop:
    with TemporaryDirectory() as folder:
        for number, content in enumerate(files):
            (Path(folder) / f"{number}").write_bytes(content)
        drop = read_drop(Path(folder))
        for series in (series for study in drop.studies for series in study.series):
            try:
                build_volumes(series)
            except VolumeRefusal as refusal:
                assert refusal.reason.startswith("RL-03")
        return drop


def test_the_sound_file_is_read():
    drop = drop_of(sound_file())

    assert drop.refused == ()
    assert len(drop.studies) == 1


def test_a_file_cut_anywhere_is_refused():
    whole = sound_file()

    for length in range(0, len(whole), 7):
        drop = drop_of(whole[:length])
        assert len(drop.refused) == 1, length
        assert drop.studies == ()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_changed_bytes_are_read_or_refused_and_never_crash(data):
    changed = bytearray(sound_file())
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(128, len(changed) - 1))
        changed[position] = data.draw(st.integers(0, 255))

    drop = drop_of(bytes(changed))

    assert len(drop.refused) + len(drop.studies) >= 1
    assert all(entry.reason.startswith(("RL-01", "RL-02")) for entry in drop.refused)


@pytest.mark.parametrize(
    ("written", "instead", "code"),
    [
        # The transfer syntax in the file meta group, with a VR that does not exist.
        (b"\x02\x00\x10\x00UI", b"\x02\x00\x10\x00U\0", "RL-0112"),
        # Rows as text: times Columns it would be a text of gigabytes.
        (b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00LO", "RL-0110"),
        (b"\x28\x00\x53\x10DS\x02\x001 ", b"\x28\x00\x53\x10LO\x02\x001 ", "RL-0110"),
        (b"\x28\x00\x53\x10DS\x02\x001 ", b"\x28\x00\x53\x10LO\x02\x00  ", "RL-0110"),
        (b"\x28\x00\x53\x10DS\x02\x001 ", b"\x28\x00\x53\x10DS\x02\x001\\", "RL-0110"),
        (b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00SS", "RL-0110"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_when_read(written, instead, code):
    assert sound_file().count(written) == 1

    (refused,) = drop_of(sound_file().replace(written, instead)).refused

    assert refused.reason.startswith(code)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_by_name(content):
    for file in (content, bytes(128) + b"DICM" + content, b"\x08\x00\x05\x00" + content):
        drop = drop_of(file)
        assert [entry.reason[:5] for entry in drop.refused] == ["RL-01"]


EXPLICIT = {"implicit": False, "little": True}


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    length = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in (b"SQ", b"OB", b"OW", b"UN"):
        return head + struct.pack("<HL", 0, length) + value
    return head + struct.pack("<H", length) + value


def nested(depth: int, *, defined: bool) -> bytes:
    content = b""
    for _ in range(depth):
        if defined:
            item = struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content
            content = element(0x00081032, b"SQ", item)
        else:
            item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + content
            item += struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
            end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
            content = element(0x00081032, b"SQ", item + end, 0xFFFFFFFF)
    return content


@pytest.mark.parametrize("defined", [True, False])
def test_depth_is_limited_and_real_depths_pass(defined):
    allowed = nested(SEQUENCE_LIMIT_DEPTH - 1, defined=defined)
    too_deep = nested(5000 if not defined else 900, defined=defined)

    assert walk(io.BytesIO(allowed), 0, len(allowed), **EXPLICIT).end == len(allowed)
    with pytest.raises(NestedTooDeep):
        walk(io.BytesIO(too_deep), 0, len(too_deep), **EXPLICIT)


@pytest.mark.parametrize(
    ("tag", "vr"), [(0x7FE00010, b"OW"), (0x00291010, b"UN"), (0x00081032, b"SQ")]
)
def test_a_claim_of_4_gb_reserves_nothing(tag, vr):
    lie = element(tag, vr, b"\0" * 64, 0xFFFFFFF0)

    tracemalloc.start()
    with pytest.raises(TruncatedFile, match="needs 4294967280 bytes, 64 are left"):
        walk(io.BytesIO(lie), 0, len(lie), **EXPLICIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 1 << 20


def test_an_item_cannot_be_longer_than_its_sequence():
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 20) + element(0x00080100, b"SH", b"x" * 12)
    lie = element(0x00081032, b"SQ", item, 10) + b"\0" * 40

    with pytest.raises((TruncatedFile, Unparsable)):
        walk(io.BytesIO(lie), 0, len(lie), **EXPLICIT)


@pytest.mark.parametrize("window", [12, 13, 29, 64])
def test_where_reading_stops_between_two_reads_changes_nothing(monkeypatch, window):
    """Values of every length before the pixels, so that heads lie across every border."""
    values = b"".join(element(0x00090010 + n, b"LO", b"x" * n) for n in range(40))
    header = nested(3, defined=False) + values + nested(2, defined=True)
    whole = header + element(0x7FE00010, b"OW", bytes(50))
    monkeypatch.setattr("operators.study.walk._WINDOW_BYTES", window)

    walked = walk(io.BytesIO(whole), 0, len(whole), **EXPLICIT)

    assert walked.end == len(header)
    assert walked.pixels is not None
    assert (walked.pixels.offset, walked.pixels.length) == (len(whole) - 50, 50)


def test_a_header_without_end_is_refused_by_its_size(monkeypatch):
    monkeypatch.setattr("operators.study.walk.HEADER_LIMIT_ELEMENTS", 1000)
    many = element(0x00090010, b"LO", b"") * 1001

    with pytest.raises(HeaderTooLarge, match="more than 1000 elements"):
        walk(io.BytesIO(many), 0, len(many), **EXPLICIT)


def deflated(content: bytes) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    meta = element(0x00020010, b"UI", b"1.2.840.10008.1.2.1.99")
    return bytes(128) + b"DICM" + meta + stream.compress(content) + stream.flush()


def test_a_deflate_bomb_is_refused_in_bounded_memory(tmp_path, monkeypatch):
    limit, claim = 1 << 20, 32 << 20
    monkeypatch.setattr("operators.study.layout.INFLATED_LIMIT_BYTES", limit)
    bomb = tmp_path / "bomb"
    bomb.write_bytes(deflated(element(0x7FE00010, b"OW", b"", claim) + bytes(claim)))

    tracemalloc.start()
    (refused,) = read_drop(tmp_path).refused
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert refused.reason.startswith("RL-0106")
    assert peak < 3 * limit


def test_a_compressed_frame_beyond_reason_is_refused_before_it_is_decoded(tmp_path):
    def huge(dataset, _):
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.Rows = dataset.Columns = 60000

    array = render([Ball((0.0, 0.0, 0.0), 2.0, 100)], SHAPE, AFFINE)
    write_ct_series(tmp_path, array, AFFINE, edit=huge)

    drop = read_drop(tmp_path)

    assert {entry.reason[:7] for entry in drop.refused} == {"RL-0115"}


def test_a_cut_deflate_stream_is_refused(tmp_path):
    file = tmp_path / "cut"
    file.write_bytes(deflated(element(0x00080060, b"CS", b"CT") * 1000)[:-8])

    with pytest.raises(FileRefusal), open_layout(file):
        pass


@pytest.mark.data
def test_every_file_of_the_pydicom_tests_is_read_or_refused(data_dir):
    files = [path for path in (data_dir / "odd-series" / "pydicom").rglob("*") if path.is_file()]
    assert len(files) > 80

    for path in files:
        drop = drop_of(path.read_bytes())
        assert len(drop.refused) + len(drop.studies) == 1, path.name


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("MR_truncated.dcm", "RL-0104"),
        ("rtplan_truncated.dcm", "RL-0104"),
        ("emri_small_jpeg_2k_lossless_too_short.dcm", "RL-0104"),
        ("dicomdir/DICOMDIR", "RL-0111"),
        ("badVR.dcm", "RL-0110"),
        ("ExplVR_BigEndNoMeta.dcm", "RL-0103"),
    ],
)
def test_known_damage_has_its_name(data_dir, name, code):
    (refused,) = drop_of((data_dir / "odd-series" / "pydicom" / name).read_bytes()).refused

    assert refused.reason.startswith(code)


@pytest.mark.data
def test_all_cases_in_one_drop_keep_to_themselves(data_dir):
    drop = read_drop(data_dir / "odd-series" / "cases")

    assert len(drop.studies) == 38
    assert len({study.study_instance_uid for study in drop.studies}) == 38
