"""A real HTTP server with byte ranges, and with the troubles that servers have."""

from __future__ import annotations

import contextlib
import http.server
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.app.authority import Signed

PIECE = 1 << 14


@dataclass
class Published:
    """One file of the server, and how it misbehaves.

    Attributes
    ----------
    content : bytes
        The file.
    etag, modified : str
        Validators; "" sends none.
    ranges : bool
        Whether Range is honoured.
    statuses : list of int
        Answers of the next requests, one each, before the file is given.
    retry_after : str
        Sent with these.
    cut : list of int
        The next bodies, one each, end after so many bytes: the connection is closed.
    hold_at : int or None
        Bodies stop after so many bytes until `release` is set.
    announced : int or None
        Content-Length that is told instead of the true one.
    chunked : bool
        No length is told; what `surplus` holds comes after the file.
    surplus : bytes
        Sent after the content.
    redirect : str
        Where every request is sent on to.
    wrong_range : bool
        A range is answered with one that begins elsewhere.
    """

    content: bytes
    etag: str = '"one"'
    modified: str = ""
    ranges: bool = True
    statuses: list[int] = field(default_factory=list)
    retry_after: str = ""
    cut: list[int] = field(default_factory=list)
    hold_at: int | None = None
    announced: int | None = None
    chunked: bool = False
    surplus: bytes = b""
    redirect: str = ""
    wrong_range: bool = False


class Publisher:
    """The server: `files` by path, `asked` with the path and Range of every request."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, Published] = {}
        self.asked: list[tuple[str, str]] = []
        self.release = threading.Event()

    def put(self, path: str, content: bytes, **trouble: Any) -> Published:
        """Publish a file."""
        self.files[path] = Published(content, **trouble)
        return self.files[path]

    def ranges(self) -> list[str]:
        """Range of every request, "" for none."""
        return [asked for _, asked in self.asked]


class _Handler(http.server.BaseHTTPRequestHandler):
    publisher: Publisher
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Not on the test's stderr."""

    def do_GET(self) -> None:
        self.publisher.asked.append((self.path, self.headers.get("Range", "")))
        file = self.publisher.files.get(self.path)
        if file is None:
            self._short(404)
        elif file.statuses:
            self._short(file.statuses.pop(0), {"Retry-After": file.retry_after})
        elif file.redirect:
            self._short(302, {"Location": file.redirect})
        else:
            self._give(file)

    def _short(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _give(self, file: Published) -> None:
        size, start = len(file.content), 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range", "") in (file.etag or None, file.modified or None)
        if asked and file.ranges and same:
            start = int(asked[1])
            if start >= size:
                self._short(416)
                return
            self.send_response(206)
            first = start + 1 if file.wrong_range else start
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        else:
            self.send_response(200)
        body = file.content[start:] + file.surplus
        if file.etag:
            self.send_header("ETag", file.etag)
        if file.modified:
            self.send_header("Last-Modified", file.modified)
        if file.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            told = file.announced if file.announced is not None else len(file.content) - start
            self.send_header("Content-Length", str(told))
        self.end_headers()
        end = file.cut.pop(0) if file.cut else None
        with contextlib.suppress(ConnectionError):  # the client has had enough
            self._body(file, body[:end], start)
        if end is not None or file.announced is not None or file.surplus:
            self.close_connection = True

    def _body(self, file: Published, body: bytes, start: int) -> None:
        for at in range(0, len(body), PIECE):
            if file.hold_at is not None and start + at >= file.hold_at:
                self.wfile.flush()
                self.publisher.release.wait(60)
            piece = body[at : at + PIECE]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if file.chunked else piece)
        if file.chunked:
            self.wfile.write(b"0\r\n\r\n")


@contextmanager
def serving(signed: Signed | None = None) -> Iterator[Publisher]:
    """A server on a free port of 127.0.0.1, over TLS where a certificate is given."""
    handler = type("Handler", (_Handler,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        scheme = "http"
        if signed is not None:
            scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(signed.certificate, signed.private_key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        handler.publisher = Publisher(f"{scheme}://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield handler.publisher  # type: ignore[attr-defined]
        finally:
            handler.publisher.release.set()  # type: ignore[attr-defined]
            server.shutdown()
            thread.join(10)
