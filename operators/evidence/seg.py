"""DICOM Segmentation: BINARY, one segment per structure that was found.

highdicom builds the header and checks it; the frames are put in by `frames.py`.
They lie on the grid of the volume, not on positions copied from the source, so
that voxels and measurements agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DSfloat

from operators.evidence.common import (
    LONG_STRING,
    Identity,
    algorithm_parameters,
    encoded_references,
    first_reference,
    identify,
    keep_encoded,
    stamp,
)
from operators.evidence.encode import Stencil, encode_item, set_sequence
from operators.evidence.frames import Frame, attach_frames, list_frames
from operators.evidence.planar_seg import build_planar_seg
from operators.evidence.seg_header import binary_seg
from operators.evidence.uids import derive_uid
from operators.job import Code, ModelIdentity, Report, Segment, Segmentation, Volume

_AUTOMATIC = hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC
_SEMIAUTOMATIC = hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC


def coded(code: Code) -> hd.sr.CodedConcept:
    """`code` as highdicom wants it."""
    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def tracking_uid(seg: Identity, segment: Segment) -> str:
    """Tracking UID of a segment: one for its SEG and its SR, another in every result.

    OHIF merges measurement groups by this UID, so two results of one study must
    not share it, though they speak of one organ.
    """
    return derive_uid("tracking", seg.sop_instance_uid, segment.name)


def build_seg(report: Report, counts: np.ndarray, recorded_at: str) -> hd.seg.Segmentation:
    """Build the SEG of one segmentation.

    Parameters
    ----------
    report : Report
        At least one finding has voxels.
    counts : numpy.ndarray, shape (slices, labels)
        As `tally` gives it.
    recorded_at : str
        The study version's record, ``YYYYMMDDHHMMSS``.

    Returns
    -------
    highdicom.seg.Segmentation
        Explicit VR little endian. Segments are numbered from 1 without gaps in the
        order of the findings, as PS3.3 C.8.20.2 demands; only non-empty frames are
        kept. Pixel Data is a buffer: write it once.
    """
    segmentation = report.segmentation
    volume = segmentation.volume
    identity = identify(segmentation, "SEG", recorded_at)
    found = found_segments(report)
    if volume.plane is not None:
        masks = [segmentation.mask(segment.number, 0) for segment in found]
        model = segmentation.model
        described = [_description(n, s, identity, model) for n, s in enumerate(found, start=1)]
        dataset = build_planar_seg(segmentation, identity, described, masks)
        stamp(dataset, identity, segmentation, recorded_at)
        return dataset
    frames = list_frames(counts, [segment.number for segment in found])
    dataset = _header(report, identity, found, _stand_in(volume, len(found)))
    dataset.SegmentsOverlap = "YES" if _overlap(segmentation) else "NO"
    _refer_to_sources(dataset, volume)
    attach_frames(dataset, segmentation.mask, frames, _slices(dataset, volume, frames))
    stamp(dataset, identity, segmentation, recorded_at)
    keep_encoded(dataset)
    return dataset


def _overlap(segmentation: Segmentation) -> bool:
    """Whether a voxel lies in two segments."""
    if not segmentation.overlapping:
        return False
    # A number has one bit at most where taking its lowest bit away leaves nothing.
    return any(bool((plane & (plane - 1))[plane != 0].any()) for plane in segmentation.labels)


def found_segments(report: Report) -> tuple[Segment, ...]:
    """Segments with voxels; the n-th is segment number n of the SEG."""
    return tuple(finding.segment for finding in report.findings if finding.voxels)


def _header(
    report: Report, identity: Identity, found: tuple[Segment, ...], stand_in: Dataset
) -> hd.seg.Segmentation:
    """All but the frames, from a stand-in: one slice, one pixel per segment.

    highdicom builds and checks it as it would the whole, as from a label map, and the
    frame it makes for the first segment serves as the pattern of all others.
    """
    model = report.segmentation.model
    volume = report.segmentation.volume
    pixels = np.arange(1, len(found) + 1, dtype=np.uint16)[np.newaxis, np.newaxis]
    described = [
        _description(number, segment, identity, model)
        for number, segment in enumerate(found, start=1)
    ]
    dataset = binary_seg(stand_in, pixels, described, identity, model.name)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence[0].SpacingBetweenSlices = decimals(volume.spacing_zyx_mm[:1])[0]
    # highdicom shares it where there is one segment only; here every frame has its own.
    shared.pop("SegmentIdentificationSequence", None)
    return dataset


def _stand_in(volume: Volume, columns: int) -> Dataset:
    """A source image on the volume's first slice, one row high."""
    affine = volume.lps_from_index
    spacing_z_mm, spacing_y_mm, spacing_x_mm = volume.spacing_zyx_mm
    image = first_reference(volume)
    image.Rows, image.Columns = 1, columns
    image.ImagePositionPatient = decimals(affine[:3, 3])
    image.ImageOrientationPatient = decimals(
        (affine[:3, :2] / (spacing_x_mm, spacing_y_mm)).T.ravel()
    )
    # First value: spacing between rows (PS3.3 10.7.1.3).
    image.PixelSpacing = decimals((spacing_y_mm, spacing_x_mm))
    # What a frame stands for; the source's own value describes the acquisition.
    image.SliceThickness = decimals((spacing_z_mm,))[0]
    lossy = next((h for h in volume.headers if h.get("LossyImageCompression") == "01"), Dataset())
    for keyword in ("Compression", "CompressionRatio", "CompressionMethod"):
        if f"LossyImage{keyword}" in lossy:
            image[f"LossyImage{keyword}"] = lossy[f"LossyImage{keyword}"]
    return image


