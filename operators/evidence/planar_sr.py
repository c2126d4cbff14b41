"""What an SR says of a region in a 2D image: its outline, and an area where there is one.

No volume, no place in the patient, no mean: two planar groups (TID 1410) with one
tracking UID, one that points to the segment and one that has the outline, as a stack's
result has a volumetric and a planar one. The area is in mm2 only where the scale of the
image is known for all of the region, else in pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from highdicom import sr
from pydicom.sr.codedict import codes
from pydicom.uid import SegmentationStorage

from operators.evidence.common import Identity
from operators.evidence.content import SEVERITY
from operators.evidence.outline import Outline, largest_outline
from operators.evidence.seg import coded
from operators.job import Finding, Plane, Segmentation, Volume
from operators.study.image_type import WHOLE_SLIDE
from operators.volume.scale import area_mm2

AREA = sr.CodedConcept("42798000", "SCT", "Area")
SQUARE_MILLIMETRE = sr.CodedConcept("mm2", "UCUM", "square millimeter")
PIXELS = sr.CodedConcept("{pixels}", "UCUM", "Pixels")


@dataclass(frozen=True)
class Described:
    """What both groups of a structure say of it."""

    tracking: sr.TrackingIdentifier
    category: sr.CodedConcept
    kind: sr.CodedConcept
    site: sr.FindingSite
    algorithm: sr.AlgorithmIdentification


def significant(value: float) -> float:
    """`value` to 6 significant digits: more would claim what no mask can tell."""
    return float(f"{value:.6g}")


def planar_descriptors(volume: Volume, modality: sr.CodedConcept) -> list[sr.ContentItem]:
    """What the image library says of the image (TID 1602): kind and size, no spacing."""
    acquisition = sr.RelationshipTypeValues.HAS_ACQ_CONTEXT
    rows, columns = volume.array.shape[1:]
    return [
        sr.CodeContentItem(codes.DCM.Modality, modality, acquisition),
        sr.NumContentItem(codes.DCM.PixelDataRows, rows, PIXELS, None, acquisition),
        sr.NumContentItem(codes.DCM.PixelDataColumns, columns, PIXELS, None, acquisition),
    ]


def planar_groups(
    segmentation: Segmentation,
    finding: Finding,
    number: int,
    seg: Identity,
    described: Described,
) -> Iterator[sr.ContainerContentItem]:
    """The two groups of one structure.

    Parameters
    ----------
    segmentation : Segmentation
        Of a volume with a plane.
    finding : Finding
        With pixels.
    number : int
        Of its segment in the SEG, and so of its frame.
    seg : Identity
        Of the SEG.
    described : Described
        See there.
    """
    volume = segmentation.volume
    plane = volume.plane
    assert plane is not None
    per_slice = segmentation.mask(finding.segment.number).sum(axis=(1, 2))
    outline = largest_outline(segmentation.mask, finding.segment.number, per_slice)
    group = functools.partial(
        sr.PlanarROIMeasurementsAndQualitativeEvaluations,
        tracking_identifier=described.tracking,
        finding_category=described.category,
        finding_type=described.kind,
        finding_sites=[described.site],
        algorithm_id=described.algorithm,
    )
    image = _image(volume)
    segment = sr.ReferencedSegmentationFrame(
        sop_class_uid=SegmentationStorage,
        sop_instance_uid=seg.sop_instance_uid,
        frame_number=number,
        segment_number=number,
        source_image=sr.SourceImageForSegmentation(*image),
    )
    # A reference names frames or segments, never both (PS3.3 Table 10-3).
    del segment[0].ReferencedSOPSequence[0].ReferencedSegmentNumber
    whole = group(
        referenced_segment=segment,
        measurements=[_area(finding.voxels, finding.area_mm2)],
    )
    whole[0].ContentSequence.append(
        sr.TextContentItem(coded(SEVERITY), finding.severity, sr.RelationshipTypeValues.CONTAINS)
    )
    drawn = group(
        referenced_region=sr.ImageRegion(
            graphic_type=sr.GraphicTypeValues.POLYLINE,
            graphic_data=outline.points,
            source_image=sr.SourceImageForRegion(*image),
            # In a tile, not in the matrix of all tiles (PS3.3 C.18.6.1.2).
            pixel_origin_interpretation=(
                sr.PixelOriginInterpretationValues.FRAME
                if volume.headers[0].SOPClassUID == WHOLE_SLIDE
                else None
            ),
        ),
        measurements=[
            _area(outline.area_px, _enclosed_mm2(plane, outline, volume.array.shape[1:]))
        ],
    )
    yield from (*whole, *drawn)


def _image(volume: Volume) -> tuple[str, str, list[int] | None]:
    """SOP class, SOP instance and frame of the source."""
    header, plane = volume.headers[0], volume.plane
    frames = [plane.frame] if plane is not None and plane.frame is not None else None
    return str(header.SOPClassUID), str(header.SOPInstanceUID), frames


def _area(pixels: float, square_mm: float | None) -> sr.Measurement:
    if square_mm is None:
        return sr.Measurement(AREA, pixels, PIXELS)
    return sr.Measurement(AREA, significant(square_mm), SQUARE_MILLIMETRE)


def _enclosed_mm2(plane: Plane, outline: Outline, shape: tuple[int, int]) -> float | None:
    """Area that an outline encloses, by the scale that holds for its bounding box."""
    (left, top), (right, bottom) = outline.points.min(axis=0), outline.points.max(axis=0)
    box = np.zeros(shape, bool)
    box[int(top) : int(bottom), int(left) : int(right)] = True
    of_box = area_mm2(plane, box)
    return None if of_box is None else of_box / np.count_nonzero(box) * outline.area_px
