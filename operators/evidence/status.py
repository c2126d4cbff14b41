"""Status SR: one line in the study that says where its analysis stands.

An Enhanced SR in a series of its own, with one text item: a study without an overlay
must not read as one in which nothing was found. It is no TID 1500 report, so a viewer
shows its text and looks for no measurements in it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from highdicom import sr
from pydicom.dataset import Dataset

from operators.evidence.common import (
    MANUFACTURER,
    SOFTWARE_VERSION,
    stamp_common,
    without_patient,
)
from operators.evidence.content import COMMENT
from operators.evidence.seg import coded
from operators.evidence.uids import derive_uid

StatusKind = Literal["pending", "failed", "not applicable"]

SERIES_NUMBER = 9000  # behind 7nnn and 8nnn, the SEG and the SR of series nnn
MAX_REASON = 200  # characters: it is one line
_TITLE = sr.CodedConcept("analysis-status", "99RADLOOP", "Analysis status")


def status_line(status: StatusKind, reason: str, recorded_at: str) -> str:
    """What a person reads.

    >>> status_line("pending", "", "20260102030405")
    'radloop: analysis pending since 2026-01-02 03:04; no result yet'
    >>> status_line("failed", "RL-0203: a slice is missing", "20260102030405")
    'radloop: analysis failed, no result: RL-0203: a slice is missing'

    Parameters
    ----------
    status : StatusKind
        Where the analysis stands.
    reason : str
        Why, on one line, without PHI; cut off after 200 characters.
    recorded_at : str
        ``YYYYMMDDHHMMSS``.
    """
    if status == "pending":
        since = datetime.strptime(recorded_at, "%Y%m%d%H%M%S")
        return f"radloop: analysis pending since {since:%Y-%m-%d %H:%M}; no result yet"
    what = "failed" if status == "failed" else "not applicable"
    cut = reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 1] + "…"
    return f"radloop: analysis {what}, no result" + (f": {cut}" if cut else "")


def build_status(
    header: Dataset, status: StatusKind, reason: str, recorded_at: str, generation: int
) -> sr.EnhancedSR:
    """Build the document.

    Parameters
    ----------
    header : Dataset
        An instance of the study; its pixels are not looked at.
    status : StatusKind
        Pending: completion flag PARTIAL; else COMPLETE. Always unverified.
    reason : str
        As for `status_line`.
    recorded_at : str
        ``YYYYMMDDHHMMSS`` of the study version.
    generation : int
        Which version and trial of the study.

    Returns
    -------
    highdicom.sr.EnhancedSR
        Explicit VR little endian; equal arguments give an equal document.

    References
    ----------
    DICOM PS3.3 A.35.2 Enhanced SR, C.17.2 SR Document General, C.17.3 SR Document Content.
    """
    line = status_line(status, reason, recorded_at)
    parts = (str(header.StudyInstanceUID), str(generation), line, recorded_at, SOFTWARE_VERSION)
    root = sr.ContainerContentItem(_TITLE, is_content_continuous=False)
    text = sr.TextContentItem(coded(COMMENT), line, sr.RelationshipTypeValues.CONTAINS)
    root.ContentSequence = sr.ContentSequence([text])
    reference = without_patient()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        reference[keyword] = header[keyword]
    document = sr.EnhancedSR(
        evidence=[reference],
        content=root,
        series_instance_uid=derive_uid("series", "STATUS", *parts),
        series_number=SERIES_NUMBER,
        sop_instance_uid=derive_uid("instance", "STATUS", *parts),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=status != "pending",
        is_final=False,
        is_verified=False,
    )
    del document.ContributingEquipmentSequence  # highdicom's own entry bears the present time
    stamp_common(document, header, f"radloop: {status}, no result", recorded_at)
    return document
