"""Which studies there are to open: UIDs and modalities, nothing about anyone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from app.viewer.proxy import OrthancAddress
from app.viewer.refusals import CredentialsRefused, OrthancSilent

STUDY_UID, MODALITIES = "0020000D", "00080061"
SECONDS = 10.0


@dataclass(frozen=True)
class StudyLine:
    """One study in the list.

    Attributes
    ----------
    study_instance_uid : str
        Study Instance UID (0020,000D).
    modalities : tuple of str
        Modalities in Study (0008,0061).
    """

    study_instance_uid: str
    modalities: tuple[str, ...]


def list_studies(
    address: OrthancAddress, *, limit: int, study_uid: str | None = None
) -> list[StudyLine]:
    """Ask Orthanc by QIDO-RS (PS3.18 10.6).

    Parameters
    ----------
    address : OrthancAddress
        Where to ask.
    limit : int
        At most so many.
    study_uid : str or None
        Only this one.

    Raises
    ------
    OrthancSilent, CredentialsRefused
        No usable answer.
    """
    query: dict[str, str | int] = {"limit": limit, "includefield": MODALITIES}
    if study_uid is not None:
        query["StudyInstanceUID"] = study_uid
    try:
        with httpx.Client(auth=address.login, timeout=SECONDS, trust_env=False) as client:
            answer = client.get(
                f"{address.url}/dicom-web/studies",
                params=query,
                headers={"Accept": "application/dicom+json"},
            )
            if answer.status_code == 401:
                raise CredentialsRefused(address.url)
            answer.raise_for_status()
            found = answer.json() if answer.content else []  # 204: none
    except (httpx.HTTPError, ValueError) as error:
        raise OrthancSilent(address.url, error) from error
    return [StudyLine(_values(study, STUDY_UID)[0], _values(study, MODALITIES)) for study in found]


def _values(study: dict[str, Any], tag: str) -> tuple[str, ...]:
    return tuple(str(value) for value in study.get(tag, {}).get("Value", ()))
