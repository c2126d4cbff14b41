"""DICOM Structured Report: Comprehensive 3D SR after TID 1500, unverified.

Every structure that was found has two measurement groups with one tracking UID:
a planar one (TID 1410) with the outline of its largest cross-section, and a
volumetric one (TID 1411) that points to its segment. OHIF 3.13 crashes at a group
without coordinates, but merges groups by tracking UID: the pair is shown as one
finding, on its slice, with all its numbers. What has no region (structures that
were looked for and not found, remarks on the input) is named in the Qualitative
Evaluations of the report, never in a group of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import SegmentationStorage

from operators.evidence.common import (
    DEVICE_SERIAL_NUMBER,
    DEVICE_UID,
    MANUFACTURER,
    MODEL_NAME,
    Identity,
    algorithm_parameters,
    encoded_references,
    first_reference,
    identify,
    keep_encoded,
    stamp,
)
from operators.evidence.comparison_text import (
    comparison_items,
    comparison_remarks,
    digest,
    refer_to_prior,
)
from operators.evidence.content import COMMENT, text_item
from operators.evidence.encode import Stencil, encode_item, set_sequence
from operators.evidence.measured_sr import Structure, planar_group, volumetric_group
from operators.evidence.outline import largest_outline
from operators.evidence.planar_sr import (
    PIXELS,
    Described,
    planar_descriptors,
    planar_groups,
    significant,
)
from operators.evidence.rule_text import rule_items
from operators.evidence.seg import coded, found_segments, tracking_uid
from operators.job import Finding, ModelIdentity, Report, Segment, Segmentation, Volume
from operators.reading import Reading

SOURCE = sr.CodedConcept("260753009", "SCT", "Source")
QUALITATIVE_EVALUATIONS = sr.CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")
_IMAGING_PROCEDURE = sr.CodedConcept("363679005", "SCT", "Imaging procedure")

_MODALITY_MEANING = {
    "CT": "Computed Tomography",
    "MR": "Magnetic Resonance",
    "PT": "Positron emission tomography",
    "CR": "Computed Radiography",
    "DX": "Digital Radiography",
    "MG": "Mammography",
    "RG": "Radiographic imaging",
    "PX": "Panoramic X-Ray",
    "IO": "Intra-oral Radiography",
    "US": "Ultrasound",
    "SM": "Slide Microscopy",
    "GM": "General Microscopy",
    "XC": "External-camera Photography",
}


def build_sr(report: Report, counts: np.ndarray, recorded_at: str) -> sr.Comprehensive3DSR:
    """Build the SR of one segmentation.

    Parameters
    ----------
    report : Report
        Findings; none with voxels is allowed, and then there is no SEG to refer to.
    counts : numpy.ndarray, shape (slices, labels)
        As `tally` gives it.
    recorded_at : str
        The study version's record, ``YYYYMMDDHHMMSS``.

    Returns
    -------
    highdicom.sr.Comprehensive3DSR
        Complete, unverified, preliminary. Its content and evidence are encoded already
        (explicit VR little endian); `highdicom.sr.srread` gives the content of the file.

    References
    ----------
    DICOM PS3.16 TID 1500, 1410, 1411, 1419, 1600, 4019.
    """
    segmentation = report.segmentation
    seg = identify(segmentation, "SEG", recorded_at)
    dataset = document(
        segmentation,
        _content(report, counts, seg),
        _evidence(report, seg),
        recorded_at,
        also=digest(report),
    )
    refer_to_prior(dataset, report)
    return dataset


def document(
    about: Segmentation | Reading,
    content: Iterable[bytes],
    evidence: bytes,
    recorded_at: str,
    *,
    also: str = "",
) -> sr.Comprehensive3DSR:
    """An SR of encoded parts, stamped: what all reports of ours have in common.

    Parameters
    ----------
    about : Segmentation or Reading
        Whose volume and model it names.
    content : iterable of bytes
        Encoded items of the root container.
    evidence : bytes
        Encoded item of the evidence sequence: every instance that `content` refers to.
    recorded_at : str
        As for `build_sr`.
    also : str
        As for `identify`.
    """
    identity = identify(about, "SR", recorded_at, also=also)
    # With the head of the content only: highdicom would copy and search every item.
    dataset = sr.Comprehensive3DSR(
        evidence=[first_reference(about.volume)],
        content=_root(),
        series_instance_uid=identity.series_instance_uid,
        series_number=identity.series_number,
        sop_instance_uid=identity.sop_instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    set_sequence(dataset, "ContentSequence", content)
    set_sequence(dataset, "CurrentRequestedProcedureEvidenceSequence", [evidence])
    stamp(dataset, identity, about, recorded_at)
    keep_encoded(dataset)
    return dataset


def _evidence(report: Report, seg: Identity) -> bytes:
    """Every instance that the content refers to: the slices, and the SEG where there is one.

    References
    ----------
    DICOM PS3.3 Table C.17-3, Hierarchical SOP Instance Reference Macro.
    """
    series = []
    if found_segments(report):
        result = Dataset()
        result.ReferencedSOPClassUID = SegmentationStorage
        result.ReferencedSOPInstanceUID = seg.sop_instance_uid
        series.append(_series(seg.series_instance_uid, [encode_item(result)]))
    return slices_and(report.segmentation.volume, series)


def slices_and(volume: Volume, series: Iterable[bytes] = ()) -> bytes:
    """The encoded evidence item: the images of a volume, and further series of its study.

    Each channel's series is named: the network saw them all.
    """
    slices = _series(volume.series_instance_uid, encoded_references(volume.headers))
    channels = [
        _series(str(headers[0].SeriesInstanceUID), encoded_references(headers))
        for headers in volume.channel_headers
    ]
    study = Dataset()
    study.StudyInstanceUID = volume.headers[0].StudyInstanceUID
    set_sequence(study, "ReferencedSeriesSequence", [slices, *channels, *series])
    return encode_item(study)


def _series(series_instance_uid: str, references: Iterable[bytes | bytearray]) -> bytes:
    """The encoded references to the instances of one series."""
    series = Dataset()
    series.SeriesInstanceUID = series_instance_uid
    set_sequence(series, "ReferencedSOPSequence", references)
    return encode_item(series)


def _root() -> sr.ContainerContentItem:
    """The document's root container, without its content but for the language."""
    root = sr.ContainerContentItem(name=codes.cid7021.ImagingMeasurementReport, template_id="1500")
    root.ContentSequence = sr.ContentSequence(_language())
    return root


