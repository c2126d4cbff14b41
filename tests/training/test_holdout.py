"""Who judges and who teaches is drawn once per patient and never again."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.holdout import Patients, count_held_out
from training.refusals import StateDamaged
from training.state import StateDir, append_line, read_lines

PEOPLE = [("HOSPITAL", f"{number:05d}") for number in range(300)]


def splits(state: StateDir, fraction: float, people=PEOPLE) -> dict[str, str]:
    patients = Patients(state, fraction)
    return {key: patients.split(key) for key in (patients.key(*one) for one in people)}


def test_the_fraction_is_kept_and_a_fifth_of_the_rest_validates(tmp_path: Path) -> None:
    drawn = list(splits(StateDir(tmp_path), 0.3).values())

    assert len(drawn) == 300
    assert drawn.count("holdout") / 300 == pytest.approx(0.3, abs=0.1)
    assert drawn.count("validation") / (300 - drawn.count("holdout")) == pytest.approx(0.2, abs=0.1)


def test_a_later_fraction_moves_nobody(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    before = splits(state, 0.1, PEOPLE[:40])
    held_out = count_held_out(state)

    after = splits(state, 0.9, PEOPLE[:40])

    assert after == before
    assert count_held_out(state) == held_out
    newcomers = splits(state, 0.999999, [("HOSPITAL", "new")])
    assert list(newcomers.values()) == ["holdout"]


def test_the_order_of_arrival_plays_no_part(tmp_path: Path) -> None:
    here, there = StateDir(tmp_path / "a"), StateDir(tmp_path / "b")
    first = splits(here, 0.4, PEOPLE[:50])
    there.root.mkdir()
    there.salt_file.write_bytes(here.salt_file.read_bytes())

    assert splits(there, 0.4, PEOPLE[:50][::-1]) == first


def test_keys_hide_the_patient_and_mean_nothing_elsewhere(tmp_path: Path) -> None:
    here, there = StateDir(tmp_path / "a"), StateDir(tmp_path / "b")
    keys = [Patients(state, 0.2).key("X", "MRN-4711") for state in (here, there)]

    assert keys[0] != keys[1] and len(keys[0]) == 64
    assert Patients(here, 0.2).key("X", "MRN-4711") == keys[0]
    assert Patients(here, 0.2).key("Y", "MRN-4711") != keys[0]
    assert stat.S_IMODE(here.salt_file.stat().st_mode) == 0o600
    written = b"".join(file.read_bytes() for file in here.root.iterdir())
    assert b"4711" not in written


def test_issuer_and_id_do_not_run_into_each_other(tmp_path: Path) -> None:
    patients = Patients(StateDir(tmp_path), 0.2)

    assert patients.key("A", "B1") != patients.key("AB", "1")


def test_a_lost_salt_is_refused_and_not_replaced(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    splits(state, 0.2, PEOPLE[:3])
    state.salt_file.unlink()

    with pytest.raises(StateDamaged, match="every patient would be drawn again"):
        Patients(state, 0.2)


def test_what_a_crash_left_unfinished_was_never_said(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    before = splits(state, 0.2, PEOPLE[:5])
    with state.holdout_file.open("ab") as file:
        file.write(b'{"patient": "abc", "spl')

    assert splits(state, 0.2, PEOPLE[:5]) == before
    splits(state, 0.2, PEOPLE[:6])
    assert len(read_lines(state.holdout_file)) == 6


def test_a_damaged_line_is_refused_by_its_number(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    splits(state, 0.2, PEOPLE[:3])
    lines = state.holdout_file.read_text().splitlines()
    state.holdout_file.write_text("\n".join([lines[0], "garbage", lines[2]]) + "\n")

    with pytest.raises(StateDamaged, match="is damaged in line 2"):
        splits(state, 0.2, PEOPLE[:1])


@given(entries=st.lists(st.dictionaries(st.text(), st.text() | st.integers()), max_size=5))
def test_what_is_appended_is_read(entries: list[dict], tmp_path_factory) -> None:
    file = tmp_path_factory.mktemp("lines") / "file.jsonl"
    for entry in entries:
        append_line(file, entry)

    assert read_lines(file) == [json.loads(json.dumps(entry)) for entry in entries]
