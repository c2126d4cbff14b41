"""Key Object Selection that rejects results of ours: for archives that delete nothing.

IHE IOCM's way to say "don't show these any more": a document in the same study,
in a series of its own, that names the instances under the title Rejected for
Quality Reasons. An archive that follows IOCM then hides them; one that doesn't
shows the document beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import ko, sr
from pydicom.dataset import Dataset

from operators.errors import EvidenceRefusal
from operators.evidence.common import (
    LONG_STRING,
    MANUFACTURER,
    SOFTWARE_VERSION,
    stamp_common,
    without_patient,
)
from operators.evidence.uids import derive_uid

SERIES_NUMBER = 6000  # 7nnn and 8nnn are the SEG and the SR of series nnn
_TITLE = sr.CodedConcept("113001", "DCM", "Rejected for Quality Reasons")
_TITLE_MODIFIER = sr.CodedConcept("113011", "DCM", "Document Title Modifier")
# TID 2010 demands a modifier of this title, from CID 7011: none of them says "superseded".
_OTHER_FAILURE = sr.CodedConcept("111220", "DCM", "Other failure")


class MixedRejection(EvidenceRefusal):
    """Results of several studies in one rejection."""

    code = "RL-0515"

    def __init__(self, study_uids: Sequence[str]) -> None:
        super().__init__(
            f"a rejection is about one study, not {len(study_uids)} ({', '.join(study_uids)}). "
            "This is a defect of radloop: report it with this line."
        )


def build_rejection(
    results: Sequence[Dataset], because: str, recorded_at: str
) -> ko.KeyObjectSelectionDocument:
    """Build the document.

    Parameters
    ----------
    results : sequence of Dataset
        What is rejected, at least one, of one study, in any order; the pixels are not
        looked at. Patient and study are those of the one with the lowest UID.
    because : str
        What a person reads as the reason, e.g. "superseded by …"; no PHI.
    recorded_at : str
        ``YYYYMMDDHHMMSS``; equal arguments give an equal document, with equal UIDs.

    Returns
    -------
    highdicom.ko.KeyObjectSelectionDocument
        Explicit VR little endian.

    Raises
    ------
    MixedRejection
        The results are of several studies.

    References
    ----------
    DICOM PS3.3 A.35.4, C.17.6; PS3.16 TID 2010, CID 7010, CID 7011.
    IHE Radiology, Imaging Object Change Management, RAD-66 Rejection Note Stored.
    """
    ordered = sorted(results, key=lambda result: str(result.SOPInstanceUID))
    studies = sorted({str(result.StudyInstanceUID) for result in ordered})
    if len(studies) != 1:
        raise MixedRejection(studies)
    parts = (
        *(str(result.SOPInstanceUID) for result in ordered),
        because,
        recorded_at,
        SOFTWARE_VERSION,
    )
    references = [_reference(result) for result in ordered]
    document = ko.KeyObjectSelectionDocument(
        evidence=references,
        content=_content(references, because),
        series_instance_uid=derive_uid("series", "KOS", *parts),
        series_number=SERIES_NUMBER + int(ordered[0].SeriesNumber) % 1000,
        sop_instance_uid=derive_uid("instance", "KOS", *parts),
        instance_number=1,
        manufacturer=MANUFACTURER,
    )
    del document.ContributingEquipmentSequence  # highdicom's own entry bears the present time
    for item in document.ContentSequence:
        if "ReferencedSOPSequence" in item:
            del item.ConceptNameCodeSequence  # highdicom's "Source": TID 2010 names no purpose
    stamp_common(document, ordered[0], f"Rejected: {because}"[:LONG_STRING], recorded_at)
    return document


def _reference(result: Dataset) -> Dataset:
    reference = without_patient()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        reference[keyword] = result[keyword]
    if "Rows" in result:  # by which highdicom tells an image from another composite object
        reference.Rows, reference.Columns = result.Rows, result.Columns
    return reference


def _content(references: Sequence[Dataset], because: str) -> ko.KeyObjectSelection:
    content = ko.KeyObjectSelection(_TITLE, references, description=because)
    modifier = sr.CodeContentItem(
        _TITLE_MODIFIER, _OTHER_FAILURE, sr.RelationshipTypeValues.HAS_CONCEPT_MOD
    )
    content[0].ContentSequence.insert(0, modifier)
    return content
