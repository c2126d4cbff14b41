"""Who an instance is, and whether two of one name are the same.

Same SOP Instance UID and same content, decoded: one instance, even where the two
came in different transfer syntaxes. Same UID and other content: nobody can say
which one the report is about, so the study is refused.
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable

from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.pixels import as_pixel_options, get_decoder

from operators.job import Instance
from operators.study.layout import open_layout
from operators.study.refusals import InstanceConflict, MixedPatients, Unparsable
from operators.volume.codestream import codestream_size

_TRAILING_PADDING = 0xFFFCFFFC


def patient_identity(header: Dataset) -> tuple[str, str, str]:
    """(IssuerOfPatientID, PatientID, name): the name counts only where there is no ID.

    Case, spaces and trailing carets of a name are spelling, not identity (PS3.5 6.2.1).
    """
    patient_id = str(header.get("PatientID", "") or "").strip()
    issuer = str(header.get("IssuerOfPatientID", "") or "").strip()
    return issuer, patient_id, "" if patient_id else spelled_alike(header)


def spelled_alike(header: Dataset) -> str:
    """PatientName without what only spelling changes. PHI: compare it, never show it."""
    name = str(header.get("PatientName", "") or "")
    return " ".join(name.upper().replace("^", " ").split())


def content_digest(instance: Instance) -> str:
    """Sha256 over elements and pixels, the same for every transfer syntax.

    Elements are written as Implicit VR Little Endian, where a VR that one encoding
    names and another leaves unknown makes no difference.

    Raises
    ------
    Exception
        Of any class, where the pixels can't be decoded or the elements not be written.
    """
    with open_layout(instance.path) as layout:
        header, encoded = layout.read_header(), layout.read_pixels()
        pixels = layout.pixels
    digest = hashlib.sha256()
    if pixels is not None:
        syntax = header.file_meta.TransferSyntaxUID
        if codestream_size(encoded, syntax) not in (None, (header.Rows, header.Columns)):
            raise Unparsable("the codestream is not of the size that the header says")
        decoder = get_decoder(syntax)
        options = as_pixel_options(header, pixel_keyword=pixels.keyword)
        array, _ = decoder.as_array(encoded, raw=True, **options)
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    del header.file_meta
    if _TRAILING_PADDING in header:
        del header[_TRAILING_PADDING]
    header.walk(_with_defined_length)
    elements = io.BytesIO()
    dcmwrite(elements, header, implicit_vr=True, little_endian=True)
    digest.update(elements.getvalue())
    return digest.hexdigest()


def _with_defined_length(dataset: Dataset, element: object) -> None:
    dataset.is_undefined_length_sequence_item = False
    if hasattr(element, "is_undefined_length"):
        element.is_undefined_length = False


def _file_digest(instance: Instance) -> str:
    with instance.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests(instances: list[Instance]) -> tuple[str, ...]:
    """Different contents among instances of one UID; compared decoded only if need be."""
    if len({_file_digest(instance) for instance in instances}) == 1:
        return ("",)
    try:
        return tuple(sorted({content_digest(instance) for instance in instances}))
    except Exception:  # noqa: BLE001  what can't be decoded can't be shown to be equal
        return tuple(sorted({_file_digest(instance) for instance in instances}))


def find_duplicates(
    instances: Iterable[Instance],
) -> tuple[list[Instance], dict[str, InstanceConflict]]:
    """One instance per SOP Instance UID, and the conflicts.

    Returns
    -------
    instances : list of Instance
        The first of each UID, in the given order; all of a UID in conflict.
    conflicts : dict
        Study Instance UID → refusal, for every study that a conflict touches.
    """
    by_uid: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        by_uid[instance.sop_instance_uid].append(instance)
    kept: list[Instance] = []
    conflicts: dict[str, InstanceConflict] = {}
    for sop_uid, same in by_uid.items():
        digests = _digests(same) if len(same) > 1 else ("",)
        kept += same if len(digests) > 1 else same[:1]
        if len(digests) > 1:
            for study_uid in {str(instance.header.StudyInstanceUID) for instance in same}:
                conflicts.setdefault(study_uid, InstanceConflict(study_uid, sop_uid, digests))
    return kept, conflicts


def check_one_patient(study_uid: str, instances: Iterable[Instance]) -> None:
    """Refuse a study whose instances belong to more than one patient.

    Raises
    ------
    MixedPatients
        More than one (IssuerOfPatientID, PatientID).
    """
    patients = {patient_identity(instance.header) for instance in instances}
    if len(patients) > 1:
        raise MixedPatients(study_uid, len(patients))
