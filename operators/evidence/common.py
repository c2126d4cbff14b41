"""What every object that we write has in common: identity, patient, series, equipment, dates.

The one place that sets these modules, so that each output can be traced to the
device, the model and the study version it came from. SEG and SR are built from
`source_references`, which carry no patient; `stamp` then puts the patient in
as the source has them. What is particular to a kind of object stays in its own file.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

import highdicom as hd
from pydicom import config
from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID

from operators.evidence.encode import IMPLICIT_VR, LITTLE_ENDIAN, Stencil
from operators.evidence.uids import derive_uid
from operators.job import EvidenceKind, ModelIdentity, Segmentation, Volume
from operators.reading import Reading

MANUFACTURER = "radloop"
MODEL_NAME = "radloop"
SOFTWARE_VERSION = "0.1.0"
# The device is the software, whatever its version: a loop guard must know old results too.
DEVICE_UID = derive_uid("device", MANUFACTURER, MODEL_NAME)
DEVICE_SERIAL_NUMBER = DEVICE_UID.rsplit(".", 1)[1]
IMPLEMENTATION_CLASS_UID = derive_uid("implementation", MANUFACTURER)
CHARACTER_SET = "ISO_IR 192"  # UTF-8 (PS3.3 C.12.1.1.2)
LONG_STRING = 64  # characters in an LO (PS3.5 6.2)
SOURCE_SERIES = "source_series"  # in the Contribution Description of the model

# Where our series stand in a reader's list; the source's own number follows.
_FIRST_SERIES: dict[EvidenceKind, int] = {
    "SEG": 7000,
    "SR": 8000,
    "RTSTRUCT": 5000,
    "KEY_IMAGE": 10000,  # 9000 is the status, 6nnn are rejections
    "PDF": 11000,
}
_PLAIN_NAME: dict[EvidenceKind, str] = {
    "SEG": "AI segmentation",
    "SR": "AI measurements",
    "RTSTRUCT": "AI contours",
    "KEY_IMAGE": "AI key images",
    "PDF": "AI report",
}

# Type 2 attributes that a source may lack and highdicom asks for by name.
_EMPTY_PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
)
_ACQUISITION_EQUIPMENT = (
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "DeviceSerialNumber",
    "InstitutionName",
    "StationName",
)


@dataclass(frozen=True)
class Identity:
    """Which object this is, and how a reader's list shows it.

    Attributes
    ----------
    kind : EvidenceKind
        What it is.
    sop_instance_uid, series_instance_uid : str
        Both follow from the study version, the model and our own version.
    series_number : int
        Thousands say the kind, the rest is the source's own series number (mod 1000).
    series_description : str
        At most 64 characters.
    """

    kind: EvidenceKind
    sop_instance_uid: str
    series_instance_uid: str
    series_number: int
    series_description: str


def identify(
    segmentation: Segmentation | Reading,
    kind: EvidenceKind,
    recorded_at: str,
    number: int = 1,
    *,
    also: str = "",
) -> Identity:
    """Identity of the object of one kind about one segmentation.

    Equal inputs give equal UIDs; other source instances, of any channel, another part of the
    series, other weights, another runtime, another prompt, other segment descriptions,
    another record or another version of radloop give other ones. So one UID never names
    two different contents.

    Parameters
    ----------
    segmentation : Segmentation or Reading
        What the object is about.
    kind : EvidenceKind
        What it is.
    recorded_at : str
        The study version's record, ``YYYYMMDDHHMMSS``.
    number : int
        Which of several objects of one series, from 1.
    also : str
        What else decides the content, e.g. what rules say by what the site has accepted.
    """
    volume, model = segmentation.volume, segmentation.model
    parts = (
        str(volume.headers[0].StudyInstanceUID),
        volume.series_instance_uid,
        volume.part,
        hashlib.sha256("\n".join(_all_source_sop_uids(volume)).encode()).hexdigest(),
        model.name,
        model.version,
        model.weights_sha256,
        model.runtime,
        model.config_sha256,
        repr(segmentation.segments),
        recorded_at,
        SOFTWARE_VERSION,
        *(f"{name}={value}" for name, value in model.prompt),
        *filter(None, (also,)),
    )
    instance = parts if number == 1 else (*parts, f"number={number}")
    title = " ".join(filter(None, (_PLAIN_NAME[kind], volume.part, model.name, model.version)))
    return Identity(
        kind=kind,
        sop_instance_uid=derive_uid("instance", kind, *instance),
        series_instance_uid=derive_uid("series", kind, *parts),
        series_number=_FIRST_SERIES[kind] + _series_number(volume.headers[0]) % 1000,
        series_description=title[:LONG_STRING],
    )


def _all_source_sop_uids(volume: Volume) -> tuple[str, ...]:
    others = (header for headers in volume.channel_headers for header in headers)
    return (*volume.source_sop_uids, *(str(header.SOPInstanceUID) for header in others))


def _series_number(header: Dataset) -> int:
    """The source's Series Number; 0 where it has none, or one that is no number."""
    try:
        return int(header.SeriesNumber)
    except (AttributeError, TypeError, ValueError):
        return 0


