"""Reports and structure sets as others write them, on a phantom volume, for tests of marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from highdicom import sr
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from operators.job import Volume
from tests.series import stable_uid

MM = codes.UCUM.Millimeter
LENGTH = sr.CodedConcept("410668003", "SCT", "Length")
LONG = sr.CodedConcept("103339001", "SCT", "Long Axis")
SHORT = sr.CodedConcept("103340004", "SCT", "Short Axis")
FINDING = sr.CodedConcept("121071", "DCM", "Finding")


def coordinates(volume: Volume, k: int, graphic: str, points: Sequence[Sequence[float]]):
    """An SCOORD on slice k, (x, y) in pixel edges; or an SCOORD3D in LPS mm of three numbers."""
    data = np.array(points, float)
    if data.shape[1] == 3:
        return sr.CoordinatesForMeasurement3D(
            graphic_type=getattr(sr.GraphicTypeValues3D, graphic),
            graphic_data=data,
            frame_of_reference_uid=volume.frame_of_reference_uid,
        )
    header = volume.headers[k]
    return sr.CoordinatesForMeasurement(
        graphic_type=getattr(sr.GraphicTypeValues, graphic),
        graphic_data=data,
        source_image=sr.SourceImageForMeasurement(header.SOPClassUID, header.SOPInstanceUID),
    )


def number(name: sr.CodedConcept, *where) -> sr.Measurement:
    """A number, inferred from coordinates."""
    return sr.Measurement(name, 10.0, MM, referenced_coordinates=list(where) if where else None)


def group(
    tracking: str, measurements: Sequence[sr.Measurement], finding: str | None = None
) -> sr.MeasurementsAndQualitativeEvaluations:
    """A measurement group (TID 1501) with its tracking identifier and UID."""
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(stable_uid(tracking), tracking),
        measurements=measurements,
        finding_type=sr.CodedConcept("1", "99TEST", finding) if finding else None,
    )


def write_report(path: Path, volume: Volume, groups: Sequence[object]) -> Path:
    """A Comprehensive 3D SR after TID 1500 with these groups."""
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_person_context=sr.ObserverContext(
                codes.DCM.Person, sr.PersonObserverIdentifyingAttributes("Test^Reader")
            )
        ),
        procedure_reported=sr.CodedConcept("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    dataset = sr.Comprehensive3DSR(
        evidence=list(volume.headers),
        content=content[0],
        series_instance_uid=stable_uid(path.name, "series"),
        series_number=1,
        sop_instance_uid=stable_uid(path.name),
        instance_number=1,
        manufacturer="Test",
    )
    dataset.save_as(path)
    return path


def write_structures(
    path: Path, volume: Volume, contours: Sequence[np.ndarray], names: Sequence[str] = ("Mass",)
) -> Path:
    """An RTSTRUCT with closed planar contours (n, 3), LPS mm, of its first structure."""
    structures = Dataset()
    structures.SOPClassUID = RTStructureSetStorage
    structures.SOPInstanceUID = stable_uid(path.name)
    structures.StudyInstanceUID = volume.headers[0].StudyInstanceUID
    structures.SeriesInstanceUID = stable_uid(path.name, "series")
    structures.Modality = "RTSTRUCT"
    structures.StructureSetROISequence = []
    for roi, name in enumerate(names, start=1):
        item = Dataset()
        item.ROINumber, item.ROIName = roi, name
        item.ReferencedFrameOfReferenceUID = volume.frame_of_reference_uid
        structures.StructureSetROISequence.append(item)
    entry = Dataset()
    entry.ReferencedROINumber = 1
    entry.ContourSequence = []
    for points in contours:
        contour = Dataset()
        contour.ContourGeometricType = "CLOSED_PLANAR"
        contour.NumberOfContourPoints = len(points)
        contour.ContourData = [f"{value:.4f}" for value in np.ravel(points)]
        entry.ContourSequence.append(contour)
    structures.ROIContourSequence = [entry]
    structures.file_meta = FileMetaDataset()
    structures.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    structures.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    structures.file_meta.MediaStorageSOPInstanceUID = structures.SOPInstanceUID
    structures.save_as(path, enforce_file_format=True)
    return path
