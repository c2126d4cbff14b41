"""The way to Orthanc: QIDO-RS and WADO, reading only, with credentials that stay here.

Only what DICOMweb needs goes through (PS3.18 section 10: `/studies`, `/series`,
`/instances`, and `/wado`); nothing of Orthanc's own REST interface can be
reached. Answers are streamed, never held.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote

import httpx
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.settings import Settings
from app.viewer.bit_frames import CONTENT_TYPE, BitFrameReader
from app.viewer.refusals import (
    CredentialsRefused,
    OrthancSilent,
    OrthancUnset,
    PathRefused,
    SaveRefused,
)
from app.viewer.site import safe_segments

READING = ("GET", "HEAD")
RESOURCES = ("studies", "series", "instances")
ASKED = ("accept", "range", "if-none-match", "if-modified-since")
ANSWERED = ("content-type", "content-range", "accept-ranges", "etag", "last-modified")
# An answer may take long to begin (a series is packed); a connection may not.
PATIENCE = httpx.Timeout(120.0, connect=5.0)
PRIVATE = {"Cache-Control": "no-store"}  # a patient does not stay in the browser's cache


@dataclass(frozen=True)
class OrthancAddress:
    """Where Orthanc is and how it knows us.

    Attributes
    ----------
    url : str
        REST root, without a slash at its end.
    login : tuple of (str, str) or None
        User and password of its basic authentication.
    """

    url: str
    login: tuple[str, str] | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> OrthancAddress:
        """The settings' Orthanc.

        Raises
        ------
        OrthancUnset
            They name none.
        """
        if settings.orthanc_url is None:
            raise OrthancUnset
        if settings.orthanc_user is None:
            return cls(settings.orthanc_url)
        password = settings.orthanc_password
        return cls(
            settings.orthanc_url,
            (settings.orthanc_user, password.get_secret_value() if password else ""),
        )


class OrthancReader:
    """Passes reading requests on.

    Parameters
    ----------
    address : OrthancAddress
        Where to.
    """

    def __init__(self, address: OrthancAddress) -> None:
        self._address = address
        # Orthanc is in the house: a proxy that the environment names is not asked.
        self._client = httpx.AsyncClient(auth=address.login, timeout=PATIENCE, trust_env=False)
        self._bit_frames = BitFrameReader(self._client)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def answer(self, request: Request) -> Response:
        """Orthanc's answer, as it comes.

        Raises
        ------
        SaveRefused
            Any other method than GET, HEAD and OPTIONS.
        PathRefused
            No resource of DICOMweb.
        OrthancSilent, CredentialsRefused
            Orthanc gives no usable answer.
        """
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": "GET, HEAD, OPTIONS"})
        if request.method not in READING:
            raise SaveRefused(request.method)
        try:
            upstream = await self._ask(request)
            if upstream.status_code == 400:
                body = await self._bit_frames.multipart(self._url(request))
                if body is not None:
                    await upstream.aclose()
                    return Response(body, headers=PRIVATE, media_type=CONTENT_TYPE)
        except httpx.HTTPError as error:
            raise OrthancSilent(self._address.url, error) from error
        if upstream.status_code == 401:
            await upstream.aclose()
            # Passed on, the browser would ask its user for Orthanc's password.
            raise CredentialsRefused(self._address.url)
        headers = {
            name: upstream.headers[name] for name in ANSWERED if name in upstream.headers
        } | PRIVATE
        if request.method == "HEAD":
            await upstream.aclose()
            return Response(status_code=upstream.status_code, headers=headers)
        return StreamingResponse(_body(upstream), upstream.status_code, headers)

    async def _ask(self, request: Request) -> httpx.Response:
        headers = {name: request.headers[name] for name in ASKED if name in request.headers}
        headers["accept-encoding"] = "identity"
        # By this Orthanc writes URLs that lead back through us (RFC 7239).
        headers["forwarded"] = f"host={request.headers['host']};proto=http"
        url = self._url(request)
        if query := request.url.query:
            url += f"?{query}"
        # Orthanc's plugin answers HEAD with 404: it is asked with GET, and cut short.
        asked = self._client.build_request("GET", url, headers=headers)
        return await self._client.send(asked, stream=True)

    def _url(self, request: Request) -> str:
        return self._address.url + _dicomweb_path(request.url.path, request.path_params)


def _dicomweb_path(path: str, parameters: dict[str, str]) -> str:
    if "path" not in parameters:  # /wado
        return path
    segments = safe_segments(parameters["path"])
    if segments[0] not in RESOURCES:
        raise PathRefused(f"DICOMweb has {', '.join(RESOURCES)} here", 404)
    return "/dicom-web/" + "/".join(quote(part, safe=",") for part in segments)


async def _body(upstream: httpx.Response) -> AsyncIterator[bytes]:
    """Bytes as they arrive; where they break off, so does our answer: it is not ended well."""
    try:
        async for block in upstream.aiter_raw():
            yield block
    finally:
        await upstream.aclose()
