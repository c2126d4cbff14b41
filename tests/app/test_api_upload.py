"""Multipart bodies, cut into any pieces, whole or hostile."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api import upload
from app.api.refusals import ApiRefusal, BodyTooLarge, BodyUnusable, FieldWrong, NoRoom
from app.api.upload import Form, receive_form

FIELDS = frozenset({"image_type", "clinical_context"})
KIND = {"content-type": "multipart/form-data; boundary=B0undary"}


def body_of(images: Sequence[bytes], fields: dict[str, str], name: str = "x") -> bytes:
    """RFC 7578, by hand."""
    lines = b""
    for image in images:
        lines += b"--B0undary\r\nContent-Disposition: form-data; "
        lines += f'name="image"; filename="{name}"\r\n\r\n'.encode() + image + b"\r\n"
    for key, value in fields.items():
        head = f'--B0undary\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n'
        lines += head.encode() + value.encode() + b"\r\n"
    return lines + b"--B0undary--\r\n"


def receive(
    pieces: Sequence[bytes], folder: Path, headers: dict[str, str] | None = None, reserve: int = 0
) -> Form:
    async def stream() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return asyncio.run(
        receive_form(headers or KIND, stream(), folder, fields=FIELDS, reserve_bytes=reserve)
    )


def cut(body: bytes, places: Sequence[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[a:b] for a, b in itertools.pairwise(ends)]


@settings(max_examples=60, deadline=None)
@given(
    images=st.lists(st.binary(max_size=300) | st.just(b"\r\n--B0undar\r\n--"), max_size=4),
    context=st.text(max_size=80),
    places=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_what_was_sent_arrives_however_it_is_cut(
    images: list[bytes], context: str, places: list[int]
) -> None:
    if any(b"--B0undary" in image for image in images) or "--B0undary" in context:
        return  # no sender may choose a boundary that is in its content
    body = body_of(images, {"image_type": "ct", "clinical_context": context})
    with tempfile.TemporaryDirectory() as folder:
        form = receive(cut(body, places), Path(folder))

        assert [path.read_bytes() for path in form.images] == images
        assert form.fields == {"image_type": "ct", "clinical_context": context}
        assert [path.name for path in form.images] == [f"{n:06d}.dcm" for n in range(len(images))]


@settings(max_examples=150, deadline=None)
@given(
    noise=st.binary(max_size=60),
    at=st.integers(0, 400),
    keep=st.integers(0, 400),
    places=st.lists(st.integers(0, 500), max_size=4),
)
def test_a_damaged_body_is_refused_or_read_and_nothing_else(
    noise: bytes, at: int, keep: int, places: list[int]
) -> None:
    whole = body_of([b"abc" * 20], {"image_type": "ct"})
    body = (whole[:at] + noise + whole[at:])[: keep + 50]
    with tempfile.TemporaryDirectory() as folder:
        try:
            form = receive(cut(body, places), Path(folder))
        except ApiRefusal as refusal:
            assert 400 <= refusal.status < 500
        else:
            assert all(path.parent == Path(folder) for path in form.images)
        assert set(Path(folder).iterdir()) <= {Path(folder, f"{n:06d}.dcm") for n in range(4)}


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\\..\\b", "/abs", "", "\x00", "é" * 300])
def test_a_file_name_is_never_used(tmp_path: Path, name: str) -> None:
    form = receive([body_of([b"x"], {}, name)], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["000000.dcm"]
    assert form.images == [tmp_path / "000000.dcm"]


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/mixed; boundary=x",
        "multipart/form-data; boundary=",
    ],
)
def test_another_content_type_is_415(tmp_path: Path, kind: str) -> None:
    with pytest.raises(BodyUnusable) as caught:
        receive([body_of([b"x"], {})], tmp_path, {"content-type": kind})
    assert caught.value.status == 415


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "MOST_IMAGES", 3)
    with pytest.raises(BodyTooLarge, match="3 parts"):
        receive([body_of([b"x"] * 4, {})], tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(BodyTooLarge, match="clinical_context exceeds 65536 bytes"):
        receive([body_of([], {"clinical_context": "x" * 70_000})], tmp_path)
    with pytest.raises(NoRoom):
        receive([body_of([b"x"], {})], tmp_path, reserve=1 << 60)


def test_unknown_doubled_and_binary_fields_are_named(tmp_path: Path) -> None:
    with pytest.raises(FieldWrong, match="none of image, clinical_context, image_type"):
        receive([body_of([], {"PLANTED": "1"})], tmp_path)
    doubled = body_of([], {"image_type": "ct"})[:-14] + body_of([], {"image_type": "ct"})
    with pytest.raises(FieldWrong, match="image_type is given twice"):
        receive([doubled], tmp_path)
    binary = body_of([], {"image_type": "ct"}).replace(b"ct", b"\xff\xfe")
    with pytest.raises(FieldWrong, match="not UTF-8"):
        receive([binary], tmp_path)


def test_a_silent_sender_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "SILENCE_SECONDS", 0.1)

    async def silent() -> AsyncIterator[bytes]:
        yield body_of([b"x"], {})[:30]
        await asyncio.sleep(30)

    with pytest.raises(BodyUnusable) as caught:
        asyncio.run(receive_form(KIND, silent(), tmp_path, fields=FIELDS, reserve_bytes=0))
    assert caught.value.status == 408
