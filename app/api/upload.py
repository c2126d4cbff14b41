"""A multipart body, streamed to disk: bounded in every way before anything is looked at.

Only `image` parts reach the disk, under our own numbers. What a caller calls a file is
never read. (Starlette's own form parser keeps each part of up to 1 MB in memory: 300 MB
for a CT of 600 slices.)
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.api.refusals import BodyTooLarge, BodyUnusable, FieldWrong, NoRoom

BODY_LIMIT_BYTES = 2 << 30
MOST_IMAGES = 4000
FIELD_LIMIT_BYTES = 64 << 10
SILENCE_SECONDS = 60.0
IMAGE = "image"


@dataclass
class Form:
    """What a body held.

    Attributes
    ----------
    fields : dict of str to str
        Text fields.
    images : list of Path
        One file per `image` part, in the order they came.
    """

    fields: dict[str, str] = field(default_factory=dict)
    images: list[Path] = field(default_factory=list)


class _Parts:
    """Callbacks of the parser; all run in the thread that writes."""

    def __init__(self, folder: Path, known: frozenset[str], reserve_bytes: int) -> None:
        self.form = Form()
        self.ended = False
        self._folder, self._known, self._reserve = folder, known, reserve_bytes
        self._header = self._value = b""
        self._disposition = b""
        self._name = ""
        self._text = bytearray()
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        self._disposition, self._name, self._text = b"", "", bytearray()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def headers_finished(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"name", b"")
        self._name = name.decode("ascii", "replace")
        if self._name == IMAGE:
            self._file = self._open()
        elif self._name not in self._known:
            fields = ", ".join(sorted(self._known))
            raise FieldWrong("a field", f"of the body is none of {IMAGE}, {fields}")
        elif self._name in self.form.fields:
            raise FieldWrong(self._name, "is given twice")

    def data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            return
        if len(self._text) + end - start > FIELD_LIMIT_BYTES:
            raise BodyTooLarge(self._name, FIELD_LIMIT_BYTES)
        self._text += data[start:end]

    def part_end(self) -> None:
        if self._file is not None:
            self.close()
            return
        try:
            self.form.fields[self._name] = self._text.decode()
        except UnicodeDecodeError as error:
            raise FieldWrong(self._name, "is not UTF-8 text") from error

    def end(self) -> None:
        self.ended = True

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        number = len(self.form.images)
        if number >= MOST_IMAGES:
            raise BodyTooLarge("the number of image parts", MOST_IMAGES, "parts")
        if shutil.disk_usage(self._folder).free < self._reserve:
            raise NoRoom
        path = self._folder / f"{number:06d}.dcm"
        self.form.images.append(path)
        return path.open("xb")


async def receive_form(
    headers: Mapping[str, str],
    body: AsyncIterator[bytes],
    folder: Path,
    *,
    fields: frozenset[str],
    reserve_bytes: int,
) -> Form:
    """Read a body to its end.

    Parameters
    ----------
    headers : mapping
        Of the request, names in lower case.
    body : async iterator of bytes
        As it arrives.
    folder : Path
        Gets the images, as ``000000.dcm`` and on.
    fields : frozenset of str
        Names of text fields that the path knows.
    reserve_bytes : int
        Free space of the disk below which nothing is taken, bytes.

    Raises
    ------
    BodyUnusable
        No multipart body, cut off, or silent for `SILENCE_SECONDS`.
    BodyTooLarge
        Above `BODY_LIMIT_BYTES`, `MOST_IMAGES` or `FIELD_LIMIT_BYTES`.
    FieldWrong
        An unknown field, one given twice, or one that is no text.
    NoRoom
        The disk's reserve is reached.
    """
    kind, options = parse_options_header(headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise BodyUnusable("send multipart/form-data with a boundary", 415)
    parts = _Parts(folder, fields, reserve_bytes)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.header_field,
                "on_header_value": parts.header_value,
                "on_header_end": parts.header_end,
                "on_headers_finished": parts.headers_finished,
                "on_part_data": parts.data,
                "on_part_end": parts.part_end,
                "on_end": parts.end,
            },
        )
        async for chunk in _paced(body):
            await asyncio.to_thread(parser.write, chunk)
        parser.finalize()
    except FormParserError as error:
        raise BodyUnusable("the body is not the multipart/form-data that it says it is") from error
    except OSError as error:
        raise NoRoom from error
    finally:
        with contextlib.suppress(OSError):
            parts.close()
    if not parts.ended:
        raise BodyUnusable("the body ends before its closing boundary")
    return parts.form


async def _paced(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same chunks; a sender that says nothing for too long is let go."""
    iterator = aiter(body)
    while True:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                chunk = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise BodyUnusable(f"nothing came for {SILENCE_SECONDS:g} s", 408) from error
        if chunk:
            yield chunk
