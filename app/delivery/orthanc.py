"""Orthanc by its REST interface: upload, then read every byte back.

The status is not enough: with `OverwriteInstances` off Orthanc answers
"AlreadyStored" for another object of the same UID and drops the new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orthanc_api_client import OrthancApiClient, exceptions
from pydicom import dcmread

from app.delivery.destination import (
    DestinationRefused,
    DestinationUnreachable,
    NotWithdrawn,
    ReadBackDiffers,
)
from app.delivery.reach import why_not_url
from app.delivery.states import STATE_MARK

TIMEOUT_SECONDS = 60.0
SELF_TEST_SECONDS = 5.0
# User metadata of a study. By its number Orthanc takes it without being configured; an entry
# "UserMetadata": {"RadloopState": 1025} of its configuration gives it this name.
STATE_METADATA = 1025
_LATER = frozenset({408, 425, 429})
_HINTS = {
    401: "Set orthanc_user and orthanc_password (RADLOOP_ORTHANC_USER, RADLOOP_ORTHANC_PASSWORD).",
    403: "The user may not do this: check the rights of orthanc_user.",
    404: "Is orthanc_url the root of Orthanc's REST interface?",
}


class _Client(OrthancApiClient):
    """Its parent tries a refused certificate ten times, for minutes; it would not change."""

    def __init__(self, url: str, user: str | None, password: str | None) -> None:
        super().__init__(url, user=user, pwd=password)
        adapter = self._http_session.get_adapter(url)
        adapter.max_retries = adapter.max_retries.new(other=0)


class OrthancDestination:
    """An Orthanc server.

    Parameters
    ----------
    url : str
        REST root, e.g. ``http://127.0.0.1:8042``.
    user, password : str or None
        Basic authentication.
    key : str
        By which rules name it.
    seconds : float
        Longest wait for an answer, s.
    """

    def __init__(
        self,
        url: str,
        user: str | None = None,
        password: str | None = None,
        key: str = "orthanc",
        seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self.key, self._seconds = key, seconds
        self._url = url.rstrip("/") + "/"  # without the slash a path of the URL is dropped
        self._user, self._password = user, password

    @property
    def name(self) -> str:
        """Kind and address."""
        return f"Orthanc {self._url}"

    def deliver(self, files: Sequence[Path]) -> None:
        """Upload each file and compare what Orthanc then holds, byte by byte."""
        for file in files:
            self.store(file.read_bytes(), file.name)

    def store(self, content: bytes, what: str) -> None:
        """Upload one object and compare what Orthanc then holds; `what` names it in a refusal."""
        stored = self._call("post", "instances", data=content).json()
        held = self._call("get", f"instances/{stored['ID']}/file").content
        if held != content:
            raise ReadBackDiffers(self.name, what, len(content), len(held))

    def fetch(self, sop_instance_uid: str) -> list[bytes]:
        """Every object that Orthanc holds under a SOP Instance UID, byte by byte.

        Returns
        -------
        list of bytes
            Empty where there is none; several where one UID stands in several series.
        """
        return [
            self._call("get", f"instances/{instance}/file").content
            for instance in self._lookup(sop_instance_uid)
        ]

    def sizes(self, sop_instance_uid: str) -> list[int]:
        """Bytes of every object that Orthanc holds under a SOP Instance UID."""
        return [
            int(self._call("get", f"instances/{instance}").json()["FileSize"])
            for instance in self._lookup(sop_instance_uid)
        ]

    def studies_of(self, patient_id: str, until: str) -> list[tuple[str, str]]:
        """Studies of a Patient ID, whoever issued it.

        Parameters
        ----------
        patient_id : str
            Compared exactly, wildcards included.
        until : str
            ``YYYYMMDD``, the last day; "": any.

        Returns
        -------
        list of (str, str)
            StudyDate and Study Instance UID.
        """
        asked = {"PatientID": patient_id, "StudyDate": f"-{until}" if until else ""}
        query = {"Level": "Study", "Expand": True, "CaseSensitive": True, "Query": asked}
        return [
            (str(study["MainDicomTags"].get("StudyDate", "")), str(uid))
            for study in self._call("post", "tools/find", json=query).json()
            if (uid := study["MainDicomTags"].get("StudyInstanceUID"))
            and str(study["PatientMainDicomTags"].get("PatientID", "")).strip() == patient_id
        ]

    def withdraw(self, files: Sequence[Path], because: str, recorded_at: str) -> None:
        """Delete each object whose bytes are the file's, and look that it is gone."""
        changed = None
        for file in files:
            content = file.read_bytes()
            uid = str(dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
            for instance in self._lookup(uid):
                held = self._call("get", f"instances/{instance}/file", absent=True)
                if held is None:
                    continue  # somebody was faster
                if held.content != content:
                    changed = file.name
                    continue
                self._call("delete", f"instances/{instance}", absent=True)
                if instance in self._lookup(uid):
                    why = f"{file.name} stays there although it was deleted"
                    raise DestinationUnreachable(self.name, why)
        if changed is not None:
            raise NotWithdrawn(self.name, changed)

    def show_state(self, study_instance_uid: str, value: str) -> bool:
        """Write a state into the user metadata of a study; whether the study is there.

        Parameters
        ----------
        study_instance_uid : str
            Which.
        value : str
            Begins with `STATE_MARK`: what stands there already is only replaced where it
            does too.

        Raises
        ------
        DestinationUnreachable
            Try again later.
        DestinationRefused
            The user may not, or the number is in use for something else.
        """
        found = self._call("post", "tools/lookup", data=study_instance_uid).json()
        for study in [entry["ID"] for entry in found if entry["Type"] == "Study"]:
            endpoint = f"studies/{study}/metadata/{STATE_METADATA}"
            held = self._call("get", endpoint, absent=True)
            if held is not None and held.text == value:
                continue
            if held is not None and not held.text.startswith(STATE_MARK):
                what = f"user metadata {STATE_METADATA} of a study"
                hint = "It is in use there for something else, and left as it is."
                raise DestinationRefused(self.name, "another's value", what, hint)
            # Where Orthanc checks revisions, it wants to know which one is replaced.
            tag = held.headers.get("ETag") if held is not None else None
            headers = {"If-Match": tag} if tag else {}
            if self._call("put", endpoint, data=value, headers=headers, absent=True) is None:
                return False  # deleted between the two
        return bool(found)

    def self_test(self) -> str:
        """Version and number of instances."""
        system = self._call("get", "system", seconds=SELF_TEST_SECONDS).json()
        statistics = self._call("get", "statistics", seconds=SELF_TEST_SECONDS).json()
        return (
            f"{system.get('Name', 'Orthanc')} {system.get('Version', '?')}, "
            f"{statistics.get('CountInstances', '?')} instances"
        )

    def _lookup(self, sop_instance_uid: str) -> list[str]:
        """Orthanc's own names of what stands under a SOP Instance UID."""
        found = self._call("post", "tools/lookup", data=sop_instance_uid).json()
        return [str(entry["ID"]) for entry in found if entry["Type"] == "Instance"]

    def _call(
        self,
        method: str,
        endpoint: str,
        *,
        seconds: float | None = None,
        absent: bool = False,
        **arguments: Any,
    ) -> Any:
        """Orthanc's answer; None for a 404 where `absent` is an answer too."""
        url = self._url + endpoint
        client = _Client(self._url, self._user, self._password)
        try:
            response = getattr(client, method)(
                endpoint, timeout=seconds or self._seconds, **arguments
            )
        except exceptions.HttpError as error:
            status = int(error.http_status_code)
            if status == 404 and absent:
                return None
            if status in _LATER or status >= 500:
                raise DestinationUnreachable(url, f"HTTP {status}") from error
            what = "a result" if endpoint == "instances" else "the request"
            hint = _HINTS.get(status, "Orthanc's log says why.")
            raise DestinationRefused(url, f"HTTP {status}", what, hint) from error
        except exceptions.OrthancApiException as error:
            raise DestinationUnreachable(url, why_not_url(url) or type(error).__name__) from error
        finally:
            client.close()
        if response is None:  # the client gives None for what it can't translate
            raise DestinationUnreachable(url, "HTTP 502 or 503 at every try, or a broken answer")
        return response
