"""Sources and SEGs out of Orthanc, by their DICOM UIDs. Nothing is written there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orthanc_api_client import OrthancApiClient, exceptions

from training.refusals import ArchiveUnreachable, SourceGone

TIMEOUT_SECONDS = 120.0


class Archive:
    """An Orthanc server to read from; a context manager that closes its connections.

    Parameters
    ----------
    url : str
        REST root, e.g. ``http://127.0.0.1:8042``.
    user, password : str or None
        Basic authentication.
    """

    def __init__(self, url: str, user: str | None = None, password: str | None = None) -> None:
        self._url = url.rstrip("/") + "/"  # without the slash a path of the URL is dropped
        self._client = OrthancApiClient(self._url, user=user, pwd=password)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def fetch_series(self, study_uid: str, series_uid: str, folder: Path) -> None:
        """Write every instance of a series into a folder, byte for byte.

        Raises
        ------
        SourceGone
            No such series in that study, or several of different patients.
        ArchiveUnreachable
            Orthanc does not answer as it should.
        """
        query = {"StudyInstanceUID": study_uid, "SeriesInstanceUID": series_uid}
        found = self._find("Series", query)
        if len(found) != 1:
            raise SourceGone("series", series_uid, len(found))
        instances = self._call("get", f"series/{found[0]}").json()["Instances"]
        for number, instance in enumerate(instances):
            content = self._call("get", f"instances/{instance}/file").content
            (folder / f"{number:06d}.dcm").write_bytes(content)

    def fetch_instance(self, sop_instance_uid: str) -> bytes:
        """The bytes of one instance as they are stored.

        Raises
        ------
        SourceGone
            No such instance, or several of different patients.
        ArchiveUnreachable
            Orthanc does not answer as it should.
        """
        found = self._find("Instance", {"SOPInstanceUID": sop_instance_uid})
        if len(found) != 1:
            raise SourceGone("instance", sop_instance_uid, len(found))
        content: bytes = self._call("get", f"instances/{found[0]}/file").content
        return content

    def _find(self, level: str, query: dict[str, str]) -> list[str]:
        body = {"Level": level, "Query": query}
        found: list[str] = self._call("post", "tools/find", json=body).json()
        return found

    def _call(self, method: str, endpoint: str, **arguments: Any) -> Any:
        url = self._url + endpoint
        try:
            response = getattr(self._client, method)(endpoint, timeout=TIMEOUT_SECONDS, **arguments)
        except exceptions.HttpError as error:
            raise ArchiveUnreachable(url, f"HTTP {error.http_status_code}") from error
        except exceptions.OrthancApiException as error:
            raise ArchiveUnreachable(url, type(error).__name__) from error
        if response is None:  # the client gives None for what it can't translate
            raise ArchiveUnreachable(url, "a broken answer at every try")
        return response
