"""Telling another system what became of a study: one HTTP POST, until it is taken.

The body is JSON: study_instance_uid, version, state, reason; UIDs and sentences, no PHI.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SECONDS = 10.0


def post(url: str, body: Mapping[str, Any]) -> str:
    """Send it once.

    Returns
    -------
    str
        Why it was not taken; empty where the answer was 2xx.
    """
    import httpx

    try:
        answer = httpx.post(url, json=dict(body), timeout=SECONDS, follow_redirects=False)
    except httpx.HTTPError as error:
        return type(error).__name__
    return "" if answer.is_success else f"HTTP {answer.status_code}"
