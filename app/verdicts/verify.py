"""Our unverified SR and a reader's word → a VERIFIED SR that says it. Pure.

Confirmed: the same document, word for word, under the reader's responsibility.

Rejected: a document of its own that says nothing but the rejection. A verified
report attests to all its content, so a rejected one must not hold a measurement,
a region or a remark of the model: the Imaging Measurements go, the Qualitative
Evaluations are one sentence, the series description begins with REJECTED. Which
images it is about stays (image library, evidence).

Both are new instances in a series of their own: the description is an attribute of
the series, and a viewer that lists series must show which is which.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, SegmentationStorage
from pydicom.valuerep import PersonName

from app.settings import Reader
from operators.evidence.uids import derive_uid

LONG_STRING = 64  # characters in an LO (PS3.5 6.2)
SERIES_NUMBER_STEP = 1000  # 8nnn is the SR of series nnn, 9nnn what a reader said about it
_TITLE = {"confirmed": "Confirmed by reader", "rejected": "REJECTED by reader"}
_IMAGING_MEASUREMENTS = "126010"
_QUALITATIVE_EVALUATIONS = "C0034375"


def verified_uid(
    original_uid: str,
    *,
    reader: str,
    verdict: str,
    because: str | None,
    at: datetime,
    earlier: Sequence[str],
) -> str:
    """SOP Instance UID of the SR that bears a verdict: the same verdict, the same UID.

    Parameters
    ----------
    original_uid : str
        SOP Instance UID of the judged SR.
    reader : str
        Key in the setting `readers`.
    verdict, because, at, earlier
        As for `verify`.
    """
    moment = at.isoformat()
    return derive_uid("verdict", original_uid, reader, verdict, because or "", moment, *earlier)


def verify(
    original: bytes,
    *,
    sop_instance_uid: str,
    verdict: Literal["confirmed", "rejected"],
    reader: Reader,
    because: str | None,
    at: datetime,
    earlier: Sequence[str] = (),
) -> bytes:
    """The verified document.

    Parameters
    ----------
    original : bytes
        File of the SR as radloop wrote it, unverified.
    sop_instance_uid : str
        Of the new document, from `verified_uid`.
    verdict : str
        "confirmed" or "rejected".
    reader : Reader
        Who takes the responsibility.
    because : str or None
        Reason of a rejection.
    at : datetime
        When, with its UTC offset, whole seconds.
    earlier : sequence of str
        SOP Instance UIDs of the verified SRs of earlier verdicts on the same result;
        they become predecessors beside the original.

    Returns
    -------
    bytes
        The new file; equal arguments give equal bytes.

    References
    ----------
    DICOM PS3.3 C.17.2, SR Document General: Verifying Observer and Predecessor
    Documents Sequence; C.17.1, SR Document Series; PS3.16 TID 1500.
    """
    # Odd values are the source's to keep; a warning about them would print them.
    with config.disable_value_validation():
        dataset = dcmread(io.BytesIO(original))
        dataset.PredecessorDocumentsSequence = [_predecessors(dataset, earlier)]
        if verdict == "rejected":
            dataset.ContentSequence = _rejection(dataset, reader, because or "", at)
        _identify(dataset, sop_instance_uid, _TITLE[verdict], at)
        dataset.CompletionFlag = "COMPLETE"
        dataset.VerificationFlag = "VERIFIED"
        dataset.PreliminaryFlag = "FINAL"
        dataset.VerifyingObserverSequence = [_observer(reader, at)]
        written = io.BytesIO()
        dataset.save_as(written, enforce_file_format=True)
    return written.getvalue()


def _identify(dataset: Dataset, sop_instance_uid: str, title: str, at: datetime) -> None:
    """A new instance in a new series; Content Date and Time stay, when it was measured."""
    dataset.SOPInstanceUID = sop_instance_uid
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    dataset.SeriesInstanceUID = _series_uid(sop_instance_uid)
    dataset.SeriesNumber = int(dataset.SeriesNumber) + SERIES_NUMBER_STEP
    dataset.SeriesDescription = f"{title}: {dataset.SeriesDescription}"[:LONG_STRING]
    for what in ("Series", "InstanceCreation"):
        setattr(dataset, f"{what}Date", f"{at:%Y%m%d}")
        setattr(dataset, f"{what}Time", f"{at:%H%M%S}")


def _series_uid(sop_instance_uid: str) -> str:
    """Every verdict has its own series, so its UID need not be remembered."""
    return derive_uid("verdict-series", sop_instance_uid)


def _observer(reader: Reader, at: datetime) -> Dataset:
    """The reader, without a code: the settings know a name and an organization."""
    item = Dataset()
    item.VerifyingOrganization = reader.organization
    item.VerificationDateTime = f"{at:%Y%m%d%H%M%S%z}"
    item.VerifyingObserverName = reader.name
    item.VerifyingObserverIdentificationCodeSequence = []
    return item


def _predecessors(original: Dataset, earlier: Sequence[str]) -> Dataset:
    """The original and the earlier verdicts; all in one study, each in its own series."""
    item = Dataset()
    item.StudyInstanceUID = original.StudyInstanceUID
    item.ReferencedSeriesSequence = [
        _referenced_series(str(original.SOPClassUID), series_uid, sop_instance_uid)
        for series_uid, sop_instance_uid in (
            (str(original.SeriesInstanceUID), str(original.SOPInstanceUID)),
            *((_series_uid(uid), uid) for uid in earlier),
        )
    ]
    return item


def _referenced_series(sop_class_uid: str, series_uid: str, sop_instance_uid: str) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = sop_class_uid
    reference.ReferencedSOPInstanceUID = sop_instance_uid
    series = Dataset()
    series.SeriesInstanceUID = series_uid
    series.ReferencedSOPSequence = [reference]
    return series


def _rejection(dataset: Dataset, reader: Reader, because: str, at: datetime) -> list[Dataset]:
    """The root's items without any statement of the model, and the rejection after them."""
    kept = [
        copy.deepcopy(item)
        for item in dataset.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue
        not in (_IMAGING_MEASUREMENTS, _QUALITATIVE_EVALUATIONS)
    ]
    comment = Dataset()
    comment.RelationshipType = "CONTAINS"
    comment.ValueType = "TEXT"
    comment.ConceptNameCodeSequence = [_code("121106", "DCM", "Comment")]
    comment.TextValue = (
        f"REJECTED by {_spoken(reader.name)}, {reader.organization}, on {at:%Y-%m-%d %H:%M %z}, "
        f"because: {because}. The result {dataset.SOPInstanceUID} is not to be used."
    )
    container = Dataset()
    container.RelationshipType = "CONTAINS"
    container.ValueType = "CONTAINER"
    container.ConceptNameCodeSequence = [
        _code(_QUALITATIVE_EVALUATIONS, "UMLS", "Qualitative Evaluations")
    ]
    container.ContinuityOfContent = "CONTINUOUS"
    container.ContentSequence = [comment]
    return [*kept, container]


def _spoken(name: str) -> str:
    """``Family^Given^Middle^Prefix^Suffix`` as it is said."""
    person = PersonName(name)
    parts = (
        person.name_prefix,
        person.given_name,
        person.middle_name,
        person.family_name,
        person.name_suffix,
    )
    return " ".join(part for part in parts if part)


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


def seg_of(sr: bytes) -> str | None:
    """SOP Instance UID of the segmentation that an SR of ours measures, or None.

    References
    ----------
    DICOM PS3.3 C.17.2, Current Requested Procedure Evidence Sequence.
    """
    header = dcmread(io.BytesIO(sr), specific_tags=["CurrentRequestedProcedureEvidenceSequence"])
    return next(
        (
            str(reference.ReferencedSOPInstanceUID)
            for study in header.CurrentRequestedProcedureEvidenceSequence
            for series in study.ReferencedSeriesSequence
            for reference in series.ReferencedSOPSequence
            if reference.ReferencedSOPClassUID == SegmentationStorage
        ),
        None,
    )
