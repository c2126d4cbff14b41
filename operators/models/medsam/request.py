"""What a person asks for: one box on one slice, and what the result shall be called.

ModelRefusal
├── BoxUnreadable      RL-1010   not four numbers
├── BoxEmpty           RL-1011   no pixel in it
├── BoxOutside         RL-1012   past the edge of the image
├── SliceNotThere      RL-1013   no such instance number or SOP Instance UID
├── SliceAmbiguous     RL-1014   an instance number that several slices bear
└── LabelUnfit         RL-1015   no text that DICOM can hold as a label
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from operators.errors import ModelRefusal
from operators.job import Code, Segment, Volume
from operators.models.medsam.picture import Box
from operators.volume.planar_refusals import ImageNeeded

LONG_STRING = 64  # characters in an LO (PS3.5 6.2)
DECIMALS = 2  # a hundredth of a pixel; what is finer is one box
DEFAULT_LABEL = "Selected region"

# What was boxed is for the person to say, so the codes claim nothing of it.
CATEGORY = Code("309825002", "SCT", "Spatial and Relational Concept")
TYPE = Code("111099", "DCM", "Selected region")
COLOUR_RGB = (255, 159, 28)


class BoxUnreadable(ModelRefusal):
    """The text of a box is not four numbers."""

    code = "RL-1010"

    def __init__(self, text: str) -> None:
        super().__init__(
            f"box '{text[:40]}' is not four numbers. Write it as x0,y0,x1,y1 in pixels: left, top, "
            "right and bottom edge, for example 61,48,103,92."
        )


class BoxEmpty(ModelRefusal):
    """Nothing lies in the box."""

    code = "RL-1011"

    def __init__(self, box: Box) -> None:
        x0, y0, x1, y1 = box
        super().__init__(
            f"box {format_box(box)} is {x1 - x0:g} x {y1 - y0:g} pixels, less than 1 x 1. "
            "Give left, top, right and bottom edge in this order."
        )


class BoxOutside(ModelRefusal):
    """The box reaches beyond the image."""

    code = "RL-1012"

    def __init__(self, box: Box, rows: int, columns: int) -> None:
        super().__init__(
            f"box {format_box(box)} reaches beyond the image, which is {columns} pixels wide and "
            f"{rows} high: x goes from 0 to {columns}, y from 0 to {rows}."
        )


class SliceNotThere(ModelRefusal):
    """No image of the series is the one that was named."""

    code = "RL-1013"

    def __init__(self, series_uid: str, named: str, there: str) -> None:
        super().__init__(
            f"series {series_uid}: no image has {_kind(named)} {named[:LONG_STRING]}; {there}."
        )


class SliceAmbiguous(ModelRefusal):
    """Several images of the series bear the instance number."""

    code = "RL-1014"

    def __init__(self, series_uid: str, named: str, uids: Sequence[str]) -> None:
        super().__init__(
            f"series {series_uid}: {len(uids)} images have instance number {named}. Give the SOP "
            f"Instance UID of one of them instead: {', '.join(uids[:4])}."
        )


class LabelUnfit(ModelRefusal):
    """A label that can't stand in a DICOM object."""

    code = "RL-1015"

    def __init__(self, length: int) -> None:
        super().__init__(
            f"the label ({length} characters) can't be written: it needs 1 to {LONG_STRING} "
            "characters, without backslash and line breaks."
        )


@dataclass(frozen=True)
class BoxPrompt:
    """One box on one slice.

    Attributes
    ----------
    slice : str
        InstanceNumber or SOP Instance UID of the image.
    box : tuple of float
        x0, y0, x1, y1: pixel edges of that DICOM image, (0, 0) at the outer corner of
        its first pixel, x over the columns, y over the rows.
    label : str
        What the structure shall be called.

    Raises
    ------
    BoxEmpty, LabelUnfit
    """

    slice: str
    box: Box
    label: str = DEFAULT_LABEL

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.box
        if not (x1 - x0 >= 1 and y1 - y0 >= 1):
            raise BoxEmpty(self.box)
        check_label(self.label)


def check_label(label: str) -> None:
    """Raises LabelUnfit where a label can't stand in a DICOM object."""
    printable = label.strip() and label.isprintable() and "\\" not in label
    if not printable or len(label) > LONG_STRING:
        raise LabelUnfit(len(label))


def segment_called(label: str) -> Segment:
    """The one segment of a result."""
    return Segment(
        number=1,
        name="selected_region",
        label=label,
        category=CATEGORY,
        type=TYPE,
        colour_rgb=COLOUR_RGB,
    )


def parse_box(text: str) -> Box:
    """``"61,48,103,92"`` as numbers.

    Raises
    ------
    BoxUnreadable
        Not four finite numbers.
    """
    try:
        x0, y0, x1, y1 = (round(float(part), DECIMALS) for part in text.split(","))
    except (ValueError, OverflowError) as error:
        raise BoxUnreadable(text) from error
    if not all(math.isfinite(value) for value in (x0, y0, x1, y1)):
        raise BoxUnreadable(text)
    return x0, y0, x1, y1


def format_box(box: Box) -> str:
    """The box as `parse_box` reads it, without needless zeros."""
    return ",".join(f"{value:.{DECIMALS}f}".rstrip("0").rstrip(".") for value in box)


def locate(volumes: Sequence[Volume], named: str) -> tuple[Volume, int]:
    """The volume and the slice k of an image that is named.

    Parameters
    ----------
    volumes : sequence of Volume
        All volumes of one series; at least one.
    named : str
        InstanceNumber or SOP Instance UID.

    Raises
    ------
    ImageNeeded, SliceNotThere, SliceAmbiguous
    """
    uid = volumes[0].series_instance_uid
    if volumes[0].plane is not None:
        return volumes[0], 0  # which 2D image is meant was told when it was built
    if not named:
        raise ImageNeeded(uid, _numbers_there([h for v in volumes for h in v.headers]))
    by_uid = _kind(named) == "SOP Instance UID"
    found = [
        (volume, k)
        for volume in volumes
        for k, header in enumerate(volume.headers)
        if named == (str(header.SOPInstanceUID) if by_uid else _instance_number(header))
    ]
    if not found:
        headers = [header for volume in volumes for header in volume.headers]
        raise SliceNotThere(uid, named, _numbers_there(headers))
    if len(found) > 1:
        raise SliceAmbiguous(uid, named, [v.source_sop_uids[k] for v, k in found])
    return found[0]


def check_box(volume: Volume, box: Box) -> None:
    """Raises BoxOutside where a box reaches beyond the slices of a volume."""
    rows, columns = volume.array.shape[1:]
    x0, y0, x1, y1 = box
    if x0 < 0 or y0 < 0 or x1 > columns or y1 > rows:
        raise BoxOutside(box, rows, columns)


def _kind(named: str) -> str:
    """An instance number has at most 12 characters (PS3.5 6.2, IS) and no dot."""
    return "instance number" if re.fullmatch(r"-?\d{1,12}", named) else "SOP Instance UID"


def _instance_number(header: Dataset) -> str:
    """Instance Number (0020,0013) as a plain number; "" where there is none."""
    try:
        return str(int(header.InstanceNumber))
    except (AttributeError, TypeError, ValueError):
        return ""


def _numbers_there(headers: Sequence[Dataset]) -> str:
    numbers = sorted(int(number) for h in headers if (number := _instance_number(h)))
    if not numbers:
        return f"its {len(headers)} images have no instance number, so give a SOP Instance UID"
    return f"its {len(headers)} images are numbered {numbers[0]} to {numbers[-1]}"
