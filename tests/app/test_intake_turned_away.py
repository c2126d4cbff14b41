"""Refused peers: counted across processes, bounded, told once, and again where telling failed."""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from app.intake.turned_away import FILE, MAX_ROWS, Door, TurnedAway, note_rejected, take


def taken(spool: Path) -> list[TurnedAway]:
    told: list[TurnedAway] = []
    take(spool, told.extend)
    return told


def knock(spool: Path, times: int) -> None:
    door = Door(spool)
    for _ in range(times):
        door.turned_away("aet", "10.0.0.9", "STRANGER")
    door.close()


def test_one_peer_at_several_listeners_is_one_row(tmp_path: Path) -> None:
    context = get_context("spawn")
    listeners = [context.Process(target=knock, args=(tmp_path, 1000)) for _ in range(3)]
    for listener in listeners:
        listener.start()
    for listener in listeners:
        listener.join()

    assert taken(tmp_path) == [TurnedAway("aet", "10.0.0.9", "STRANGER", 3000)]
    assert taken(tmp_path) == []


def test_many_peers_fill_no_more_than_their_rows_and_none_is_uncounted(tmp_path: Path) -> None:
    for round_ in range(3):
        door = Door(tmp_path)
        for number in range(2000):
            door.turned_away("address", f"10.{round_}.{number // 256}.{number % 256}")
        door.close(30)

    told = taken(tmp_path)

    assert len(told) <= MAX_ROWS + 1 and sum(peer.count for peer in told) == 6000
    assert next(peer for peer in told if peer.why == "others").address == ""
    assert (tmp_path / FILE).stat().st_size < 100_000


def test_what_was_not_told_is_told_again_and_what_came_meanwhile_is_kept(tmp_path: Path) -> None:
    knock(tmp_path, 2)

    def fails(_: Sequence[TurnedAway]) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        take(tmp_path, fails)

    def knocks_again(told: Sequence[TurnedAway]) -> None:
        assert [peer.count for peer in told] == [2]
        knock(tmp_path, 5)

    take(tmp_path, knocks_again)
    assert [peer.count for peer in taken(tmp_path)] == [5]


def test_a_claimed_title_is_cut_to_what_a_title_may_be(tmp_path: Path) -> None:
    door = Door(tmp_path)
    door.turned_away("aet", "10.0.0.9", "A\n\x1b[31mB" + "C" * 100)
    door.close()
    assert [peer.aet for peer in taken(tmp_path)] == ["A[31mB" + "C" * 10]


def test_an_unlisted_title_is_noted_by_pynetdicoms_own_event(tmp_path: Path) -> None:
    door, entity = Door(tmp_path), AE()
    entity.add_supported_context(Verification)
    entity.require_calling_aet = ["CT_ER"]
    handlers = [(evt.EVT_REJECTED, note_rejected, [door])]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    port = server.server_address[1]
    for title in ("STRANGER", "CT_ER", "STRANGER"):
        peer = AE(title)
        peer.add_requested_context(Verification)
        association = peer.associate("127.0.0.1", port)
        assert association.is_established is (title == "CT_ER")
        if association.is_established:
            association.release()
    server.shutdown()
    door.close()

    assert taken(tmp_path) == [TurnedAway("aet", "127.0.0.1", "STRANGER", 2)]


def test_where_nobody_was_turned_away_there_is_nothing(tmp_path: Path) -> None:
    assert taken(tmp_path) == [] and not (tmp_path / FILE).exists()
