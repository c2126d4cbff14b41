"""DICOM Structured Report: Comprehensive 3D SR after TID 1500, unverified.

Every structure that was found has two measurement groups with one tracking UID:
a volumetric one (TID 1411) that points to its segment, and a planar one (TID 1410)
with the outline of its largest cross-section. OHIF 3.13 crashes at a group
without coordinates, but merges groups by tracking UID: the pair is shown as one
finding, on its slice, with all its numbers. What has no region (structures that
were looked for and not found, remarks on the input) is named in the Qualitative
Evaluations of the report, never in a group of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

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
    identify,
    source_references,
    stamp,
)
from operators.evidence.outline import Outline, largest_outline
from operators.evidence.seg import coded, found_segments, tracking_uid
from operators.job import Finding, ModelIdentity, Report, Segment, Volume

_COMMENT = sr.CodedConcept("121106", "DCM", "Comment")
_SEVERITY = sr.CodedConcept("246112005", "SCT", "Severity")
_VOLUME = sr.CodedConcept("118565006", "SCT", "Volume")
_AREA = sr.CodedConcept("42798000", "SCT", "Area")
_MEAN = sr.CodedConcept("373098007", "SCT", "Mean")
_MILLILITRE = sr.CodedConcept("mL", "UCUM", "milliliter")
_SQUARE_MILLIMETRE = sr.CodedConcept("mm2", "UCUM", "square millimeter")
_PIXELS = sr.CodedConcept("{pixels}", "UCUM", "Pixels")
_SOURCE = sr.CodedConcept("260753009", "SCT", "Source")
_QUALITATIVE_EVALUATIONS = sr.CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")
_IMAGING_PROCEDURE = sr.CodedConcept("363679005", "SCT", "Imaging procedure")

_MODALITY_MEANING = {
    "CT": "Computed Tomography",
    "MR": "Magnetic Resonance",
    "PT": "Positron emission tomography",
}
_ATTENUATION = sr.CodedConcept("112031", "DCM", "Attenuation Coefficient")
_SUV_BODY_WEIGHT = sr.CodedConcept("126401", "DCM", "SUVbw")
_MR_SIGNAL = sr.CodedConcept("110852", "DCM", "MR signal intensity")
_HOUNSFIELD = sr.CodedConcept("[hnsf'U]", "UCUM", "Hounsfield unit")
_GRAM_PER_MILLILITRE = sr.CodedConcept(
    "{SUVbw}g/ml", "UCUM", "Standardized Uptake Value body weight"
)
_NO_UNITS = sr.CodedConcept("1", "UCUM", "no units")


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
        Complete, unverified, preliminary.

    References
    ----------
    DICOM PS3.16 TID 1500, 1410, 1411, 1419, 1600, 4019.
    """
    segmentation = report.segmentation
    volume = segmentation.volume
    identity = identify(segmentation, "SR", recorded_at)
    seg = identify(segmentation, "SEG", recorded_at)
    evidence = source_references(volume)
    if found_segments(report):
        evidence.append(_seg_reference(evidence[0], seg))
    dataset = sr.Comprehensive3DSR(
        evidence=evidence,
        content=_content(report, counts, seg),
        series_instance_uid=identity.series_instance_uid,
        series_number=identity.series_number,
        sop_instance_uid=identity.sop_instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    stamp(dataset, identity, segmentation, recorded_at)
    return dataset


def _seg_reference(source: Dataset, seg: Identity) -> Dataset:
    """The SEG as a piece of evidence; it need not have been read back."""
    reference = copy.deepcopy(source)  # references share their elements
    reference.SOPClassUID = SegmentationStorage
    reference.SOPInstanceUID = seg.sop_instance_uid
    reference.SeriesInstanceUID = seg.series_instance_uid
    return reference


def _content(report: Report, counts: np.ndarray, seg: Identity) -> Dataset:
    """The document's root container (TID 1500)."""
    root = sr.ContainerContentItem(name=codes.cid7021.ImagingMeasurementReport, template_id="1500")
    items = sr.ContentSequence()
    items.extend(
        sr.LanguageOfContentItemAndDescendants(
            sr.CodedConcept("en-US", "RFC5646", "English (United States)")
        )
    )
    items.extend(_observer())
    items.append(
        sr.CodeContentItem(
            name=codes.DCM.ProcedureReported,
            value=_IMAGING_PROCEDURE,
            relationship_type=sr.RelationshipTypeValues.HAS_CONCEPT_MOD,
        )
    )
    items.append(_image_library(report.segmentation.volume))
    found = [finding for finding in report.findings if finding.voxels]
    if found:
        items.append(
            _container(
                codes.DCM.ImagingMeasurements,
                [
                    item
                    for number, finding in enumerate(found, start=1)
                    for item in _groups(report, finding, number, counts, seg)
                ],
            )
        )
    remarks = [
        sr.TextContentItem(_COMMENT, text, sr.RelationshipTypeValues.CONTAINS)
        for text in _remarks(report)
    ]
    if remarks:
        items.append(_container(_QUALITATIVE_EVALUATIONS, remarks))
    root.ContentSequence = items
    return root


def _container(
    name: sr.CodedConcept | Code, items: Sequence[sr.ContentItem]
) -> sr.ContainerContentItem:
    """A container with its items."""
    container = sr.ContainerContentItem(
        name=name, relationship_type=sr.RelationshipTypeValues.CONTAINS
    )
    container.ContentSequence = sr.ContentSequence(items)
    return container


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


def _image_library(volume: Volume) -> sr.ContainerContentItem:
    """Every source slice, in one group with what they share (TID 1600).

    Descriptors stand once on the group: on every entry they would be the larger
    part of the report.
    """
    acquisition = sr.RelationshipTypeValues.HAS_ACQ_CONTEXT
    rows, columns = volume.array.shape[1:]
    _, row_spacing_mm, column_spacing_mm = volume.spacing_zyx_mm
    modality = str(volume.headers[0].Modality)
    shared: list[sr.ContentItem] = [
        sr.CodeContentItem(codes.DCM.Modality, _modality(modality), acquisition),
        sr.UIDRefContentItem(
            codes.DCM.FrameOfReferenceUID, volume.frame_of_reference_uid, acquisition
        ),
        sr.NumContentItem(codes.DCM.PixelDataRows, rows, _PIXELS, None, acquisition),
        sr.NumContentItem(codes.DCM.PixelDataColumns, columns, _PIXELS, None, acquisition),
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
    entries = [
        sr.ImageContentItem(
            name=_SOURCE,
            referenced_sop_class_uid=str(header.SOPClassUID),
            referenced_sop_instance_uid=str(header.SOPInstanceUID),
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        )
        for header in volume.headers
    ]
    group = _container(codes.DCM.ImageLibraryGroup, [*shared, *entries])
    return _container(codes.DCM.ImageLibrary, [group])


def _modality(value: str) -> sr.CodedConcept:
    """Code of a modality (CID 33), whose value is that of the attribute."""
    return sr.CodedConcept(value, "DCM", _MODALITY_MEANING.get(value, value))


def significant(value: float) -> float:
    """`value` to 6 significant digits: more would claim what no mask can tell."""
    return float(f"{value:.6g}")


def _groups(
    report: Report, finding: Finding, number: int, counts: np.ndarray, seg: Identity
) -> Iterator[sr.ContainerContentItem]:
    """The volumetric and the planar group of one structure, in this order.

    OHIF takes the first UIDREF of the merged groups for the tracking UID, so the
    group that also refers to a series by UID keeps its tracking items in front.
    """
    segmentation, segment = report.segmentation, finding.segment
    volume = segmentation.volume
    outline = largest_outline(segmentation.labels, segment.number, counts[:, segment.number])
    volumetric = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(seg, segment),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=SegmentationStorage,
            sop_instance_uid=seg.sop_instance_uid,
            segment_number=number,
            source_series=sr.SourceSeriesForSegmentation(volume.series_instance_uid),
        ),
        finding_category=coded(segment.category),
        finding_type=coded(segment.type),
        finding_sites=[_site(segment)],
        algorithm_id=_algorithm(segmentation.model),
        measurements=_measurements(finding, volume),
    )
    volumetric[0].ContentSequence.append(
        sr.TextContentItem(_SEVERITY, finding.severity, sr.RelationshipTypeValues.CONTAINS)
    )
    _, row_spacing_mm, column_spacing_mm = volume.spacing_zyx_mm
    area_mm2 = outline.area_px * row_spacing_mm * column_spacing_mm
    planar = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(seg, segment),
        referenced_region=_region(volume, outline),
        finding_category=coded(segment.category),
        finding_type=coded(segment.type),
        finding_sites=[_site(segment)],
        algorithm_id=_algorithm(segmentation.model),
        measurements=[sr.Measurement(_AREA, significant(area_mm2), _SQUARE_MILLIMETRE)],
    )
    yield from (*volumetric, *planar)


