"""A DICOMweb server: stored by STOW-RS, then read back by WADO-RS and compared.

Its answer is not enough: a server may coerce attributes, or keep an older object of
the same UID, and say 200. What comes back is compared byte by byte; where the server
encodes anew (another transfer syntax, another order of writing), every element and
the decoded pixels must be equal. It deletes nothing: a rejection (IOCM) is stored.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import UID

from app.delivery.destination import (
    ContentDiffers,
    DestinationRefused,
    DestinationUnreachable,
    NotYet,
)
from app.delivery.reach import why_not_url
from app.delivery.rejections import Rejections

TIMEOUT_SECONDS = 60.0
SELF_TEST_SECONDS = 5.0
_LATER = frozenset({408, 425, 429})
_OUT_OF_RESOURCES = range(0xA700, 0xA800)  # PS3.4 Table B.2-1
_PIXEL_DATA = 0x7FE00010
_HINTS = {
    401: "Set stow_user and stow_password, or stow_token.",
    403: "The user or token may not do this: check its rights there.",
    404: "Is deliver_to_stow the root of its DICOMweb service, e.g. https://pacs/dicom-web?",
}


class _Bearer(requests.auth.AuthBase):
    """A token; as an auth object, or ~/.netrc would take its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class StowDestination:
    """A DICOMweb server.

    Parameters
    ----------
    url : str
        Root of STOW-RS, WADO-RS and QIDO-RS, e.g. ``https://pacs/dicom-web``.
    rejections : Rejections
        Writes what `withdraw` stores.
    user, password : str or None
        Basic authentication.
    token : str or None
        Bearer token, instead of them.
    key : str
        By which rules name it.
    """

    def __init__(
        self,
        url: str,
        rejections: Rejections,
        *,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        key: str = "stow",
    ) -> None:
        self._url, self._rejections, self.key = url.rstrip("/"), rejections, key
        self._auth: requests.auth.AuthBase | None = None
        if token:
            self._auth = _Bearer(token)
        elif user:
            self._auth = requests.auth.HTTPBasicAuth(user, password or "")

    @property
    def name(self) -> str:
        """Kind and address."""
        return f"DICOMweb {self._url}"

    def deliver(self, files: Sequence[Path]) -> None:
        """Store each file and compare what the server then gives back."""
        with self._client(TIMEOUT_SECONDS) as client:
            for file in files:
                self._deliver_one(client, file)

    def withdraw(self, files: Sequence[Path], because: str, recorded_at: str) -> None:
        """Store a rejection of them."""
        self.deliver(self._rejections.write(files, because, recorded_at))

    def self_test(self) -> str:
        """A search for one study: it asks for the rights that reading back needs."""
        with self._client(SELF_TEST_SECONDS) as client, self._answering("the search"):
            client.search_for_studies(limit=1, fields=["StudyInstanceUID"])
        return "answers to QIDO-RS"

    @contextmanager
    def _client(self, seconds: float) -> Iterator[DICOMwebClient]:
        with requests.Session() as session:
            session.auth = self._auth
            client = DICOMwebClient(
                self._url, session=session, permissive_uid=True, timeout=seconds
            )
            client.set_http_retry_params(retry=False)  # the caller tries again, and says so
            yield client

    def _deliver_one(self, client: DICOMwebClient, file: Path) -> None:
        sent = dcmread(file)
        with self._answering(file.name):
            failed = client.store_instances([sent]).get("FailedSOPSequence")
        if failed:
            self._refuse(file.name, "HTTP 202", failed[0].get("FailureReason"))
        with self._answering("reading it back", stored=file.name):
            held = client.retrieve_instance(
                str(sent.StudyInstanceUID), str(sent.SeriesInstanceUID), str(sent.SOPInstanceUID)
            )
        if _encoded(held) != file.read_bytes() and (tags := differing(sent, held)):
            raise ContentDiffers(self.name, file.name, tags)

    @contextmanager
    def _answering(self, what: str, *, stored: str | None = None) -> Iterator[None]:
        """Say what a failed request means; `stored`: what it asks for was stored just now."""
        try:
            yield
        except requests.HTTPError as error:
            assert error.response is not None  # raise_for_status, its only source, gives it
            status = error.response.status_code
            if status in _LATER or status >= 500:
                raise DestinationUnreachable(self.name, f"HTTP {status}") from error
            if stored and status in (404, 410):
                hint = "Does its WADO-RS show what its STOW-RS takes?"
                why = f"it took {stored}, but does not give it back yet"
                raise NotYet(self.name, why, hint) from error
            self._refuse(what, f"HTTP {status}", _failure_reason(error.response), status)
        except (requests.ConnectionError, requests.Timeout) as error:
            why = why_not_url(self._url) or type(error).__name__
            raise DestinationUnreachable(self.name, why) from error
        except Exception as error:  # the client parses whatever the server sent
            hint = f"Its answer is no DICOMweb ({type(error).__name__}). {_HINTS[404]}"
            raise DestinationRefused(self.name, "an answer out of place", what, hint) from error

    def _refuse(self, what: str, status: str, reason: int | None, http: int = 0) -> None:
        if reason in _OUT_OF_RESOURCES:
            raise DestinationUnreachable(self.name, f"failure reason {reason:#06x}: no resources")
        if reason is not None:
            status += f", failure reason {reason:#06x}"
        hint = _HINTS.get(http, "Its log says why.")
        raise DestinationRefused(self.name, status, what, hint)


def _failure_reason(response: requests.Response) -> int | None:
    """Failure Reason (0008,1197) of the first object in a STOW-RS answer, if it has one."""
    try:
        item = response.json()["00081198"]["Value"][0]
        return int(item["00081197"]["Value"][0])
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def _encoded(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    dcmwrite(stream, dataset)
    return stream.getvalue()


def differing(sent: Dataset, held: Dataset) -> list[str]:
    """Tags of the elements that are not equal, decoded.

    Parameters
    ----------
    sent, held : Dataset
        With their file meta information; transfer syntax, lengths of groups and the
        padding of pixels may differ.

    Returns
    -------
    list of str
        As ``(gggg,eeee)``, ascending; empty where the two say the same.
    """
    tags = sorted(set(sent.keys()) | set(held.keys()))
    different = [
        tag
        for tag in tags
        if tag.element != 0  # Group Length: a way of writing (PS3.5 7.2)
        and (_pixels_differ(sent, held) if tag == _PIXEL_DATA else sent.get(tag) != held.get(tag))
    ]
    return [f"({tag.group:04X},{tag.element:04X})" for tag in different]


def _pixels_differ(sent: Dataset, held: Dataset) -> bool:
    if "PixelData" not in sent or "PixelData" not in held:
        return True
    if _is_native(sent) and _is_native(held):
        return _unpadded(sent) != _unpadded(held)
    return not np.array_equal(sent.pixel_array, held.pixel_array)


def _is_native(dataset: Dataset) -> bool:
    return not UID(dataset.file_meta.TransferSyntaxUID).is_compressed


def _unpadded(dataset: Dataset) -> bytes:
    """Pixels without the byte that makes their number even."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    samples = frames * dataset.Rows * dataset.Columns * dataset.SamplesPerPixel
    return bytes(dataset.PixelData[: (samples * dataset.BitsAllocated + 7) // 8])
