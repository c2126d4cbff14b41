"""What stands before every path: who asks, how much is read, and what a fault looks like.

Plain ASGI, so that no task is wrapped around a caller's and nothing is read before the
token was seen. Log lines name our own routes, never a path or a query that came.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from app.api.desk import has_token, is_loopback
from app.api.refusals import ApiRefusal, BodyTooLarge, Defect, ForeignPage, NotAllowed
from app.api.upload import BODY_LIMIT_BYTES
from app.settings import Settings

log = logging.getLogger("radloop.api")

HEALTH = "/api/v1/health"
JSON_LIMIT_BYTES = 64 << 10
DRAIN_BYTES = 16 << 20
DRAIN_SECONDS = 5.0

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Gate:
    """The outermost ASGI application.

    Parameters
    ----------
    app : ASGI application
        The paths.
    settings : Settings
        Token and address.
    """

    def __init__(self, app: App, settings: Settings) -> None:
        self._app = app
        self._token: bytes | None = None
        if settings.api_token is not None and has_token(settings):
            self._token = settings.api_token.get_secret_value().encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = time.monotonic()
        answered: list[int] = []
        headers = {name.lower(): value for name, value in scope["headers"]}
        body = _Body(headers, receive)

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                await body.drain()
                answered.append(message["status"])
                message["headers"] = [*message.get("headers", ()), (b"cache-control", b"no-store")]
            await send(message)

        try:
            self._admit(scope["path"], headers)
            body.check_claim()
            await self._app(scope, body.receive, noting)
        except Exception as error:  # noqa: BLE001  (a caller gets an answer, whatever it is)
            # Frames only: the message of a foreign exception may quote a patient's data.
            if not isinstance(error, ApiRefusal):
                frames = "".join(traceback.format_tb(error.__traceback__))
                log.error("event=defect kind=%s\n%s", type(error).__name__, frames)
            if not answered:
                await answer(error if isinstance(error, ApiRefusal) else Defect(), noting)
        finally:
            log.info(
                "event=answered route=%s status=%s ms=%.0f",
                getattr(scope.get("route"), "path", "-"),
                answered[0] if answered else "-",
                1000 * (time.monotonic() - began),
            )

    def _admit(self, path: str, headers: dict[bytes, bytes]) -> None:
        """Raises ApiRefusal for a caller that is not let in."""
        named = headers.get(b"host", b"")
        host = _host(b"//" + named)
        origin = headers.get(b"origin")
        # With its port: another program of this machine has pages too.
        if origin is not None and origin.partition(b"//")[2].lower() != named.lower():
            raise ForeignPage("Origin")
        if self._token is None:
            # A page whose name was pointed at 127.0.0.1 has the same origin, but not our name.
            if not is_loopback(host):
                raise ForeignPage("Host")
        elif path != HEALTH:
            scheme, _, shown = headers.get(b"authorization", b"").partition(b" ")
            right = hmac.compare_digest(shown.strip(), self._token)
            if scheme.lower() != b"bearer" or not right:
                raise NotAllowed


def _host(url: bytes) -> str:
    try:
        return urlsplit(url.decode("latin-1")).hostname or ""
    except ValueError:
        return ""


class _Body:
    """A request's body: counted while it is read, and its rest thrown away before an answer.

    A connection that is closed with bytes unread is reset, and the answer is lost with it.
    """

    def __init__(self, headers: dict[bytes, bytes], receive: Receive) -> None:
        form = headers.get(b"content-type", b"").lower().startswith(b"multipart/")
        self._limit = BODY_LIMIT_BYTES if form else JSON_LIMIT_BYTES
        claimed = headers.get(b"content-length", b"0")
        self._claimed = int(claimed) if claimed.isdigit() else self._limit + 1
        self._receive = receive
        self._seen = 0
        # Who asks first ("Expect: 100-continue") sends nothing before we read.
        self._ended = b"expect" in headers

    def check_claim(self) -> None:
        """Raises BodyTooLarge by what the caller says, before anything is read."""
        if self._claimed > self._limit:
            raise BodyTooLarge("the body", self._limit)

    async def receive(self) -> Message:
        """The next piece.

        Raises
        ------
        BodyTooLarge
            That was too much.
        """
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        if self._seen > self._limit:
            raise BodyTooLarge("the body", self._limit)
        return message

    async def drain(self) -> None:
        """Read what is on its way, within `DRAIN_BYTES` and `DRAIN_SECONDS`."""
        if self._claimed - self._seen > DRAIN_BYTES:
            return
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self._ended and self._seen <= self._limit:
                    await self.receive()
        except (TimeoutError, BodyTooLarge):
            return


async def answer(refusal: ApiRefusal, send: Send) -> None:
    """A refusal as JSON: ``{"error": {"code": …, "message": …}}``."""
    body = json.dumps({"error": {"code": refusal.code, "message": str(refusal)}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if refusal.status == NotAllowed.status:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.status == 503:
        headers.append((b"retry-after", b"5"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
