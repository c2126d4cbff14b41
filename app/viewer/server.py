"""The viewer's server: guards, headers, routes, and its life in a thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.viewer.proxy import OrthancAddress, OrthancReader
from app.viewer.refusals import AnsweredRefusal, HostRefused, ViewerPortTaken, ViewerRefusal
from app.viewer.site import OhifSite

LOOPBACK = "127.0.0.1"
OWN_NAMES = frozenset({"localhost", LOOPBACK})
METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
START_SECONDS = 20.0
STOP_SECONDS = 5.0
HEADERS = {
    # These three make the page cross-origin isolated: shared memory for its decoders.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Whatever the build contains, it talks to nobody but us. OHIF compiles wasm, evaluates
    # its own templates and starts workers from blobs.
    "Content-Security-Policy": "default-src 'self'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'self'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Guard:
    """Answers only to its own names, and puts the headers on every answer.

    There is no sign-in, so a page of another site must not get in by a name that
    it made point to this machine (DNS rebinding).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        name = Request(scope).headers.get("host", "").rsplit(":", 1)[0].lower()
        app = self._app if name in OWN_NAMES else _sentence(HostRefused())
        await app(scope, receive, send_with_headers)


def _sentence(refusal: AnsweredRefusal) -> Response:
    return PlainTextResponse(f"{refusal.reason}\n", refusal.status)


async def _refused(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, AnsweredRefusal)
    return _sentence(error)


async def _http(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)


def make_app(ohif: Path, orthanc: OrthancAddress) -> Starlette:
    """The viewer as an ASGI application.

    Parameters
    ----------
    ohif : Path
        OHIF's `dist`.
    orthanc : OrthancAddress
        Whose studies are shown.

    Raises
    ------
    OhifMissing
        The folder holds no build.
    """
    site, reader = OhifSite(ohif), OrthancReader(orthanc)

    @asynccontextmanager
    async def closing(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        await reader.aclose()

    app = Starlette(
        routes=[
            Route("/dicom-web/{path:path}", reader.answer, methods=METHODS),
            Route("/wado", reader.answer, methods=METHODS),
            Route("/{path:path}", site.answer, methods=["GET", "HEAD"]),
        ],
        exception_handlers={AnsweredRefusal: _refused, HTTPException: _http},
        lifespan=closing,
    )
    app.add_middleware(Guard)
    return app


@contextmanager
def running_viewer(ohif: Path, orthanc: OrthancAddress, port: int = 0) -> Iterator[str]:
    """The viewer on loopback while the block runs.

    Parameters
    ----------
    ohif : Path
        OHIF's `dist`.
    orthanc : OrthancAddress
        Whose studies are shown; it need not be up yet.
    port : int
        0 takes a free one.

    Yields
    ------
    str
        Root, without a slash at its end.

    Raises
    ------
    OhifMissing
        The folder holds no build.
    ViewerPortTaken
        Somebody listens on that port.
    """
    app = make_app(ohif, orthanc)
    with _listening(port) as listener:
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,  # a query may hold a patient's name
                timeout_graceful_shutdown=1,
            )
        )
        thread = threading.Thread(target=server.run, args=([listener],), name="viewer", daemon=True)
        thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise ViewerRefusal(f"the viewer's server did not start on port {port}.")
            time.sleep(0.01)
        try:
            yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(STOP_SECONDS)


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
            listener.listen()
        except OSError as error:
            raise ViewerPortTaken(port) from error
        yield listener


def study_link(root: str, study_uid: str) -> str:
    """The page that opens one study."""
    return f"{root}/viewer?{urlencode({'StudyInstanceUIDs': study_uid})}"
