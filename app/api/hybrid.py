"""Local and cloud at the same time, and what is kept of it.

First it is decided, alone from the site's settings, the caller's words and the headers,
whether anything may leave. Every image that left has its line in `comparisons.jsonl`,
whatever became of either answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from app.api.answers import CloudView, HybridAnswer, LocalAnswer, WhyNot, now
from app.api.images import Uploaded
from app.api.refusals import ApiRefusal
from app.compare import record
from app.compare.claude import Claude, CloudAnswer
from app.compare.guard import Withheld, why_picture_stays, why_series_stays
from app.compare.picture import key_image, key_image_png, picture_png
from app.settings import Settings
from operators.errors import Refusal

log = logging.getLogger("radloop.api")

LOCAL_ONLY = Withheld("local_only", "use_local_only is true: nothing was sent.")


class Comparison:
    """One hybrid analysis.

    Parameters
    ----------
    settings : Settings
        Prices and place of the record.
    claude : Claude
        The cloud model.
    image_type : str
        As the caller said, checked.
    uploaded : Uploaded
        What to look at.
    """

    def __init__(
        self, settings: Settings, claude: Claude, image_type: str, uploaded: Uploaded
    ) -> None:
        self._settings, self._claude = settings, claude
        self._image_type, self._uploaded = image_type, uploaded
        self._png = b""
        self._withheld: Withheld | None = None

    async def prepare(self, *, local_only: bool, pixels_are_deidentified: bool) -> None:
        """Decide whether an image may leave, and draw it if so."""
        self._withheld = LOCAL_ONLY if local_only else self._claude.why_off()
        if self._withheld is None:
            drawn = await asyncio.to_thread(draw, self._uploaded, pixels_are_deidentified)
            if isinstance(drawn, Withheld):
                self._withheld = drawn
            else:
                self._png = drawn

    async def run(
        self, local: Coroutine[Any, Any, LocalAnswer], context: str | None
    ) -> HybridAnswer:
        """Ask both, keep both.

        Parameters
        ----------
        local : coroutine
            Gives the local answer.
        context : str or None
            What the caller called de-identified.

        Raises
        ------
        ApiRefusal
            The local analysis has no answer; the cloud's is in the record all the same.
        """
        if self._withheld is not None:
            return self._answer(await local, None, stored=False)
        asking = asyncio.create_task(self._claude.ask(self._png, self._image_type, context))
        trouble: ApiRefusal | None = None
        answer: LocalAnswer | None = None
        try:
            answer = await local
        except ApiRefusal as refusal:
            trouble = refusal
        cloud = await asking
        hashes = await asyncio.to_thread(_hashes, self._uploaded.files, self._png)
        stored = await self._store(answer, cloud, trouble, hashes)
        if answer is None:
            assert trouble is not None
            raise trouble
        return self._answer(answer, cloud, stored=stored)

    def _answer(
        self, local: LocalAnswer, cloud: CloudAnswer | None, *, stored: bool
    ) -> HybridAnswer:
        found = cloud.findings if cloud else None
        reason = cloud.reason if cloud else self._withheld
        return HybridAnswer(
            local_model=local,
            claude_vision=CloudView(**found.model_dump(), model=cloud.model)
            if found and cloud
            else None,
            claude_vision_reason=WhyNot(code=reason.code, text=reason.text) if reason else None,
            severity_match=record.severity_match(local.severity, found.severity if found else None),
            confidence_delta=record.confidence_delta(
                local.confidence, found.confidence if found else None
            ),
            processing_time_local_ms=local.processing_time_ms,
            processing_time_claude_ms=cloud.milliseconds if cloud else None,
            api_calls=1 if cloud else 0,
            api_cost=record.cost_usd(cloud.usage, self._settings) if cloud else 0.0,
            usage=cloud.usage if cloud else None,
            comparison_stored=stored,
        )

    async def _store(
        self,
        local: LocalAnswer | None,
        cloud: CloudAnswer,
        trouble: ApiRefusal | None,
        hashes: dict[str, str],
    ) -> bool:
        whole = self._answer(local, cloud, stored=True) if local else None
        entry = {
            "schema": 1,
            "id": uuid.uuid4().hex,
            "at": now(),
            **hashes,
            "image_type": self._image_type,
            "local": local.model_dump() if local else None,
            "local_trouble": trouble.code if trouble else None,
            "claude": cloud.findings.model_dump() if cloud.findings else None,
            "claude_reason": cloud.reason.code if cloud.reason else None,
            "claude_model_asked": self._settings.claude_model,
            "claude_model": cloud.model,
            "usage": cloud.usage.model_dump() if cloud.usage else None,
            "api_cost": record.cost_usd(cloud.usage, self._settings),
            "processing_time_claude_ms": cloud.milliseconds,
            "severity_match": whole.severity_match if whole else None,
            "confidence_delta": whole.confidence_delta if whole else None,
        }
        try:
            await asyncio.to_thread(record.append, self._settings.state_dir, entry)
        except OSError as error:
            log.error("event=comparison_not_stored errno=%s", error.errno)
            return False
        return True


def draw(uploaded: Uploaded, pixels_are_deidentified: bool) -> bytes | Withheld:
    """The picture that may leave, or why none may. Blocking: for a thread."""
    series = uploaded.series
    try:
        if series is None:
            stays = why_picture_stays(pixels_are_deidentified)
            return stays or picture_png(uploaded.files[0])
        return why_series_stays(series) or key_image_png(key_image(series))
    except Refusal as refusal:
        return Withheld("not_drawable", f"its pixels can't be drawn ({refusal.code}).")
    except Exception as error:  # noqa: BLE001  (a header that can't be read vouches for nothing)
        return Withheld("not_drawable", f"header or pixels can't be read ({type(error).__name__}).")


def _hashes(files: tuple[Path, ...], png: bytes) -> dict[str, str]:
    """sha256 of the upload (of its files' digests, sorted) and of what was sent."""
    digests = sorted(hashlib.sha256(path.read_bytes()).digest() for path in files)
    return {
        "upload_sha256": hashlib.sha256(b"".join(digests)).hexdigest(),
        "sent_sha256": hashlib.sha256(png).hexdigest(),
    }
