"""The spool: durable before it returns, whole or not there, nowhere but in its folder."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.intake.peek import UID
from app.intake.spool import Draft, NoRoomError, Spool


def files(spool: Spool) -> list[Path]:
    return [path for path in spool.root.rglob("*") if path.is_file()]


def test_same_bytes_land_once_and_other_bytes_beside_them(tmp_path: Path) -> None:
    spool = Spool(tmp_path)

    first = spool.keep("1.2.3", b"head", b"one")
    again = spool.keep("1.2.3", b"other head", b"one")
    changed = spool.keep("1.2.3", b"head", b"two")

    assert again.name == first.name != changed.name
    assert spool.path(first.name).read_bytes() == b"headone"
    assert spool.path(changed.name).read_bytes() == b"headtwo"
    assert len(files(spool)) == 2


@settings(max_examples=50, deadline=None)
@given(uid=st.from_regex(UID, fullmatch=True), body=st.binary(max_size=200))
def test_no_uid_leads_out_of_the_spool(
    tmp_path_factory: pytest.TempPathFactory, uid: str, body: bytes
) -> None:
    spool = Spool(tmp_path_factory.getbasetemp() / "hypothesis-spool")

    kept = spool.keep(uid, b"", body)

    assert spool.path(kept.name).resolve().is_relative_to(spool.instances.resolve())
    assert spool.path(kept.name).read_bytes() == body


def test_file_is_synced_before_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    order: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def seen_fsync(descriptor: int) -> None:
        is_folder = Path(f"/proc/self/fd/{descriptor}").resolve().is_dir()
        order.append("sync folder" if is_folder else "sync file")
        fsync(descriptor)

    def seen_rename(path: Path, target: Path) -> Path:
        order.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "rename", seen_rename)
    spool.keep("1.2.3", b"head", b"body")
    # The name was there, but had the folder been synced when the power failed?
    spool.keep("1.2.3", b"head", b"body")

    assert order == ["sync file", "rename", "sync folder", "sync folder"]


def test_reserve_is_kept_free(tmp_path: Path) -> None:
    spool = Spool(tmp_path, min_free_bytes=1 << 60)

    with pytest.raises(NoRoomError, match=f"reserve {1 << 60}"):
        spool.keep("1.2.3", b"head", b"body")

    assert files(spool) == []


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    """A child with a file size limit of 4 KiB tries to keep 8 KiB."""
    program = (
        "import sys, signal; from pathlib import Path; from app.intake.spool import Spool\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: Spool(Path(sys.argv[1])).keep('1.2.3', b'', bytes(8192))\n"
        "except OSError as error: print(type(error).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )

    assert done.stdout.strip() == "OSError"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_sweep_removes_what_was_never_acknowledged(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    kept = spool.keep("1.2.3", b"head", b"body")
    (spool.incoming / "half").write_bytes(b"he")
    (spool.work / "abc-v1").mkdir()

    assert Spool(tmp_path).sweep() == 1

    assert files(spool) == [spool.path(kept.name)]
    assert list(spool.work.iterdir()) == []


def test_a_successor_sweeps_what_its_killed_predecessor_left_and_nothing_else(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path, owner="0")
    half = Draft(spool, "1.2.3", b"head")
    half.write(bytes(3 << 20))
    other = Draft(Spool(tmp_path, owner="1"), "1.2.4", b"head")
    other.write(bytes(3 << 20))
    assert len(files(spool)) == 2

    Spool(tmp_path, owner="0").sweep_own()

    assert len(files(spool)) == 1
    assert spool.path(other.keep().name).stat().st_size == (3 << 20) + 4


def test_a_large_draft_is_whole_and_its_digest_that_of_one_piece(tmp_path: Path) -> None:
    body = os.urandom(5 << 20)
    whole = Spool(tmp_path / "a").keep("1.2.3", b"head", body, "1.2")
    spool = Spool(tmp_path / "b")
    draft = Draft(spool, "1.2.3", b"head", "1.2")
    for at in range(0, len(body), 100_001):
        draft.write(body[at : at + 100_001])

    kept = draft.keep()

    assert kept == whole
    assert spool.path(kept.name).read_bytes() == b"head" + body


def test_the_reserve_stops_a_large_draft_on_its_way(tmp_path: Path) -> None:
    spool = Spool(tmp_path, min_free_bytes=1 << 60)
    draft = Draft(spool, "1.2.3", b"head")

    with pytest.raises(NoRoomError):
        draft.write(bytes(3 << 20))

    assert files(spool) == []