def _language() -> sr.LanguageOfContentItemAndDescendants:
    return sr.LanguageOfContentItemAndDescendants(
        sr.CodedConcept("en-US", "RFC5646", "English (United States)")
    )


def _content(report: Report, counts: np.ndarray, seg: Identity) -> Iterator[bytes]:
    """The encoded items of the document's root container (TID 1500)."""
    yield from head(report.segmentation.volume)
    found = [finding for finding in report.findings if finding.voxels]
    if found:
        used = algorithm(report.segmentation.model)
        encoded = b"".join(map(encode_item, used))
        yield container(
            codes.DCM.ImagingMeasurements,
            (
                group
                for number, finding in enumerate(found, start=1)
                for group in _groups(report, finding, number, counts, seg, used, encoded)
            ),
        )
    remarks = [text_item(COMMENT, text) for text in _remarks(report)]
    if remarks:
        yield container(QUALITATIVE_EVALUATIONS, remarks)


def head(volume: Volume) -> Iterator[bytes]:
    """Encoded: language, observer, procedure, image library."""
    for item in (*_language(), *_observer()):
        yield encode_item(item)
    yield encode_item(
        sr.CodeContentItem(
            name=codes.DCM.ProcedureReported,
            value=_IMAGING_PROCEDURE,
            relationship_type=sr.RelationshipTypeValues.HAS_CONCEPT_MOD,
        )
    )
    yield _image_library(volume)


def container(name: sr.CodedConcept | Code, items: Iterable[bytes | bytearray]) -> bytes:
    """An encoded container with its encoded items."""
    container = sr.ContainerContentItem(
        name=name, relationship_type=sr.RelationshipTypeValues.CONTAINS
    )
    set_sequence(container, "ContentSequence", items)
    return encode_item(container)


def _observer() -> sr.ObserverContext:
    """The software as the observer (TID 1004)."""
    return sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=DEVICE_UID,
            name=MODEL_NAME,
            manufacturer_name=MANUFACTURER,
            model_name=MODEL_NAME,
            serial_number=DEVICE_SERIAL_NUMBER,
        ),
    )


def _image_library(volume: Volume) -> bytes:
    """Every source slice, in one group with what they share (TID 1600).

    Descriptors stand once on the group: on every entry they would be the larger
    part of the report.
    """
    modality = _modality(str(volume.headers[0].Modality))
    if volume.plane is not None:
        described = [encode_item(item) for item in planar_descriptors(volume, modality)]
        return _library(volume, described)
    acquisition = sr.RelationshipTypeValues.HAS_ACQ_CONTEXT
    rows, columns = volume.array.shape[1:]
    _, row_spacing_mm, column_spacing_mm = volume.spacing_zyx_mm
    shared: list[sr.ContentItem] = [
        sr.CodeContentItem(codes.DCM.Modality, modality, acquisition),
        sr.UIDRefContentItem(
            codes.DCM.FrameOfReferenceUID, volume.frame_of_reference_uid, acquisition
        ),
        sr.NumContentItem(codes.DCM.PixelDataRows, rows, PIXELS, None, acquisition),
        sr.NumContentItem(codes.DCM.PixelDataColumns, columns, PIXELS, None, acquisition),
        # Vertical is from row to row (TID 1604).
        sr.NumContentItem(
            codes.DCM.HorizontalPixelSpacing,
            significant(column_spacing_mm),
            codes.UCUM.Millimeter,
            None,
            acquisition,
        ),
        sr.NumContentItem(
            codes.DCM.VerticalPixelSpacing,
            significant(row_spacing_mm),
            codes.UCUM.Millimeter,
            None,
            acquisition,
        ),
    ]
    described = [encode_item(item) for item in shared]
    return _library(volume, described)