def source_references(volume: Volume) -> list[Dataset]:
    """The source instance of every slice, reduced to what a reference needs.

    Patient and study attributes are empty: values that highdicom would refuse (a
    birth date that is none, a sex that is no code) must not stop a result, and
    `stamp` copies them later as they are.

    Returns
    -------
    list of Dataset
        In the order of k. They share elements: change one only in a deep copy.
    """
    return list(_references(volume))


def first_reference(volume: Volume) -> Dataset:
    """The first of `source_references`, without the others."""
    return next(_references(volume))


def without_patient() -> Dataset:
    """The patient and study attributes that highdicom asks for, empty: `stamp` fills them."""
    empty = Dataset()
    for keyword in _EMPTY_PATIENT_AND_STUDY:
        setattr(empty, keyword, "")
    return empty


def _references(volume: Volume) -> Iterator[Dataset]:
    shared = without_patient()
    first = volume.headers[0]
    shared.StudyInstanceUID = first.StudyInstanceUID
    shared.SeriesInstanceUID = volume.series_instance_uid
    if volume.frame_of_reference_uid:
        shared.FrameOfReferenceUID = volume.frame_of_reference_uid
    shared.Modality = first.Modality
    shared.Rows, shared.Columns = volume.array.shape[1:]
    for header in volume.headers:
        reference = Dataset()
        reference.update(shared)
        reference.SOPClassUID = header.SOPClassUID
        reference.SOPInstanceUID = header.SOPInstanceUID
        yield reference


def encoded_references(headers: Iterable[Dataset]) -> list[bytearray]:
    """An encoded item for every instance, in their order: its SOP Class and Instance UID.

    References
    ----------
    DICOM PS3.3 Table 10-11, SOP Instance Reference Macro.
    """
    item = Dataset()
    item.ReferencedSOPClassUID = item.ReferencedSOPInstanceUID = ""
    stencil = Stencil(item, (item, "ReferencedSOPClassUID"), (item, "ReferencedSOPInstanceUID"))
    return [stencil.fill(str(header.SOPClassUID), str(header.SOPInstanceUID)) for header in headers]


def algorithm_parameters(model: ModelIdentity) -> dict[str, str]:
    """What tells one run of a model from another, for Algorithm Parameters."""
    digests = {"weights_sha256": model.weights_sha256, "config_sha256": model.config_sha256}
    known = {name: digest for name, digest in digests.items() if digest}
    return {**known, "runtime": model.runtime, **dict(model.prompt)}


def stamp(
    dataset: hd.base.SOPClass,
    identity: Identity,
    segmentation: Segmentation | Reading,
    recorded_at: str,
) -> None:
    """Set patient, study, series, equipment, dates and character set, in place.

    Parameters
    ----------
    dataset : highdicom.base.SOPClass
        A SEG or SR as built from `source_references`.
    identity : Identity
        Which object it is.
    segmentation : Segmentation or Reading
        What it is about.
    recorded_at : str
        ``YYYYMMDDHHMMSS``; every date and time that is ours.

    References
    ----------
    DICOM PS3.3 C.7.1.1 Patient, C.7.2.1 General Study, C.7.3.1 General Series,
    C.7.5.1 General Equipment, C.12.1 SOP Common.
    """
    header = segmentation.volume.headers[0]
    stamp_common(dataset, header, identity.series_description, recorded_at)
    # No authority has cleared this software or its models (PS3.3 C.8.13.2.1.1).
    dataset.ContentQualification = "RESEARCH"
    equipment = [
        *_acquisition_equipment(header),
        _model_equipment(segmentation.model, segmentation.volume, recorded_at),
    ]
    dataset.add_new("ContributingEquipmentSequence", "SQ", equipment)


