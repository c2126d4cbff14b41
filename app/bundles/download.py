"""One file from one address: resumed after whatever cut it, checked before it has its name.

Bytes go into ``NAME.part``; beside it ``NAME.part.json`` says which address and which state
of the file (strong ETag, else Last-Modified) they are a part of. A later try asks for the
rest of that very state (Range with If-Range, RFC 9110 13.1.5) and begins anew where the
server can't say that it is the same. The file gets its name only when its hash is right.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_base, wait_exponential_jitter

from app.bundles.fetch_refusals import (
    ChecksumDiffers,
    FileTooLarge,
    NoRoom,
    RedirectUnsafe,
    SourceUnreachable,
)
from app.bundles.install import file_hash
from app.bundles.unpack import MAX_BYTES

ATTEMPTS = 6
MAX_REDIRECTS = 5
LONGEST_WAIT_S = 60.0
TIMEOUT = httpx.Timeout(60.0, connect=15.0)
# What a server may get over by itself; any other status is an answer.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

Told = Callable[[int, int | None], None]
"""Takes how many bytes are here, and of how many (None: the server does not say)."""
Waits = Callable[[str], None]
"""Takes why a try failed and when the next one comes, in words."""


@dataclass(frozen=True)
class Wanted:
    """A file to be downloaded.

    Attributes
    ----------
    bundle : str
        Whose file it is, for messages.
    url : str
        Where it is.
    hash_type, hash_val : str
        What its publisher says it hashes to; names as in hashlib, hexadecimal.
    file : Path
        Where it is put; the folder exists.
    schemes : frozenset of str
        URL schemes that a redirect may lead to.
    by_hand : str
        What a person does with the file who got it otherwise, for messages.
    """

    bundle: str
    url: str
    hash_type: str
    hash_val: str
    file: Path
    schemes: frozenset[str] = frozenset({"https"})
    by_hand: str = "takes the zip to `radloop bundles import`"


class _Interrupted(Exception):
    """One try failed in a way that the next may not.

    Attributes
    ----------
    wait_s : float
        What the server asked to wait, s.
    """

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class AsAsked(wait_base):
    """Exponential with jitter, or longer where the server asks, up to `LONGEST_WAIT_S`."""

    def __init__(self) -> None:
        self._grown = wait_exponential_jitter(initial=1, max=30, jitter=2)

    def __call__(self, retry_state: RetryCallState) -> float:
        failure = retry_state.outcome.exception() if retry_state.outcome else None
        asked = failure.wait_s if isinstance(failure, _Interrupted) else 0.0
        return min(max(self._grown(retry_state), asked), LONGEST_WAIT_S)


PAUSE = AsAsked()


def client() -> httpx.Client:
    """As httpx is set up by the environment: proxies (``HTTPS_PROXY``), ``SSL_CERT_FILE``."""
    # identity: a hash is of the bytes as published, and sizes are checked as they are announced
    headers = {"Accept-Encoding": "identity", "User-Agent": "radloop"}
    return httpx.Client(timeout=TIMEOUT, headers=headers, follow_redirects=False)


def free_bytes(folder: Path) -> int:
    """Free space of the disk that holds a folder, bytes."""
    return shutil.disk_usage(folder).free


def download(
    wanted: Wanted,
    http: httpx.Client,
    told: Told = lambda done, total: None,
    pause: wait_base = PAUSE,
    waits: Waits = lambda why: None,
) -> None:
    """Bring a file here, unless a former run did.

    Parameters
    ----------
    wanted : Wanted
        What, from where, to where.
    http : httpx.Client
        See `client`.
    told : callable
        Gets the progress.
    pause : tenacity wait
        Between two tries.
    waits : callable
        Gets a sentence before each pause.

    Raises
    ------
    PublishedRefusal
        Unreachable, sent elsewhere, too large, no room, or other bytes than published.
    """
    if wanted.file.is_file() and file_hash(wanted.file, wanted.hash_type) == wanted.hash_val:
        return
    part = _Part(wanted)
    if part.held()[0] and file_hash(part.file, wanted.hash_type) == wanted.hash_val:
        part.finish(wanted.file)  # killed between the last byte and the name
        return
    tries = Retrying(
        retry=retry_if_exception_type(_Interrupted),
        stop=stop_after_attempt(ATTEMPTS),
        wait=pause,
        before_sleep=lambda state: waits(_in_words(wanted, state)),
        reraise=True,
    )
    try:
        tries(_once, wanted, part, http, told)
    except _Interrupted as error:
        raise _unreachable(wanted, str(error), ATTEMPTS, part) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        folder = wanted.file.parent
        raise NoRoom(wanted.bundle, folder, None, free_bytes(folder)) from error
    found = file_hash(part.file, wanted.hash_type)
    if found != wanted.hash_val:
        part.forget()
        raise ChecksumDiffers(wanted.bundle, wanted.url, wanted.hash_type, found, wanted.hash_val)
    part.finish(wanted.file)


def _in_words(wanted: Wanted, state: RetryCallState) -> str:
    failure = state.outcome.exception() if state.outcome else None
    pause = state.next_action.sleep if state.next_action else 0.0
    again = f"try {state.attempt_number + 1} of {ATTEMPTS} in {pause:.0f} s"
    return f"{wanted.url} {failure}: {again}"


def _unreachable(wanted: Wanted, why: str, tries: int, part: _Part) -> SourceUnreachable:
    held = part.held()[0]
    return SourceUnreachable(
        wanted.bundle, wanted.url, why, tries=tries, held=held, by_hand=wanted.by_hand
    )


class _Part:
    """What is here of a file, and of which state of it."""

    def __init__(self, wanted: Wanted) -> None:
        self._url = wanted.url
        self.file = wanted.file.with_name(wanted.file.name + ".part")
        self._note = wanted.file.with_name(wanted.file.name + ".part.json")

    def held(self) -> tuple[int, str]:
        """Bytes that can be gone on from, and the validator of their state; (0, "") for none."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            if note["url"] == self._url and note["validator"]:
                return self.file.stat().st_size, str(note["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no note, or one that a crash cut: what it was about can't be known
        return 0, ""

    def begin(self, validator: str) -> None:
        """Forget what was here, and note what comes."""
        self.forget()
        note = self._note.with_suffix(".new")
        note.write_text(json.dumps({"url": self._url, "validator": validator}), encoding="utf-8")
        note.replace(self._note)

    def forget(self) -> None:
        self._note.unlink(missing_ok=True)
        self.file.unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """Give the file its name."""
        with self.file.open("rb") as file:
            os.fsync(file.fileno())
        self.file.replace(target)
        self._note.unlink(missing_ok=True)


def _once(wanted: Wanted, part: _Part, http: httpx.Client, told: Told) -> None:
    """One try: all that is missing, or `_Interrupted`."""
    held, validator = part.held()
    headers = {"Range": f"bytes={held}-", "If-Range": validator} if held else {}
    try:
        with _opened(wanted, http, headers) as response:
            start, total = _span(wanted, part, response, held)
            _check_size(wanted, part, start, total)
            if start == 0:
                part.begin(_validator(response))
            _take(wanted, part, response, start, total, told)
    except httpx.TransportError as error:
        raise _Interrupted(f"gave no whole answer ({type(error).__name__})") from error


@contextmanager
def _opened(
    wanted: Wanted, http: httpx.Client, headers: dict[str, str]
) -> Iterator[httpx.Response]:
    """The answer behind all redirects, its body not read yet."""
    request = http.build_request("GET", wanted.url, headers=headers)
    for _ in range(MAX_REDIRECTS + 1):
        response = http.send(request, stream=True)
        try:
            if response.next_request is None:
                yield response
                return
            request = response.next_request
        finally:
            response.close()
        if request.url.scheme not in wanted.schemes:
            raise RedirectUnsafe(wanted.bundle, wanted.url, _bare(request.url), wanted.by_hand)
    raise RedirectUnsafe(wanted.bundle, wanted.url, _bare(request.url), wanted.by_hand)


def _bare(url: httpx.URL) -> str:
    """Without the query, which may hold a signature."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}{url.path}"


def _span(
    wanted: Wanted, part: _Part, response: httpx.Response, held: int
) -> tuple[int, int | None]:
    """Where the body begins in the file, and how long the file is (None: not said)."""
    status = response.status_code
    if status == httpx.codes.OK:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    if status == httpx.codes.PARTIAL_CONTENT:
        given = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if given and int(given[1]) == held:
            return held, int(given[3])
    if status in (httpx.codes.PARTIAL_CONTENT, httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE):
        part.forget()
        raise _Interrupted(f"answered {status} to the rest of what is here")
    if status in PASSING:
        after = response.headers.get("Retry-After", "")
        raise _Interrupted(f"answered {status}", float(after) if after.isdigit() else 0.0)
    raise _unreachable(wanted, f"answered {status}", 1, part)


def _validator(response: httpx.Response) -> str:
    """A strong ETag, else the date; "" where nothing tells two states of the file apart."""
    tag = str(response.headers.get("ETag", ""))
    return tag if tag.startswith('"') else str(response.headers.get("Last-Modified", ""))


def _check_size(wanted: Wanted, part: _Part, start: int, total: int | None) -> None:
    if total is None:
        return
    if total > MAX_BYTES:
        part.forget()
        raise FileTooLarge(wanted.bundle, wanted.url, f"{total} bytes", MAX_BYTES, "of a bundle")
    needed = total - start + total  # the rest of it, then the bundle that is unpacked from it
    free = free_bytes(wanted.file.parent)
    if needed > free:
        raise NoRoom(wanted.bundle, wanted.file.parent, needed, free)


def _take(
    wanted: Wanted,
    part: _Part,
    response: httpx.Response,
    start: int,
    total: int | None,
    told: Told,
) -> None:
    """Append the body to the part; it ends where the file was said to end."""
    limit, which = (MAX_BYTES, "of a bundle") if total is None else (total, "that it announced")
    done = start
    told(done, total)
    with part.file.open("ab") as target:
        for block in response.iter_raw():  # as it comes: a cut loses nothing
            if done + len(block) > limit:
                part.forget()
                found = f"more than {limit} bytes"
                raise FileTooLarge(wanted.bundle, wanted.url, found, limit, which)
            target.write(block)
            done += len(block)
            told(done, total)
    if total is not None and done < total:
        raise _Interrupted(f"ended after {done} of {total} bytes")