def _tracking(seg: Identity, segment: Segment) -> sr.TrackingIdentifier:
    """The segment's own tracking id and UID: all that ties the two groups and the SEG."""
    return sr.TrackingIdentifier(uid=tracking_uid(seg, segment), identifier=segment.name)


def _site(segment: Segment) -> sr.FindingSite:
    """Where it is, with its side."""
    return sr.FindingSite(
        coded(segment.type), laterality=coded(segment.laterality) if segment.laterality else None
    )


def _measurements(finding: Finding, volume: Volume) -> list[sr.Measurement]:
    """Volume, and the mean of the source values where there is one (TID 1419)."""
    measured = []
    if finding.volume_ml is not None:
        measured.append(sr.Measurement(_VOLUME, significant(finding.volume_ml), _MILLILITRE))
    if finding.mean is not None:
        what, unit = _intensity(finding, volume)
        # Without a name for the quantity, the mean itself is what is measured.
        name, derivation = (what, _MEAN) if what else (_MEAN, None)
        measured.append(
            sr.Measurement(name, significant(finding.mean), unit, derivation=derivation)
        )
    return measured


def _intensity(finding: Finding, volume: Volume) -> tuple[sr.CodedConcept | None, sr.CodedConcept]:
    """What the mean is a mean of, and its unit (CID 7469, UCUM)."""
    if finding.unit == "HU":
        return _ATTENUATION, _HOUNSFIELD
    if finding.unit == "SUVbw":
        return _SUV_BODY_WEIGHT, _GRAM_PER_MILLILITRE
    return (_MR_SIGNAL if volume.headers[0].Modality == "MR" else None), _NO_UNITS


