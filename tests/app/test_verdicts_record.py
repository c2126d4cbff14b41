"""The record of verdicts: what was written is what is read, or nothing is."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.verdicts.record import RECORD_FILE, append_verdict, latest_verdicts, read_verdicts
from app.verdicts.refusals import RecordBroken
from tests.app.verdicts import verdict
from tests.e2e.serving import ROOT

GIVEN = [
    verdict(1),
    verdict(2, because='umlaut ü, "quotes", line\nfeed, and ,"line_sha256":"' + "0" * 64 + '"}'),
    verdict(3, sr="1.2.4"),
]


def record(folder: Path) -> Path:
    """A state folder's record of three verdicts."""
    for one in GIVEN:
        assert append_verdict(folder, one)
    return folder / RECORD_FILE


def content() -> bytes:
    with TemporaryDirectory() as folder:
        return record(Path(folder)).read_bytes()


WHOLE = content()
LINES = WHOLE.splitlines(keepends=True)


def read(changed: bytes) -> list[object]:
    with TemporaryDirectory() as folder:
        (Path(folder) / RECORD_FILE).write_bytes(changed)
        return list(read_verdicts(Path(folder)))


def test_verdicts_are_read_as_they_were_given_and_the_latest_counts(tmp_path: Path) -> None:
    assert read_verdicts(tmp_path) == []
    record(tmp_path)

    found = read_verdicts(tmp_path)

    assert found == GIVEN
    assert latest_verdicts(found) == {"1.2.3": GIVEN[1], "1.2.4": GIVEN[2]}


def test_every_line_is_json_and_names_the_sha256_of_the_line_before() -> None:
    lines = WHOLE.splitlines()
    previous = ["0" * 64] + [hashlib.sha256(line).hexdigest() for line in lines[:-1]]

    assert [json.loads(line)["previous"] for line in lines] == previous
    assert [json.loads(line)["schema"] for line in lines] == [1, 1, 1]
    assert json.loads(lines[1])["because"] == GIVEN[1].because


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(WHOLE) - 1), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_refused_by_its_line(at: int, bit: int) -> None:
    changed = bytearray(WHOLE)
    changed[at] ^= 1 << bit
    line = WHOLE[:at].count(b"\n") + 1

    with pytest.raises(RecordBroken, match=rf"{RECORD_FILE} line {line}: "):
        read(bytes(changed))


@pytest.mark.parametrize(
    ("lines", "number"),
    [
        ([0, 2], 2),  # removed
        ([1, 2], 1),
        ([0, 2, 1], 2),  # moved
        ([0, 0, 1, 2], 2),  # doubled
    ],
)
def test_a_line_that_is_not_in_its_place_is_refused(lines: list[int], number: int) -> None:
    with pytest.raises(RecordBroken, match=f"line {number}: it does not follow"):
        read(b"".join(LINES[line] for line in lines))


@settings(max_examples=25, deadline=None)
@given(kept=st.integers(0, len(LINES[2]) - 1))
def test_a_line_torn_by_a_crash_is_no_verdict_and_the_next_append_heals_the_record(
    kept: int,
) -> None:
    whole_but_for_its_line_feed = kept == len(LINES[2]) - 1
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / RECORD_FILE
        path.write_bytes(LINES[0] + LINES[1] + LINES[2][:kept])

        expected = GIVEN if whole_but_for_its_line_feed else GIVEN[:2]
        assert read_verdicts(folder) == expected
        assert append_verdict(folder, GIVEN[2]) is not whole_but_for_its_line_feed
        assert append_verdict(folder, verdict(4))

        assert read_verdicts(folder) == [*GIVEN, verdict(4)]
        assert path.read_bytes().startswith(WHOLE)


def test_nothing_is_added_to_a_damaged_record(tmp_path: Path) -> None:
    path = record(tmp_path)
    damaged = path.read_bytes().replace(b"confirmed", b"rejected!", 1)
    path.write_bytes(damaged)

    with pytest.raises(RecordBroken, match="line 1: its sha256 is not that of its bytes"):
        append_verdict(tmp_path, verdict(4))
    assert path.read_bytes() == damaged


def test_a_verdict_is_recorded_once(tmp_path: Path) -> None:
    assert append_verdict(tmp_path, verdict(1))
    assert not append_verdict(tmp_path, verdict(1))
    assert read_verdicts(tmp_path) == [verdict(1)]


def test_processes_that_append_at_once_make_one_chain(tmp_path: Path) -> None:
    each, processes = 8, 3
    program = (
        "import sys; from pathlib import Path\n"
        "from app.verdicts.record import append_verdict\n"
        "from tests.app.verdicts import verdict\n"
        f"for n in range({each}): append_verdict(Path(sys.argv[1]), verdict(int(sys.argv[2]) + n))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, tmp_path, str(100 * number)], cwd=ROOT)
        for number in range(processes)
    ]

    assert [process.wait(60) for process in running] == [0] * processes
    found = {given.verified_sr.sop_instance_uid for given in read_verdicts(tmp_path)}
    assert found == {f"9.{100 * p + n}" for p in range(processes) for n in range(each)}
