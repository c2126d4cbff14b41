"""One file over HTTP: resumed, checked, bounded; against a real server on this machine."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tenacity import RetryCallState, wait_none

from app.bundles import download as downloading
from app.bundles.download import ATTEMPTS, LONGEST_WAIT_S, AsAsked, Wanted, client, download
from app.bundles.fetch_refusals import (
    ChecksumDiffers,
    FileTooLarge,
    NoRoom,
    RedirectUnsafe,
    SourceUnreachable,
)
from tests.app.authority import Authority
from tests.app.publisher import Publisher, serving

CONTENT = hashlib.shake_128(b"weights").digest(300_000)
NOW = wait_none()


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with serving() as publisher:
        yield publisher


@pytest.fixture
def wanted(publisher: Publisher, tmp_path: Path) -> Wanted:
    publisher.put("/w.pt", CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    return Wanted(
        *("mine", f"{publisher.url}/w.pt", "sha256", digest, tmp_path / "w.pt"),
        schemes=frozenset({"http", "https"}),
    )


def bring(wanted: Wanted) -> list[tuple[int, int | None]]:
    """Download without pauses; what was told on the way."""
    told: list[tuple[int, int | None]] = []
    with client() as http:
        download(wanted, http, lambda done, total: told.append((done, total)), NOW)
    return told


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_comes_whole_and_is_not_asked_for_again(publisher, wanted):
    told = bring(wanted)

    assert wanted.file.read_bytes() == CONTENT and names(wanted.file.parent) == ["w.pt"]
    assert told[0] == (0, len(CONTENT)) and told[-1] == (len(CONTENT), len(CONTENT))
    bring(wanted)
    assert publisher.ranges() == [""]


def test_a_cut_connection_is_gone_on_from_where_it_was_cut(publisher, wanted):
    publisher.files["/w.pt"].cut = [100_000, 50_000]

    told = bring(wanted)

    assert wanted.file.read_bytes() == CONTENT
    assert publisher.ranges() == ["", "bytes=100000-", "bytes=150000-"]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_tries_are_bounded_and_what_came_is_kept_for_the_next_command(publisher, wanted):
    publisher.files["/w.pt"].cut = [10_000] * ATTEMPTS

    kept = 10_000 * ATTEMPTS
    with pytest.raises(
        SourceUnreachable, match=rf"\(tried {ATTEMPTS} times\)\. What has arrived \({kept} bytes\)"
    ):
        bring(wanted)
    assert names(wanted.file.parent) == ["w.pt.part", "w.pt.part.json"]
    bring(wanted)

    assert wanted.file.read_bytes() == CONTENT
    assert publisher.ranges()[-1] == f"bytes={10_000 * ATTEMPTS}-"


def test_a_server_without_ranges_begins_anew(publisher, wanted):
    publisher.files["/w.pt"].cut = [100_000]
    publisher.files["/w.pt"].ranges = False

    bring(wanted)

    assert wanted.file.read_bytes() == CONTENT
    assert publisher.ranges() == ["", "bytes=100000-"]


def test_another_state_of_the_file_is_never_mixed_with_the_part(publisher, wanted):
    publisher.put("/w.pt", b"older" * 50_000, etag='"older"', cut=[20_000] * ATTEMPTS)
    with pytest.raises(SourceUnreachable):
        bring(wanted)
    publisher.put("/w.pt", CONTENT, etag='"newer"')

    bring(wanted)

    assert wanted.file.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("etag", "modified", "second"),
    [
        ("", "Mon, 30 Nov 2026 10:00:00 GMT", "bytes=100000-"),
        ('W/"weak"', "Mon, 30 Nov 2026 10:00:00 GMT", "bytes=100000-"),
        ('W/"weak"', "", ""),  # nothing vouches for the part
        ("", "", ""),
    ],
)
def test_only_a_strong_validator_lets_a_part_be_gone_on_with(
    publisher, wanted, etag, modified, second
):
    publisher.put("/w.pt", CONTENT, etag=etag, modified=modified, cut=[100_000])

    bring(wanted)

    assert wanted.file.read_bytes() == CONTENT and publisher.ranges() == ["", second]


@pytest.mark.parametrize("trouble", [{"wrong_range": True}, {"content": CONTENT[:50_000]}])
def test_an_answer_that_does_not_fit_the_part_begins_anew(publisher, wanted, trouble):
    """A range that begins elsewhere; a file that has become shorter than the part (416)."""
    publisher.files["/w.pt"].cut = [100_000]
    for name, value in trouble.items():
        setattr(publisher.files["/w.pt"], name, value)
    if "content" in trouble:
        part = wanted.file.with_name("w.pt.part")
        part.write_bytes(CONTENT[:100_000])
        note = {"url": wanted.url, "validator": '"one"'}
        part.with_name("w.pt.part.json").write_text(json.dumps(note))
        digest = hashlib.sha256(CONTENT[:50_000]).hexdigest()
        wanted = replace(wanted, hash_val=digest)

    bring(wanted)

    assert hashlib.sha256(wanted.file.read_bytes()).hexdigest() == wanted.hash_val
    assert publisher.ranges()[-1] == ""


@pytest.mark.parametrize("note", ["", "{", '{"url": "http://other/", "validator": "x"}'])
def test_a_part_that_nothing_is_known_of_is_not_used(publisher, wanted, note):
    wanted.file.with_name("w.pt.part").write_bytes(b"from elsewhere")
    wanted.file.with_name("w.pt.part.json").write_text(note)

    bring(wanted)

    assert wanted.file.read_bytes() == CONTENT and publisher.ranges() == [""]


def test_a_whole_part_only_gets_its_name(publisher, wanted):
    publisher.files["/w.pt"].cut = [len(CONTENT) - 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downloading, "ATTEMPTS", 1)
        with pytest.raises(SourceUnreachable, match=r"\(tried once\)"):
            bring(wanted)
    with wanted.file.with_name("w.pt.part").open("ab") as part:
        part.write(CONTENT[-1:])

    bring(wanted)

    assert wanted.file.read_bytes() == CONTENT and len(publisher.asked) == 1


def test_other_bytes_than_published_are_deleted_and_refused_by_name(publisher, wanted):
    publisher.files["/w.pt"].content = CONTENT[:-1] + b"x"

    with pytest.raises(ChecksumDiffers, match=r"bundle 'mine'.*w\.pt has sha256") as caught:
        bring(wanted)

    assert wanted.hash_val in caught.value.reason and names(wanted.file.parent) == []


def test_a_damaged_file_under_the_final_name_is_fetched_again(wanted):
    wanted.file.write_bytes(b"damaged")
    bring(wanted)
    assert wanted.file.read_bytes() == CONTENT


@pytest.mark.parametrize("status", [503, 429, 500])
def test_a_server_that_is_busy_is_asked_again(publisher, wanted, status):
    publisher.files["/w.pt"].statuses = [status] * (ATTEMPTS - 1)
    bring(wanted)
    assert wanted.file.read_bytes() == CONTENT and len(publisher.asked) == ATTEMPTS


@pytest.mark.parametrize("status", [404, 403, 401, 410, 204])
def test_an_answer_that_stays_is_asked_for_once(publisher, wanted, status):
    publisher.files["/w.pt"].statuses = [status] * ATTEMPTS

    with pytest.raises(SourceUnreachable, match=rf"answered {status} \(tried once\)"):
        bring(wanted)
    assert len(publisher.asked) == 1


def test_nobody_there_is_one_sentence(wanted):
    gone = replace(wanted, url="http://127.0.0.1:9/w.pt")
    said: list[str] = []
    with (
        client() as http,
        pytest.raises(SourceUnreachable, match=r"Nothing has.*--mirror.*radloop bundles import"),
    ):
        download(gone, http, pause=NOW, waits=said.append)
    assert [text.rpartition(": ")[2] for text in said] == [
        f"try {n} of {ATTEMPTS} in 0 s" for n in range(2, ATTEMPTS + 1)
    ]
    assert all("ConnectError" in text for text in said)


def test_the_pause_grows_and_obeys_the_server_within_bounds():
    pause = AsAsked()

    def after(attempt: int, asked: float) -> float:
        state = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
        state.attempt_number = attempt
        error = downloading._Interrupted("busy", asked)
        state.set_exception((type(error), error, None))
        return pause(state)

    assert 1 <= after(1, 0) <= 3 and 8 <= after(4, 0) <= 10
    assert after(1, 20) == 20
    assert after(1, 3600) == LONGEST_WAIT_S  # never an hour because a server says so
    assert len({after(1, 0) for _ in range(20)}) > 1  # jitter


# --- bounds --------------------------------------------------------------------------------


def test_more_than_a_bundle_has_is_refused_before_a_byte_is_taken(publisher, wanted):
    publisher.files["/w.pt"].announced = 5 << 30

    with pytest.raises(FileTooLarge, match="5368709120 bytes; the limit is 4294967296"):
        bring(wanted)
    assert names(wanted.file.parent) == []


def test_an_endless_body_is_cut_off(publisher, wanted, monkeypatch):
    monkeypatch.setattr(downloading, "MAX_BYTES", 200_000)
    publisher.put("/w.pt", CONTENT, chunked=True)

    with pytest.raises(FileTooLarge, match="more than 200000 bytes"):
        bring(wanted)
    assert names(wanted.file.parent) == []


def test_bytes_beyond_those_announced_are_not_taken(publisher, wanted):
    publisher.files["/w.pt"].surplus = b"more" * 10_000
    bring(wanted)
    assert wanted.file.read_bytes() == CONTENT


def test_a_rest_that_is_longer_than_the_range_said_is_cut_off(publisher, wanted):
    publisher.files["/w.pt"].cut = [10_000] * ATTEMPTS
    with pytest.raises(SourceUnreachable):
        bring(wanted)
    publisher.put("/w.pt", CONTENT, chunked=True, surplus=b"more" * 10_000)

    with pytest.raises(FileTooLarge, match="that it announced"):
        bring(wanted)
    assert names(wanted.file.parent) == []


def test_a_disk_that_is_too_small_is_seen_before(wanted, monkeypatch):
    monkeypatch.setattr(downloading, "free_bytes", lambda folder: 2 * len(CONTENT) - 1)

    with pytest.raises(NoRoom, match=r"needs 0 MiB below .*Free some disk"):
        bring(wanted)
    assert not wanted.file.exists()


def test_a_disk_that_fills_up_meanwhile_keeps_the_part(publisher, wanted):
    real, room = Path.open, 120_000

    def opened(path: Path, mode: str = "r", *rest, **more):
        file = real(path, mode, *rest, **more)
        if mode != "ab":
            return file
        write = file.write

        def bounded(block: bytes) -> int:
            if file.tell() + len(block) > room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(block)

        return _Bounded(file, bounded)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", opened)
        with pytest.raises(NoRoom, match="goes on where it stopped"):
            bring(wanted)
    held = wanted.file.with_name("w.pt.part").stat().st_size
    assert 0 < held <= room
    bring(wanted)
    assert wanted.file.read_bytes() == CONTENT and publisher.ranges()[-1] == f"bytes={held}-"


class _Bounded:
    """A file whose disk is full at some point."""

    def __init__(self, file, write) -> None:
        self._file, self.write = file, write

    def __enter__(self):
        return self

    def __exit__(self, *problem) -> None:
        self._file.close()


# --- redirects -----------------------------------------------------------------------------


@pytest.fixture
def secure(tmp_path, monkeypatch) -> Iterator[Publisher]:
    authority = Authority(tmp_path / "authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    with serving(authority.sign("server")) as publisher:
        yield publisher


def test_https_may_lead_to_https_and_never_to_http(publisher, secure, wanted):
    secure.put("/w.pt", CONTENT)
    secure.put("/moved", b"", redirect="/w.pt")
    secure.put("/leaves", b"", redirect=f"{publisher.url}/w.pt?signature=secret")
    strict = replace(wanted, schemes=frozenset({"https"}))

    bring(replace(strict, url=f"{secure.url}/moved"))
    assert wanted.file.read_bytes() == CONTENT
    wanted.file.unlink()
    with pytest.raises(RedirectUnsafe, match="only https is followed") as caught:
        bring(replace(strict, url=f"{secure.url}/leaves"))

    assert "secret" not in caught.value.reason
    assert publisher.asked == [] and not wanted.file.exists()


def test_a_range_survives_a_redirect(publisher, wanted):
    publisher.put("/moved", b"", redirect="/w.pt")
    publisher.files["/w.pt"].cut = [100_000]

    bring(replace(wanted, url=f"{publisher.url}/moved"))

    assert wanted.file.read_bytes() == CONTENT
    assert publisher.asked[-1] == ("/w.pt", "bytes=100000-")


def test_circles_end(publisher, wanted):
    publisher.put("/round", b"", redirect="/round")
    with pytest.raises(RedirectUnsafe):
        bring(replace(wanted, url=f"{publisher.url}/round"))
    assert len(publisher.asked) == 6


def test_a_certificate_that_nobody_vouches_for_is_no_server(secure, wanted, monkeypatch):
    secure.put("/w.pt", CONTENT)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(SourceUnreachable, match="ConnectError"):
        bring(replace(wanted, url=f"{secure.url}/w.pt"))