def _algorithm(model: ModelIdentity) -> sr.AlgorithmIdentification:
    """Which network, exactly (TID 4019)."""
    return sr.AlgorithmIdentification(
        name=model.name,
        version=model.version,
        manufacturer=model.manufacturer or None,
        parameters=[f"{name}={value}" for name, value in algorithm_parameters(model).items()],
        family=codes.DCM.ArtificialIntelligence,
    )


def _region(volume: Volume, outline: Outline) -> sr.ImageRegion:
    """The outline in the pixels of the source image that lies under its slice."""
    header = volume.headers[outline.k]
    return sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=on_source_image(volume, outline),
        source_image=sr.SourceImageForRegion(
            referenced_sop_class_uid=str(header.SOPClassUID),
            referenced_sop_instance_uid=str(header.SOPInstanceUID),
        ),
    )


def on_source_image(volume: Volume, outline: Outline) -> np.ndarray:
    """Move an outline from the volume's grid to its source image, by way of the patient.

    The two are one grid unless the volume was resampled (gantry tilt).

    Returns
    -------
    numpy.ndarray, shape (n, 2), float64
        (column, row), (0, 0) at the outer corner of the first pixel (PS3.3 C.18.6.1.2).
    """
    header = volume.headers[outline.k]
    ones = np.ones(len(outline.points))
    index = np.column_stack([outline.points - 0.5, outline.k * ones, ones])
    offset_mm = index @ volume.lps_from_index[:3].T - np.array(header.ImagePositionPatient, float)
    along_row, along_column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    row_spacing_mm, column_spacing_mm = (float(value) for value in header.PixelSpacing)
    points = np.column_stack(
        [offset_mm @ along_row / column_spacing_mm, offset_mm @ along_column / row_spacing_mm]
    )
    # A thousandth of a pixel is far below what the positions in the header resolve.
    return np.round(points + 0.5, 3)


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
