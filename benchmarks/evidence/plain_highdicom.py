"""highdicom as its guide has it: one `Segmentation`, one `Comprehensive3DSR`, `save_as`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence.radloop_writer import colour, segmented


def highdicom(
    labels: np.ndarray, segments: int, source: Path, *, part: str
) -> Callable[[Path], None]:
    """A pass: SEG and SR with radloop's groups into a folder; its numbers are found beforehand."""
    import highdicom as hd
    import pydicom
    from pydicom.sr.codedict import codes

    if part != "write":
        raise SystemExit("highdicom reads no study")
    images = sorted(
        (pydicom.dcmread(file, stop_before_pixels=True) for file in source.iterdir()),
        key=lambda image: float(image.ImagePositionPatient[2]),
    )
    found = _of_radloop(labels, segments, source)

    def once(target: Path) -> None:
        algorithm = hd.AlgorithmIdentificationSequence(
            "benchmark", codes.DCM.ArtificialIntelligence, "1.0.0"
        )
        trackings = [hd.sr.TrackingIdentifier(hd.UID(), f"ball_{n}") for n in found]
        seg = hd.seg.Segmentation(
            source_images=images,
            pixel_array=labels,
            segmentation_type="BINARY",
            segment_descriptions=[
                hd.seg.SegmentDescription(
                    segment_number=n,
                    segment_label=f"Ball {n}",
                    segmented_property_category=codes.SCT.AnatomicalStructure,
                    segmented_property_type=codes.SCT.Liver,
                    algorithm_type="AUTOMATIC",
                    algorithm_identification=algorithm,
                    tracking_uid=tracking[1].value,
                    tracking_id=f"ball_{n}",
                    display_color=hd.color.CIELabColor.from_rgb(*colour(n)),
                )
                for n, tracking in zip(found, trackings, strict=True)
            ],
            series_instance_uid=hd.UID(),
            series_number=2,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="radloop",
            manufacturer_model_name="benchmark",
            software_versions="1.0.0",
            device_serial_number="1",
        )
        seg.save_as(target / "seg.dcm")
        groups: list[Any] = []
        for tracking, (n, values) in zip(trackings, found.items(), strict=True):
            groups += _groups(images, seg, n, values, tracking)
        report = hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(
                observer_device_context=hd.sr.ObserverContext(
                    observer_type=codes.DCM.Device,
                    observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                        uid=hd.UID()
                    ),
                )
            ),
            procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
            imaging_measurements=groups,
            title=codes.DCM.ImagingMeasurementReport,
            referenced_images=images,
        )
        hd.sr.Comprehensive3DSR(
            evidence=[*images, seg],
            content=report[0],
            series_instance_uid=hd.UID(),
            series_number=3,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="radloop",
        ).save_as(target / "sr.dcm")

    return once


def _of_radloop(labels: np.ndarray, segments: int, source: Path) -> dict[int, dict[str, Any]]:
    """Volume, mean, and the outline of the largest cross-section, by radloop's own measuring."""
    from operators.evidence.outline import largest_outline, on_source_image
    from operators.findings.measure import measure
    from operators.findings.tally import tally

    report = measure(segmented(labels, segments, source))
    counts = tally(report.segmentation)
    found = {}
    for finding in report.findings:
        outline = largest_outline(
            report.segmentation.mask, finding.segment.number, counts[:, finding.segment.number]
        )
        found[finding.segment.number] = {
            "measurements": finding.measurements,
            "k": outline.k,
            "polyline": on_source_image(report.segmentation.volume, outline),
        }
    return found


def _groups(
    images: list[Any], seg: Any, number: int, values: dict[str, Any], tracking: Any
) -> list[Any]:
    """The volumetric and the planar group of one structure."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    def measurement(taken: Any) -> Any:
        name = hd.sr.CodedConcept(taken.code.value, taken.code.scheme, taken.code.meaning)
        unit = hd.sr.CodedConcept(taken.unit.value, taken.unit.scheme, taken.unit.meaning)
        return hd.sr.Measurement(name, round(taken.value, 4), unit)

    shared = {
        "tracking_identifier": tracking,
        "finding_type": codes.SCT.Liver,
        "finding_category": codes.SCT.AnatomicalStructure,
    }
    image = images[values["k"]]
    volumetric = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=hd.sr.ReferencedSegment.from_segmentation(seg, segment_number=number),
        measurements=[measurement(taken) for taken in values["measurements"]],
        **shared,
    )
    planar = hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=hd.sr.ImageRegion(
            graphic_type="POLYLINE",
            graphic_data=values["polyline"],
            source_image=hd.sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID),
        ),
        **shared,
    )
    return [volumetric, planar]