def stamp_common(
    dataset: hd.base.SOPClass, header: Dataset, series_description: str, recorded_at: str
) -> None:
    """The part of `stamp` that no model has a share in, in place.

    Parameters
    ----------
    dataset : highdicom.base.SOPClass
        An object as built from references without a patient.
    header : Dataset
        An instance of the same study, whose patient and study it gets.
    series_description : str
        At most 64 characters.
    recorded_at : str
        ``YYYYMMDDHHMMSS``; every date and time that is ours.
    """
    _copy_patient_and_study(dataset, header)
    dataset.SpecificCharacterSet = CHARACTER_SET
    dataset.SeriesDescription = series_description
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MODEL_NAME
    dataset.SoftwareVersions = SOFTWARE_VERSION
    dataset.DeviceSerialNumber = DEVICE_SERIAL_NUMBER
    dataset.DeviceUID = DEVICE_UID
    dataset.InstanceCreatorUID = DEVICE_UID
    moment = datetime.strptime(recorded_at, "%Y%m%d%H%M%S")
    for what in ("Series", "Content", "InstanceCreation"):
        setattr(dataset, f"{what}Date", f"{moment:%Y%m%d}")
        setattr(dataset, f"{what}Time", f"{moment:%H%M%S}")
    dataset.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    dataset.file_meta.ImplementationVersionName = f"RADLOOP_{SOFTWARE_VERSION}"


def keep_encoded(dataset: Dataset) -> None:
    """Tell pydicom that the raw sequences of a stamped SEG or SR are as they must be written."""
    dataset.set_original_encoding(IMPLICIT_VR, LITTLE_ENDIAN, convert_encodings(CHARACTER_SET))


def _copy_patient_and_study(dataset: hd.base.SOPClass, header: Dataset) -> None:
    """Copy the Patient and Study modules as the source has them, text decoded."""
    # Odd values are the source's to keep; a warning about them would print them.
    with config.disable_value_validation():
        source = copy.deepcopy(header)
        # Bytes in the source's character set must not be written under ours.
        source.decode()
        # The list of attributes is that of the object written, not of the source's IOD.
        source.SOPClassUID = dataset.SOPClassUID
        dataset.copy_patient_and_study_information(source)


def _acquisition_equipment(header: Dataset) -> list[Dataset]:
    """The device that made the source images, where they name one."""
    if not header.get("Manufacturer"):
        return []
    item = Dataset()
    for keyword in _ACQUISITION_EQUIPMENT:
        if header.get(keyword):
            item[keyword] = copy.deepcopy(header[keyword])
    item.PurposeOfReferenceCodeSequence = [
        hd.sr.CodedConcept.from_code(codes.DCM.AcquisitionEquipment)
    ]
    return [item]


def _model_equipment(model: ModelIdentity, volume: Volume, recorded_at: str) -> Dataset:
    """The model as the equipment that made the segmentation.

    Some kinds of objects have no place for the series that their sources are from, so it
    is told here; what a person wrote (the prompt) stands last.
    """
    said = {
        **algorithm_parameters(replace(model, prompt=())),
        SOURCE_SERIES: volume.series_instance_uid,
        **dict(model.prompt),
    }
    return hd.ContributingEquipment(
        manufacturer=model.manufacturer[:LONG_STRING] or MANUFACTURER,
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=model.name[:LONG_STRING],
        software_versions=model.version[:LONG_STRING],
        contribution_datetime=recorded_at,
        contribution_description=", ".join(f"{name} {value}" for name, value in said.items()),
    )
