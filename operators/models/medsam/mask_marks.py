"""One segment of a SEG, as the region that it paints: a mask to refine.

highdicom decodes the frames, `seg_grid` finds their grid; what is refused before is what it
would need too much memory for.

References
----------
DICOM PS3.3 C.8.20, Segmentation.
"""

from __future__ import annotations

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset

from operators.models.medsam.mark_file import (
    ChoiceNeeded,
    ChoiceNotThere,
    MarkFile,
    MarksUnusable,
    NoMarks,
    TooManyMarks,
)
from operators.models.medsam.region import Painted, Region
from operators.models.medsam.request import DEFAULT_LABEL
from operators.volume.seg_grid import find_grid, read_mask

VOXELS_LIMIT = 1 << 30  # of all frames of the file, and of one segment's grid


def read_segmentation(header: Dataset, asked: MarkFile) -> tuple[Region, ...]:
    """The one segment that is named, or the only one.

    Parameters
    ----------
    header : Dataset
        Of a SEG whose nesting was checked.
    asked : MarkFile
        Its file; `choice` is a Segment Number.

    Raises
    ------
    MarksUnusable
        Fractional, or on no one grid.
    ChoiceNeeded, ChoiceNotThere, NoMarks, TooManyMarks
    """
    uid = str(header.SOPInstanceUID)
    if str(header.SegmentationType) != "BINARY":
        raise MarksUnusable(f"{uid} is a {header.SegmentationType} segmentation")
    voxels = int(header.NumberOfFrames) * int(header.Rows) * int(header.Columns)
    if voxels > VOXELS_LIMIT:
        raise TooManyMarks("pixels", voxels, VOXELS_LIMIT)
    segments = {int(item.SegmentNumber): item for item in header.SegmentSequence}
    if asked.choice is None and len(segments) != 1:
        raise ChoiceNeeded("--segment", uid, list(segments))
    choice = asked.choice or str(next(iter(segments)))
    if not choice.isdecimal() or int(choice) not in segments:
        raise ChoiceNotThere("--segment", choice, uid, list(segments))
    number = int(choice)
    grid = _grid(asked, number, uid)
    if not grid.mask.any():
        raise NoMarks("SEG", uid, f"segment {number} has no pixel")
    named = str(segments[number].get("SegmentLabel", "") or "")
    name = "".join(c for c in named if c.isprintable() and c != "\\")[:64].strip()
    return (
        Region(
            marks=(grid,),
            label=asked.label or name or DEFAULT_LABEL,
            origin=(("prompt_seg", uid), ("prompt_segment", str(number))),
            images=_sources(header, number),
            series=tuple(
                str(series.SeriesInstanceUID)
                for series in header.get("ReferencedSeriesSequence") or []
            ),
            whole=int(grid.mask.any(axis=(1, 2)).sum()) > 1,
        ),
    )


def _sources(header: Dataset, number: int) -> tuple[str, ...]:
    """Images that the frames of a segment were derived from, else all that the file refers to."""
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    frames = [
        frame
        for frame in header.get("PerFrameFunctionalGroupsSequence") or []
        for of in _first(frame, shared[0], "SegmentIdentificationSequence")
        if of.get("ReferencedSegmentNumber") == number
    ]
    found = [
        source
        for frame in frames
        for derived in _first(frame, shared[0], "DerivationImageSequence")
        for source in derived.get("SourceImageSequence") or []
    ] or [
        instance
        for series in header.get("ReferencedSeriesSequence") or []
        for instance in series.get("ReferencedInstanceSequence") or []
    ]
    uids = (str(item.get("ReferencedSOPInstanceUID", "") or "") for item in found)
    return tuple(dict.fromkeys(uid for uid in uids if uid))


def _first(frame: Dataset, shared: Dataset, macro: str) -> list[Dataset]:
    """The items of a functional group, which stands with the frame or once for all."""
    return list(frame.get(macro) or shared.get(macro) or [])


def _grid(asked: MarkFile, number: int, uid: str) -> Painted:
    segmentation = hd.seg.segread(asked.path)
    grid = find_grid(segmentation)
    if grid is None:
        raise MarksUnusable(f"the frames of {uid} lie on no one grid")
    if int(np.prod(grid.shape)) > VOXELS_LIMIT:
        raise TooManyMarks("pixels", int(np.prod(grid.shape)), VOXELS_LIMIT)
    mask = read_mask(segmentation, number, grid)
    return Painted(mask, grid.lps_from_index, str(segmentation.FrameOfReferenceUID))
