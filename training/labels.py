"""A SEG onto the grid of its source: slice by slice by SOP Instance UID, segment by code.

Neither the order of slices nor the number of a segment is trusted: a SEG numbers its
segments anew, and leaves out slices without any.
"""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset

from operators.job import Segment, Volume
from training.refusals import SegUnfit, SourceChanged

_Key = tuple[tuple[str, str], tuple[str, str] | None]


@dataclass(frozen=True)
class Labels:
    """A label map and what it speaks of.

    Attributes
    ----------
    array : numpy.ndarray, shape (z, y, x), uint8 or uint16
        Label values of the bundle's card; 0 is background or unlabelled.
    labelled : tuple of str
        Names of the segments that have voxels, in the card's order. A structure that
        is not among them is *unlabelled, not absent*.
    """

    array: np.ndarray
    labelled: tuple[str, ...]


def read_labels(seg_bytes: bytes, volume: Volume, segments: tuple[Segment, ...]) -> Labels:
    """Decode a BINARY SEG.

    Parameters
    ----------
    seg_bytes : bytes
        The DICOM file.
    volume : Volume
        Built from the SEG's source series.
    segments : tuple of Segment
        What the bundle's labels mean.

    Raises
    ------
    SourceChanged
        The SEG was made from other slices than the volume has.
    SegUnfit
        No SEG that can be read, another matrix, segments that overlap or that the card
        does not know.

    References
    ----------
    DICOM PS3.3 C.8.20.2 Segmentation Image, C.7.6.16.2.6 Derivation Image.
    """
    try:
        seg = hd.seg.segread(io.BytesIO(seg_bytes))
    except (ValueError, AttributeError, TypeError) as error:
        raise SegUnfit("of the verdict", f"can't be read ({type(error).__name__})") from error
    uid = str(seg.SOPInstanceUID)
    _check_sources(seg, volume)
    if (seg.Rows, seg.Columns) != volume.array.shape[1:]:
        raise SegUnfit(uid, f"{seg.Rows} x {seg.Columns} pixels, its source has another matrix")
    numbers = [int(item.SegmentNumber) for item in seg.SegmentSequence]
    meaning = [_meaning(item, segments, uid) for item in seg.SegmentSequence]
    if len({segment.number for segment in meaning}) < len(meaning):
        raise SegUnfit(uid, "two of its segments are one structure")
    try:
        stacked = seg.get_pixels_by_source_instance(
            list(volume.source_sop_uids),
            segment_numbers=numbers,
            combine_segments=True,
            relabel=True,
            assert_missing_frames_are_empty=True,  # its source slices were compared above
        )
    except (RuntimeError, ValueError, KeyError) as error:
        raise SegUnfit(uid, f"does not give one label a voxel ({type(error).__name__})") from error
    largest = max(segment.number for segment in segments)
    value = np.zeros(len(meaning) + 1, np.uint8 if largest <= 255 else np.uint16)
    value[1:] = [segment.number for segment in meaning]
    array = value[stacked]
    present = set(np.unique(array).tolist())
    labelled = tuple(segment.name for segment in segments if segment.number in present)
    return Labels(array, labelled)


def _check_sources(seg: hd.seg.Segmentation, volume: Volume) -> None:
    """What was not looked at is no background."""
    looked_at = {
        str(item.ReferencedSOPInstanceUID)
        for series in seg.get("ReferencedSeriesSequence", ())
        for item in series.get("ReferencedInstanceSequence", ())
    }
    slices = set(volume.source_sop_uids)
    if looked_at != slices:
        raise SourceChanged(
            volume.series_instance_uid, len(slices), len(looked_at), len(slices & looked_at)
        )


def _meaning(item: Dataset, segments: tuple[Segment, ...], uid: str) -> Segment:
    """The card's segment with the same code and side; by tracking id where several have it."""
    by_code: dict[_Key, list[Segment]] = defaultdict(list)
    for segment in segments:
        side = segment.laterality
        by_code[
            (segment.type.value, segment.type.scheme), (side.value, side.scheme) if side else None
        ].append(segment)
    kind = item.SegmentedPropertyTypeCodeSequence[0]
    modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence", ())
    modifier = (
        (str(modifiers[0].CodeValue), str(modifiers[0].CodingSchemeDesignator))
        if modifiers
        else None
    )
    found = by_code[(str(kind.CodeValue), str(kind.CodingSchemeDesignator)), modifier]
    if len(found) > 1:
        found = [segment for segment in found if segment.name == item.get("TrackingID")]
    if len(found) != 1:
        raise SegUnfit(uid, f"segment {item.SegmentNumber} is no structure of the bundle's card")
    return found[0]
