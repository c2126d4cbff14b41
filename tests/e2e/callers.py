"""Calling the API as a program would: over a socket, by its documented paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.app.conftest import until
from tests.e2e.serving import Served

LOCAL = "/api/phase-5/image/analyze-local-only"
HYBRID = "/api/phase-5/image/analyze-hybrid"
FINE_TUNE = "/api/phase-5/model/fine-tune"
HEALTH = "/api/v1/health"
LOAD_SECONDS = 400.0  # monai on a cold, busy machine

Part = tuple[str, tuple[str, bytes, str]]


def parts(files: Sequence[Path | bytes], name: str = "slice.dcm") -> list[Part]:
    """Files as `image` parts."""
    contents = [file if isinstance(file, bytes) else file.read_bytes() for file in files]
    return [("image", (name, content, "application/octet-stream")) for content in contents]


@contextmanager
def caller(served: Served, **headers: str) -> Iterator[httpx.Client]:
    """A client of a running service whose API answers."""
    url = served.wait_for(r"API on (http://\S+)")[1]
    with httpx.Client(
        base_url=url, timeout=LOAD_SECONDS, headers=headers, trust_env=False
    ) as client:
        until(lambda: _lives(client), 60)
        yield client


def _lives(client: httpx.Client) -> bool:
    try:
        return client.get(HEALTH, timeout=5).json() == {"status": "ok"}
    except httpx.HTTPError:
        return False


def error(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, which has the one form that all have."""
    body: dict[str, Any] = answer.json()
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message"}
    return answer.status_code, body["error"]["code"]
