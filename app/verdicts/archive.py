"""The result that a verdict is about, as Orthanc holds it: found, and still what we wrote."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from app.delivery.destination import DestinationUnreachable
from app.delivery.orthanc import OrthancDestination
from app.register import Register, Written
from app.settings import Settings
from app.verdicts.record import Verdict
from app.verdicts.refusals import (
    ArchiveAway,
    ArchiveUnset,
    ResultAbsent,
    ResultAmbiguous,
    ResultChanged,
    ResultUnfit,
    ResultUnknown,
)

_UID = re.compile(r"[0-9.]{1,64}")


class Archive:
    """The Orthanc of the settings.

    Raises
    ------
    ArchiveUnset
        There is none.
    """

    def __init__(self, settings: Settings) -> None:
        if not settings.orthanc_url:
            raise ArchiveUnset
        password = settings.orthanc_password
        self._orthanc = OrthancDestination(
            settings.orthanc_url,
            user=settings.orthanc_user,
            password=password.get_secret_value() if password else None,
        )

    @property
    def name(self) -> str:
        """Kind and address."""
        return self._orthanc.name

    def holds(self, entry: Written) -> bool:
        """Whether there is anything under that UID."""
        with self._answering():
            return bool(self._orthanc.fetch(entry.sop_instance_uid))

    def fetch(self, entry: Written) -> bytes:
        """An object of ours, whose bytes are those that we wrote.

        Raises
        ------
        ResultAbsent
            It is not there.
        ResultChanged
            Something else is there under its UID, in its place or beside it.
        ArchiveAway
            No answer.
        """
        with self._answering():
            found = self._orthanc.fetch(entry.sop_instance_uid)
        if not found:
            raise ResultAbsent(entry.sop_instance_uid, entry.kind, self.name)
        for content in found:
            digest = hashlib.sha256(content).hexdigest()
            if digest != entry.sha256:
                raise ResultChanged(
                    entry.sop_instance_uid, entry.kind, self.name, entry.sha256, digest
                )
        return found[0]

    def store(self, content: bytes, sop_instance_uid: str) -> None:
        """Store an object and read it back.

        Raises
        ------
        ArchiveAway
            No answer.
        DeliveryRefusal
            Orthanc does not take it, or holds other bytes.
        """
        with self._answering():
            self._orthanc.store(content, f"verified SR {sop_instance_uid}")

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except DestinationUnreachable as error:
            raise ArchiveAway(error.where, error.why) from error


def find_result(
    result: str, *, register: Register, latest: Mapping[str, Verdict], archive: Archive
) -> Written:
    """Which SR a verdict is meant for.

    Parameters
    ----------
    result : str
        SOP Instance UID of one of our SRs; or a Study Instance UID, where the archive holds
        exactly one of them in that study: which of several a reader saw, nobody can tell.
    register : Register
        What is ours.
    latest : mapping
        SOP Instance UID of each judged SR → its latest verdict.
    archive : Archive
        Asked only where a study has several results.

    Raises
    ------
    ResultUnknown, ResultUnfit, ResultAmbiguous
        It is none, or not one.
    """
    if not _UID.fullmatch(result):
        raise ResultUnknown(None, register.file)
    entry = register.find(result)
    if entry is not None:
        if entry.kind != "SR":
            raise ResultUnfit(entry)
        return entry
    results = register.in_study(result, "SR")
    if not results:
        raise ResultUnknown(result, register.file)
    if len(results) > 1:
        results = [candidate for candidate in results if archive.holds(candidate)] or results
    if len(results) == 1:
        return results[0]
    raise ResultAmbiguous(
        result,
        [(candidate, _state(latest.get(candidate.sop_instance_uid))) for candidate in results],
    )


def _state(verdict: Verdict | None) -> str:
    return f"{verdict.verdict} by {verdict.reader}" if verdict else "no verdict"
