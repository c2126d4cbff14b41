"""RT Structure Set: closed planar contours of every found structure, on its source slices.

Contours run along the edges of pixels, so that filling them again by the centres of
pixels gives back the mask. A piece with holes is one contour with keyholes
(CLOSED_PLANAR, PS3.3 C.8.8.6.3): readers of structure sets know that type, while many
skip CLOSEDPLANAR_XOR, and a keyhole is filled alike by every rule. ROI n is segment n of
the SEG beside it, which it names as its source.

EvidenceRefusal
├── NoPlaceInPatient    RL-0560   a 2D image has none
└── OffTheSourceSlices  RL-0561   the grid was resampled to other planes
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
    SegmentationStorage,
)

from operators.errors import EvidenceRefusal
from operators.evidence.common import (
    LONG_STRING,
    MANUFACTURER,
    Identity,
    algorithm_parameters,
    identify,
    stamp,
)
from operators.evidence.outline import (
    Outline,
    keyhole_outlines,
    off_source_plane_mm,
    on_source_plane,
)
from operators.evidence.seg import coded, tracking_uid
from operators.job import Finding, ModelIdentity, Report, Segmentation, Volume

# Positions in headers are rounded to 0.1 mm; a grid on other planes is off by far more.
OFF_PLANE_LIMIT_MM = 0.1
# The study as an object of its own, which this reference still asks for (PS3.3 C.8.8.5.4).
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"


class NoPlaceInPatient(EvidenceRefusal):
    """Contours in mm on an image that has no place in the patient."""

    code = "RL-0560"

    def __init__(self, series_uid: str) -> None:
        super().__init__(
            f"series {series_uid}: a 2D image has no place in the patient, so no RTSTRUCT can "
            "be written. Its SEG and SR hold the outlines; take `outputs: [RTSTRUCT]` out of the "
            "bundle's card."
        )


class OffTheSourceSlices(EvidenceRefusal):
    """The volume lies on other planes than its source images."""

    code = "RL-0561"

    def __init__(self, series_uid: str, sop_uid: str, off_mm: float) -> None:
        super().__init__(
            f"series {series_uid}: the slice over image {sop_uid} lies up to {off_mm:.2f} mm off "
            f"the plane of that image (limit {OFF_PLANE_LIMIT_MM} mm): the volume was resampled "
            "to other planes, and contours would not be on the slices that a planning system "
            "shows. No RTSTRUCT is written; use the SEG."
        )


def build_rtstruct(report: Report, recorded_at: str) -> hd.base.SOPClass:
    """Build the structure set of one segmentation.

    Parameters
    ----------
    report : Report
        At least one finding has voxels.
    recorded_at : str
        The study version's record, ``YYYYMMDDHHMMSS``.

    Returns
    -------
    highdicom.base.SOPClass
        Implicit VR little endian: with explicit VR a contour of some thousand points
        could not be encoded (PS3.3 C.8.8.6, note to Contour Data). Unapproved.

    Raises
    ------
    NoPlaceInPatient
        The volume is a 2D image.
    OffTheSourceSlices
        It was resampled to planes that are not those of its source images.

    References
    ----------
    DICOM PS3.3 A.19.3 RT Structure Set IOD, C.8.8.5 Structure Set, C.8.8.6 ROI Contour,
    C.8.8.8 RT ROI Observations.
    """
    segmentation = report.segmentation
    volume, model = segmentation.volume, segmentation.model
    if volume.plane is not None:
        raise NoPlaceInPatient(volume.series_instance_uid)
    found = [finding for finding in report.findings if finding.voxels]
    seg = identify(segmentation, "SEG", recorded_at)
    identity = identify(segmentation, "RTSTRUCT", recorded_at)
    dataset = hd.base.SOPClass(
        study_instance_uid=str(volume.headers[0].StudyInstanceUID),
        series_instance_uid=identity.series_instance_uid,
        series_number=identity.series_number,
        sop_instance_uid=identity.sop_instance_uid,
        sop_class_uid=RTStructureSetStorage,
        instance_number=1,
        modality="RTSTRUCT",
        manufacturer=MANUFACTURER,
        transfer_syntax_uid=ImplicitVRLittleEndian,
    )
    dataset.OperatorsName = ""
    dataset.FrameOfReferenceUID = volume.frame_of_reference_uid
    dataset.PositionReferenceIndicator = ""
    dataset.StructureSetLabel = "AI contours"
    dataset.StructureSetName = f"{model.name} {model.version}"[:LONG_STRING]
    dataset.StructureSetDate, dataset.StructureSetTime = recorded_at[:8], recorded_at[8:]
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(volume)]
    rois = list(enumerate(found, start=1))
    dataset.StructureSetROISequence = [_roi(n, f, volume, model, seg) for n, f in rois]
    dataset.ROIContourSequence = [_contours(n, f, segmentation) for n, f in rois]
    dataset.RTROIObservationsSequence = [_observation(n, f) for n, f in rois]
    dataset.ApprovalStatus = "UNAPPROVED"
    stamp(dataset, identity, segmentation, recorded_at)
    # No part of this IOD: the structure set has a date of its own, and is unapproved.
    del dataset.ContentQualification, dataset.ContentDate, dataset.ContentTime
    return dataset


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item


def _frame_of_reference(volume: Volume) -> Dataset:
    """Frame of reference, study, series and every slice, one in the other."""
    series = Dataset()
    series.SeriesInstanceUID = volume.series_instance_uid
    series.ContourImageSequence = [_reference(header) for header in volume.headers]
    study = Dataset()
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = volume.headers[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = volume.frame_of_reference_uid
    frame.RTReferencedStudySequence = [study]
    return frame


def _roi(
    number: int, finding: Finding, volume: Volume, model: ModelIdentity, seg: Identity
) -> Dataset:
    """What an ROI is called and where it comes from.

    The IOD names no tracking UID: it is added as a Standard Extended SOP Class may
    (PS3.2 3.11), and the segment that the ROI is made from bears it as well.
    """
    segment = finding.segment
    source = Dataset()
    source.ReferencedSOPClassUID = SegmentationStorage
    source.ReferencedSOPInstanceUID = seg.sop_instance_uid
    source.ReferencedSegmentNumber = number
    roi = Dataset()
    roi.DefinitionSourceSequence = [source]
    roi.ROINumber = number
    roi.ReferencedFrameOfReferenceUID = volume.frame_of_reference_uid
    # Short and without blanks: planning systems cut long names off, and then two are one.
    roi.ROIName = segment.name[:LONG_STRING]
    roi.ROIDescription = segment.label
    if finding.volume_ml is not None:
        roi.ROIVolume = f"{finding.volume_ml:.6g}"  # cm3
    roi.ROIGenerationAlgorithm = "SEMIAUTOMATIC" if model.prompt else "AUTOMATIC"
    roi.ROIGenerationDescription = f"{model.name} {model.version}"[:LONG_STRING]
    roi.ROIDerivationAlgorithmIdentificationSequence = hd.AlgorithmIdentificationSequence(
        name=model.name[:LONG_STRING],
        family=codes.DCM.ArtificialIntelligence,
        version=model.version[:LONG_STRING],
        source=model.manufacturer[:LONG_STRING] or None,
        parameters=algorithm_parameters(model),
    )
    roi.TrackingID, roi.TrackingUID = segment.name, tracking_uid(seg, segment)
    return roi


def _contours(number: int, finding: Finding, segmentation: Segmentation) -> Dataset:
    """All contours of one ROI, slice by slice."""
    mask = segmentation.mask(finding.segment.number)
    outlines = (
        outline
        for k in np.flatnonzero(mask.any(axis=(1, 2)))
        for outline in keyhole_outlines(mask[k], int(k))
    )
    item = Dataset()
    item.ROIDisplayColor = list(finding.segment.colour_rgb)
    item.ContourSequence = list(_numbered(segmentation.volume, outlines))
    item.ReferencedROINumber = number
    return item


def _numbered(volume: Volume, outlines: Iterable[Outline]) -> Iterable[Dataset]:
    checked = -1
    for number, outline in enumerate(outlines, start=1):
        header = volume.headers[outline.k]
        if outline.k != checked:
            off_mm = off_source_plane_mm(volume, outline.k)
            if off_mm > OFF_PLANE_LIMIT_MM:
                raise OffTheSourceSlices(
                    volume.series_instance_uid, str(header.SOPInstanceUID), off_mm
                )
            checked = outline.k
        # The first point is not repeated (PS3.3 C.8.8.6.1).
        points = on_source_plane(volume, outline)[:-1]
        contour = Dataset()
        contour.ContourImageSequence = [_reference(header)]
        contour.ContourGeometricType = "CLOSED_PLANAR"
        contour.NumberOfContourPoints = len(points)
        contour.ContourNumber = number
        contour.ContourData = _millimetres(points)
        yield contour


def _millimetres(points: np.ndarray) -> Sequence[str]:
    """Coordinates as DS values; a thousandth of a mm is what planes are compared by."""
    return [f"{value:.3f}" for value in points.ravel()]


def _observation(number: int, finding: Finding) -> Dataset:
    """What an ROI is, for planning: an organ, by its code and side."""
    segment = finding.segment
    kind = coded(segment.type)
    if segment.laterality is not None:
        kind.SegmentedPropertyTypeModifierCodeSequence = [coded(segment.laterality)]
    observation = Dataset()
    observation.ObservationNumber = number
    observation.ReferencedROINumber = number
    observation.SegmentedPropertyCategoryCodeSequence = [coded(segment.category)]
    observation.RTROIIdentificationCodeSequence = [kind]
    observation.RTROIInterpretedType = "ORGAN"
    observation.ROIInterpreter = ""
    return observation
