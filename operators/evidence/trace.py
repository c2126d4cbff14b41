"""Where an output came from: model, code, source images, read from the file alone.

Reads what `common.stamp` writes into every object, and the references and tracking UIDs
that each kind has in its own place. Nothing else is taken over: no patient, no
description, no word that a person wrote. Anybody may write our names into a file: that
its bytes are ours says the register only (`app/register.py`).

EvidenceRefusal
├── NothingToTrace   RL-0570   neither DICOM nor result.json
└── NotOurs          RL-0571   DICOM of somebody else
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    KeyObjectSelectionDocumentStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from operators.errors import EvidenceRefusal, FileRefusal
from operators.evidence.common import DEVICE_UID, MANUFACTURER, SOURCE_SERIES
from operators.study.layout import open_layout

_KINDS = {
    SegmentationStorage: "SEG",
    Comprehensive3DSRStorage: "SR",
    EnhancedSRStorage: "STATUS",
    KeyObjectSelectionDocumentStorage: "KOS",
    RTStructureSetStorage: "RTSTRUCT",
    SecondaryCaptureImageStorage: "KEY_IMAGE",
    EncapsulatedPDFStorage: "PDF",
}
# References to these are to other outputs. A secondary capture may be a source as well.
_OUTPUTS = {*_KINDS, ComprehensiveSRStorage} - {SecondaryCaptureImageStorage}
_TRACKING_UID = "112040"  # DCM, Tracking Unique Identifier
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class NothingToTrace(EvidenceRefusal):
    """The file can't be read as an output of ours."""

    code = "RL-0570"

    def __init__(self, why: str) -> None:
        super().__init__(
            f"this file can't be traced: {why}. Give a result.json, or a DICOM SEG, SR, RTSTRUCT, "
            "key image or PDF that radloop wrote."
        )


class NotOurs(EvidenceRefusal):
    """The file does not say that radloop made it."""

    code = "RL-0571"

    def __init__(self, sop_uid: str) -> None:
        super().__init__(
            f"object {sop_uid or '(without UID)'} was not written by radloop: it does not bear "
            f"Device UID {DEVICE_UID}. Ask whoever its Manufacturer (0008,0070) names."
        )


@dataclass(frozen=True)
class TracedModel:
    """Which network; "" for what the file does not say.

    Attributes
    ----------
    name, version : str
        Of the bundle.
    weights_sha256, config_sha256 : str
        Of the weights, and of the inference config with the card.
    runtime : str
        What ran it, and in which number format.
    """

    name: str
    version: str
    weights_sha256: str
    config_sha256: str
    runtime: str


@dataclass(frozen=True)
class Trace:
    """Where one object came from.

    Attributes
    ----------
    kind : str
        SEG, SR, VERIFIED_SR, RTSTRUCT, KEY_IMAGE, PDF, STATUS, KOS.
    sop_instance_uid, series_instance_uid, study_instance_uid : str
        The object.
    radloop_version : str
        Version of the code that wrote it; "" where only result.json is there.
    recorded_at : str
        ``YYYYMMDDHHMMSS`` of the study version.
    model : TracedModel or None
        None for what no model had a share in (a status, a rejection).
    source_series_uid : str
        Series that the model saw; "" where no model had a share.
    source_sop_uids : tuple of str
        Images that the object names as its sources.
    tracking_uids : tuple of str
        One for each structure, in the object's order; empty for kinds that name none.
    file_there : bool
        False where result.json names a file that is not beside it any more: the rest of the
        UIDs is not known then.
    """

    kind: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    radloop_version: str
    recorded_at: str
    model: TracedModel | None
    source_series_uid: str
    source_sop_uids: tuple[str, ...]
    tracking_uids: tuple[str, ...]
    file_there: bool = True


