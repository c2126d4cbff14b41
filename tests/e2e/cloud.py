"""A stand-in for the cloud model: a real HTTP server that speaks POST /v1/messages.

It keeps every byte that it received, request line and headers included, and answers as
it is told to, well or badly.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = {
    "findings": "Two round densities.",
    "severity": "LOW",
    "confidence": 0.5,
    "regions_of_interest": [{"region": "left", "finding": "round", "concern": None}],
    "differential_diagnoses": ["phantom"],
    "recommendations": ["compare with the phantom's drawing"],
}


def message(text: str, stop_reason: str = "end_turn") -> dict[str, Any]:
    """A message as the API writes it."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-stand-in",
        "content": [{"type": "text", "text": text}],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 1200, "output_tokens": 300},
    }


@dataclass
class Cloud:
    """The running stand-in.

    Attributes
    ----------
    url : str
        For ``claude_base_url``.
    received : list of bytes
        Each request, whole.
    status, body, headers : int, bytes, dict
        What is answered.
    wait_s, drip_s : float
        Silence before the answer; pause before each of its bytes.
    hang_up : bool
        Close the connection instead of answering.
    """

    url: str = ""
    received: list[bytes] = field(default_factory=list)
    status: int = 200
    body: bytes = json.dumps(message(json.dumps(GOOD))).encode()
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})
    wait_s: float = 0.0
    drip_s: float = 0.0
    hang_up: bool = False

    def requests(self) -> list[dict[str, Any]]:
        """Bodies of the requests."""
        return [json.loads(raw.split(b"\r\n\r\n", 1)[1]) for raw in self.received]

    def pictures(self) -> list[bytes]:
        """Images of the requests, decoded."""
        return [
            base64.b64decode(part["source"]["data"], validate=True)
            for request in self.requests()
            for part in request["messages"][0]["content"]
            if part["type"] == "image"
        ]


class _Tee(io.RawIOBase):
    """What is read from a file is kept too."""

    def __init__(self, file: Any, kept: bytearray) -> None:
        self._file, self._kept = file, kept

    def readline(self, size: int | None = -1) -> bytes:
        line: bytes = self._file.readline(size)
        self._kept += line
        return line

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(size)
        self._kept += data
        return data


@contextmanager
def cloud_server() -> Iterator[Cloud]:
    """A stand-in on a free port."""
    cloud = Cloud()

    class Handler(BaseHTTPRequestHandler):
        def setup(self) -> None:
            super().setup()
            self.kept = bytearray()
            self.rfile = _Tee(self.rfile, self.kept)  # type: ignore[assignment]

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            cloud.received.append(bytes(self.kept))
            time.sleep(cloud.wait_s)
            if cloud.hang_up:
                self.close_connection = True
                return
            self.send_response(cloud.status if self.path == "/v1/messages" else 404)
            for name, value in cloud.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(cloud.body)))
            self.end_headers()
            for byte in range(0, len(cloud.body), 1 if cloud.drip_s else len(cloud.body) or 1):
                step = 1 if cloud.drip_s else len(cloud.body)
                self.wfile.write(cloud.body[byte : byte + step])
                self.wfile.flush()
                time.sleep(cloud.drip_s)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # the other side hung up: some tests want it to

    server = Server(("127.0.0.1", 0), Handler)
    cloud.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield cloud
    finally:
        server.shutdown()
        server.server_close()