def _library(volume: Volume, described: list[bytes]) -> bytes:
    group = container(codes.DCM.ImageLibraryGroup, [*described, *_library_entries(volume)])
    return container(codes.DCM.ImageLibrary, [group])


def _library_entries(volume: Volume) -> list[bytearray]:
    """An image item for every slice."""
    first = volume.headers[0]
    entry = sr.ImageContentItem(
        name=SOURCE,
        referenced_sop_class_uid=str(first.SOPClassUID),
        referenced_sop_instance_uid=str(first.SOPInstanceUID),
        relationship_type=sr.RelationshipTypeValues.CONTAINS,
    )
    (referenced,) = entry.ReferencedSOPSequence
    stencil = Stencil(
        entry, (referenced, "ReferencedSOPClassUID"), (referenced, "ReferencedSOPInstanceUID")
    )
    return [
        stencil.fill(str(header.SOPClassUID), sop_instance_uid)
        for header, sop_instance_uid in zip(volume.headers, volume.source_sop_uids, strict=True)
    ]


def _modality(value: str) -> sr.CodedConcept:
    """Code of a modality (CID 33), whose value is that of the attribute."""
    return sr.CodedConcept(value, "DCM", _MODALITY_MEANING.get(value, value))


def _groups(
    report: Report,
    finding: Finding,
    number: int,
    counts: np.ndarray,
    seg: Identity,
    algorithm: sr.AlgorithmIdentification,
    encoded_algorithm: bytes,
) -> Iterator[bytes]:
    """The planar and the volumetric group of one structure, in this order.

    OHIF 3.13 shows the first five numbers of the merged groups, so those that a reader
    looks for come first. It takes the first UIDREF for the tracking UID, so a group that
    also refers to a series by UID keeps its tracking items in front.
    """
    segmentation, segment = report.segmentation, finding.segment
    volume = segmentation.volume
    if volume.plane is not None:
        category, kind = coded(segment.category), coded(segment.type)
        shared = Described(_tracking(seg, segment), category, kind, _site(segment), algorithm)
        groups = planar_groups(segmentation, finding, number, seg, shared)
        yield from map(encode_item, groups)
        return
    structure = Structure(
        volume=volume,
        finding=finding,
        number=number,
        seg=seg,
        outline=largest_outline(segmentation.mask, segment.number, counts[:, segment.number]),
        algorithm=encoded_algorithm,
        remarks=(*rule_items(finding), *comparison_items(report, finding)),
    )
    yield planar_group(structure)
    yield volumetric_group(structure)


def _tracking(seg: Identity, segment: Segment) -> sr.TrackingIdentifier:
    """The segment's own tracking id and UID: all that ties the two groups and the SEG."""
    return sr.TrackingIdentifier(uid=tracking_uid(seg, segment), identifier=segment.name)


def _site(segment: Segment) -> sr.FindingSite:
    """Where it is, with its side."""
    return sr.FindingSite(
        coded(segment.type), laterality=coded(segment.laterality) if segment.laterality else None
    )


def algorithm(model: ModelIdentity) -> sr.AlgorithmIdentification:
    """Which network, exactly (TID 4019)."""
    return sr.AlgorithmIdentification(
        name=model.name,
        version=model.version,
        manufacturer=model.manufacturer or None,
        parameters=[f"{name}={value}" for name, value in algorithm_parameters(model).items()],
        family=codes.DCM.ArtificialIntelligence,
    )


def _remarks(report: Report) -> Iterator[str]:
    """What a reader must know beside the measurements, one sentence each."""
    for finding in report.findings:
        if not finding.voxels:
            side = f" ({finding.segment.laterality.meaning})" if finding.segment.laterality else ""
            kind = finding.segment.type
            yield (
                f"Looked for and not found: {finding.segment.label}; "
                f"{kind.meaning}{side}, {kind.scheme} {kind.value}."
            )
    for flag in report.segmentation.volume.quality:
        yield f"Quality of the input, {flag.name}: {flag.text}"
    yield from comparison_remarks(report)