def trace_file(path: Path) -> tuple[Trace, ...]:
    """Trace an output.

    Parameters
    ----------
    path : Path
        A DICOM object, or a `result.json`.

    Returns
    -------
    tuple of Trace
        One; of a `result.json` one for each object that it names.

    Raises
    ------
    NothingToTrace
        It is neither.
    NotOurs
        It is DICOM that radloop did not write.
    """
    if path.suffix == ".json":
        return tuple(_of_result(path))
    return (_of_object(_read(path)),)


def _read(path: Path) -> Dataset:
    try:
        # Walked first: no depth, length or number of elements is believed before.
        with open_layout(path) as layout:
            return layout.read_header()
    except FileRefusal as refusal:
        raise NothingToTrace(str(refusal).rstrip(".")) from refusal
    except OSError as error:
        raise NothingToTrace(error.strerror or type(error).__name__) from error


def _of_object(dataset: Dataset) -> Trace:
    device, maker = str(dataset.get("DeviceUID", "")), str(dataset.get("Manufacturer", ""))
    if device != DEVICE_UID or maker != MANUFACTURER:
        raise NotOurs(_uid(dataset.get("SOPInstanceUID")))
    equipment = next(filter(_is_model, dataset.get("ContributingEquipmentSequence") or []), None)
    said = _described(equipment) if equipment is not None else {}
    references = dict(_references(dataset))
    series = _uid(said.get(SOURCE_SERIES)) or next(filter(None, references.values()), "")
    return Trace(
        kind=_kind(dataset),
        sop_instance_uid=_uid(dataset.get("SOPInstanceUID")),
        series_instance_uid=_uid(dataset.get("SeriesInstanceUID")),
        study_instance_uid=_uid(dataset.get("StudyInstanceUID")),
        radloop_version=_words(dataset.get("SoftwareVersions")),
        recorded_at=_moment(dataset, equipment),
        model=None if equipment is None else _model(equipment, said),
        source_series_uid=series,
        source_sop_uids=tuple(references),
        tracking_uids=tuple(dict.fromkeys(filter(None, map(_uid, _tracking_uids(dataset))))),
    )


def _kind(dataset: Dataset) -> str:
    kind = _KINDS.get(dataset.SOPClassUID, _words(dataset.SOPClassUID.name))
    return f"VERIFIED_{kind}" if dataset.get("VerificationFlag") == "VERIFIED" else kind


def _is_model(equipment: Dataset) -> bool:
    purposes = equipment.get("PurposeOfReferenceCodeSequence") or []
    return any(
        purpose.get("CodeValue") == codes.DCM.ProcessingEquipment.value for purpose in purposes
    )


def _described(equipment: Dataset) -> dict[str, str]:
    """Names and values of the Contribution Description, as `common` writes them."""
    said: dict[str, str] = {}
    for part in str(equipment.get("ContributionDescription", "")).split(", "):
        name, _, value = part.partition(" ")
        said.setdefault(name, value)  # what a person wrote stands last
    return said


def _model(equipment: Dataset, said: dict[str, str]) -> TracedModel:
    return TracedModel(
        name=_words(equipment.get("ManufacturerModelName")),
        version=_words(equipment.get("SoftwareVersions")),
        weights_sha256=_sha256(said.get("weights_sha256")),
        config_sha256=_sha256(said.get("config_sha256")),
        runtime=_words(said.get("runtime")),
    )


def _moment(dataset: Dataset, equipment: Dataset | None) -> str:
    """The record's time: a verified copy bears the verdict's, but its model the record's."""
    if equipment is not None and equipment.get("ContributionDateTime"):
        return _digits(equipment.ContributionDateTime)
    return _digits(f"{dataset.get('InstanceCreationDate')}{dataset.get('InstanceCreationTime')}")