def _refer_to_sources(dataset: Dataset, volume: Volume) -> None:
    """Name every slice of the volume as a source, those without a segment too.

    References
    ----------
    DICOM PS3.3 C.12.2 Common Instance Reference, C.8.20.2 Segmentation Image.
    """
    sources = encoded_references(volume.headers)
    set_sequence(dataset, "SourceImageSequence", sources)
    (series,) = dataset.ReferencedSeriesSequence
    del series.ReferencedInstanceSequence
    set_sequence(series, "ReferencedInstanceSequence", sources)
    set_sequence(dataset, "ReferencedSeriesSequence", [encode_item(series)])


def _slices(dataset: Dataset, volume: Volume, frames: Sequence[Frame]) -> dict[int, bytearray]:
    """Encoded functional groups of every slice with a frame: one pattern, filled in."""
    pattern = dataset.PerFrameFunctionalGroupsSequence[0]
    identification = Dataset()
    identification.ReferencedSegmentNumber = 1
    pattern.SegmentIdentificationSequence = [identification]
    source = pattern.DerivationImageSequence[0].SourceImageSequence[0]
    stencil = Stencil(
        pattern,
        (source, "ReferencedSOPClassUID"),
        (source, "ReferencedSOPInstanceUID"),
        (pattern.PlanePositionSequence[0], "ImagePositionPatient"),
    )
    return {
        k: stencil.fill(
            str(volume.headers[k].SOPClassUID),
            str(volume.headers[k].SOPInstanceUID),
            "\\".join(map(str, decimals(volume.lps_from_index[:3] @ (0, 0, k, 1)))),
        )
        for k in sorted({frame.k for frame in frames})
    }


def decimals(values: Iterable[float]) -> list[DSfloat]:
    """DS values, each in at most 16 characters (PS3.5 6.2)."""
    return [DSfloat(float(value), auto_format=True) for value in values]


def _description(
    number: int, segment: Segment, identity: Identity, model: ModelIdentity
) -> hd.seg.SegmentDescription:
    """One item of the Segment Sequence (PS3.3 C.8.20.2)."""
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.label[:LONG_STRING],
        segmented_property_category=coded(segment.category),
        segmented_property_type=coded(segment.type),
        algorithm_type=_SEMIAUTOMATIC if model.prompt else _AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=model.name[:LONG_STRING],
            family=codes.DCM.ArtificialIntelligence,
            version=model.version[:LONG_STRING],
            source=model.manufacturer[:LONG_STRING] or None,
            parameters=algorithm_parameters(model),
        ),
        tracking_uid=tracking_uid(identity, segment),
        tracking_id=segment.name,
        display_color=CIELabColor.from_rgb(*segment.colour_rgb),
    )
    if segment.laterality is not None:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [coded(segment.laterality)]
    return description