def _references(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """SOP Instance UID and series ("" where none is named) of every source image."""
    for series_uid, items in _reference_lists(dataset):
        for item in items or ():
            uid = _uid(item.get("ReferencedSOPInstanceUID"))
            if uid and item.get("ReferencedSOPClassUID") not in _OUTPUTS:
                yield uid, _uid(series_uid)


def _reference_lists(dataset: Dataset) -> Iterator[tuple[Any, Any]]:
    """Series and list of references, from wherever our kinds keep them."""
    for keyword in ("SourceImageSequence", "SourceInstanceSequence"):
        yield "", dataset.get(keyword)
    for series in dataset.get("ReferencedSeriesSequence") or ():
        yield series.get("SeriesInstanceUID"), series.get("ReferencedInstanceSequence")
    for study in dataset.get("CurrentRequestedProcedureEvidenceSequence") or ():
        for series in study.get("ReferencedSeriesSequence") or ():
            yield series.get("SeriesInstanceUID"), series.get("ReferencedSOPSequence")
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for series in study.get("RTReferencedSeriesSequence") or ():
                yield series.get("SeriesInstanceUID"), series.get("ContourImageSequence")


def _tracking_uids(dataset: Dataset) -> Iterator[Any]:
    for keyword in ("SegmentSequence", "StructureSetROISequence"):
        for item in dataset.get(keyword) or ():
            yield item.get("TrackingUID")
    yield from _tracking_uids_of_report(dataset.get("ContentSequence") or ())


def _tracking_uids_of_report(items: Iterable[Dataset]) -> Iterator[Any]:
    for item in items:
        (concept, *_) = item.get("ConceptNameCodeSequence") or (Dataset(),)
        if item.get("ValueType") == "UIDREF" and concept.get("CodeValue") == _TRACKING_UID:
            yield item.get("UID")
        yield from _tracking_uids_of_report(item.get("ContentSequence") or ())


def _of_result(path: Path) -> Iterator[Trace]:
    """The objects that a result.json names: by their files beside it, else by its own word."""
    try:
        result = json.loads(path.read_bytes())
        recorded_at = result["recorded_at"]
        entries = [*result["results"], *result.get("readings", ())]
        named = [(entry, item) for entry in entries for item in entry["evidence"]]
        traces = [(_by_word(entry, item, recorded_at), item["path"]) for entry, item in named]
    except OSError as error:
        raise NothingToTrace(error.strerror or type(error).__name__) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NothingToTrace(f"no result.json of ours ({type(error).__name__})") from error
    if not traces:
        raise NothingToTrace("it names no object")
    for by_word, name in traces:
        file = path.parent / Path(str(name)).name  # never a place that the file chooses
        found = _of_object(_read(file)) if file.is_file() else None
        same = found is not None and found.sop_instance_uid == by_word.sop_instance_uid
        yield found if found is not None and same else by_word


def _by_word(entry: dict[str, Any], item: dict[str, Any], recorded_at: str) -> Trace:
    return Trace(
        kind=_words(item["kind"]),
        sop_instance_uid=_uid(item["sop_instance_uid"]),
        series_instance_uid=_uid(item["series_instance_uid"]),
        study_instance_uid=_uid(entry["study_instance_uid"]),
        radloop_version="",
        recorded_at=_digits(recorded_at),
        model=TracedModel(
            name=_words(entry["bundle"]),
            version=_words(entry["version"]),
            weights_sha256=_sha256(entry["weights_sha256"]),
            config_sha256="",
            runtime=_words(entry["runtime"]),
        ),
        source_series_uid=_uid(entry["series_instance_uid"]),
        source_sop_uids=(),
        tracking_uids=(),
        file_there=False,
    )


# A file may hold anything: what is no UID, digest or name of ours is not shown.


def _uid(value: Any) -> str:
    text = str(value or "")
    return text if len(text) <= 64 and _UID.fullmatch(text) else ""


def _sha256(value: Any) -> str:
    text = str(value or "")
    return text if _SHA256.fullmatch(text) else ""


def _digits(value: Any) -> str:
    text = str(value or "")[:14]
    return text if text.isdecimal() and len(text) == 14 else ""


def _words(value: Any) -> str:
    return "".join(c for c in str(value or "") if c.isprintable())[:64]
