"""Measurements of a TID 1500 report, each as the region that it marks.

What OHIF, dcmjs and highdicom write: a measurement group (TID 1410 or 1501) with a
tracking UID, whose coordinates stand in the group or under its numbers. The tree is
walked with a stack of its own; nothing recurses.

References
----------
DICOM PS3.16 TID 1500, 1410, 1501, 320, 321; PS3.3 C.18.6 and C.18.9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from operators.models.medsam.drawn import POINTS_NEEDED, Shape
from operators.models.medsam.mark_file import ChoiceNotThere, MarkFile, NoMarks, TooManyMarks
from operators.models.medsam.region import Drawing, Region
from operators.models.medsam.request import DEFAULT_LABEL, LONG_STRING

GROUPS_LIMIT = 100  # structures are segmented one after the other, seconds each
POINTS_LIMIT = 20_000  # of all drawings of a report together

_GROUP = ("125007", "DCM")
_TRACKING_ID, _TRACKING_UID = ("112039", "DCM"), ("112040", "DCM")
_FINDING = ("121071", "DCM")
_LONG = {("103339001", "SCT"), ("G-A185", "SRT"), ("G-A185", "99SDM")}
_SHORT = {("103340004", "SCT"), ("G-A186", "SRT"), ("G-A186", "99SDM")}
_COORDINATES = {"SCOORD": 2, "SCOORD3D": 3}
_SHAPES = {
    "CIRCLE": Shape.CIRCLE,
    "ELLIPSE": Shape.ELLIPSE,
    "POINT": Shape.POINT,
    "POLYGON": Shape.OUTLINE,
}


@dataclass(frozen=True)
class _Graphic:
    """One SCOORD or SCOORD3D of a group, and the number it belongs to."""

    number: tuple[str, str]
    shape: Shape
    points: np.ndarray
    image_uid: str
    frame_of_reference_uid: str
    frames: tuple[int, ...]
    origin: str

    def drawn_as(self, shape: Shape, points: np.ndarray) -> Drawing:
        """A drawing where this one is."""
        return Drawing(
            shape, points, self.image_uid, self.frame_of_reference_uid, self.frames, self.origin
        )

    @property
    def place(self) -> tuple[str, str, tuple[int, ...], str]:
        """What two graphics of one drawing share."""
        return self.image_uid, self.frame_of_reference_uid, self.frames, self.origin


def read_report(report: Dataset, asked: MarkFile) -> tuple[Region, ...]:
    """The measurements of a report that can be prompts, in its order.

    Parameters
    ----------
    report : Dataset
        A structured report whose nesting was checked.
    asked : MarkFile
        `choice` names the tracking UID of one measurement.

    Raises
    ------
    NoMarks
        No measurement has coordinates that can be a prompt.
    ChoiceNotThere
        None has the tracking UID.
    TooManyMarks
        Against a limit of this module.
    """
    uid = str(report.SOPInstanceUID)
    groups = [item for item, _ in _walk(report) if _name(item) == _GROUP]
    if len(groups) > GROUPS_LIMIT:
        raise TooManyMarks("measurements", len(groups), GROUPS_LIMIT)
    points = 0
    regions: list[Region] = []
    for number, group in enumerate(groups, start=1):
        graphics = list(_graphics(group))
        points += sum(len(graphic.points) for graphic in graphics)
        if points > POINTS_LIMIT:
            raise TooManyMarks("points", points, POINTS_LIMIT)
        region = _region(group, graphics, number, uid, asked.label)
        if region is not None:
            regions.append(region)
    if not regions:
        raise NoMarks(
            "report",
            uid,
            f"{len(groups)} measurement groups, none with a length, a bidirectional, a circle, an "
            "ellipse, an outline or a point on an image",
        )
    if asked.choice is None:
        return tuple(regions)
    chosen = [r for r in regions if dict(r.origin).get("prompt_tracking_uid") == asked.choice]
    if not chosen:
        raise ChoiceNotThere("--structure", asked.choice, uid, range(1, len(regions) + 1))
    return tuple(chosen)


def _walk(root: Dataset) -> Iterator[tuple[Dataset, Dataset]]:
    """All content items below an item with their parents, in the order of the document."""
    stack = [(item, root) for item in reversed(root.get("ContentSequence") or [])]
    while stack:
        item, parent = stack.pop()
        yield item, parent
        stack += [(child, item) for child in reversed(item.get("ContentSequence") or [])]


def _name(item: Dataset) -> tuple[str, str]:
    """Value and scheme of a content item's concept name; empty where it has none."""
    names = item.get("ConceptNameCodeSequence") or [Dataset()]
    return (
        str(names[0].get("CodeValue", "") or ""),
        str(names[0].get("CodingSchemeDesignator", "") or ""),
    )


def _graphics(group: Dataset) -> Iterator[_Graphic]:
    for item, parent in _walk(group):
        width = _COORDINATES.get(str(item.get("ValueType", "")))
        if width is None:
            continue
        data = np.asarray(item.get("GraphicData") or [], np.float64).ravel()
        if len(data) > width * POINTS_LIMIT:
            raise TooManyMarks("points", len(data) // width, POINTS_LIMIT)
        if not len(data) or len(data) % width or not np.isfinite(data).all():
            continue
        points = data.reshape(-1, width)
        shape = _shape(str(item.get("GraphicType", "")), len(points))
        image_uid, frames = ("", ()) if width == 3 else _image(item)
        if shape is None or (width == 2 and not image_uid):
            continue
        yield _Graphic(
            number=_name(parent) if str(parent.get("ValueType", "")) == "NUM" else ("", ""),
            shape=shape,
            points=points,
            image_uid=image_uid,
            frame_of_reference_uid=str(item.get("ReferencedFrameOfReferenceUID", "") or ""),
            frames=frames,
            origin=str(item.get("PixelOriginInterpretation", "") or ""),
        )


def _shape(graphic_type: str, count: int) -> Shape | None:
    """How a graphic is read; None where it can't be a prompt."""
    if graphic_type == "POLYLINE":
        shape = Shape.LENGTH if count == POINTS_NEEDED[Shape.LENGTH] else Shape.OUTLINE
    elif graphic_type in _SHAPES:
        shape = _SHAPES[graphic_type]
    else:
        return None
    needed = POINTS_NEEDED[shape]
    enough = count >= needed if shape is Shape.OUTLINE else count == needed
    return shape if enough else None


def _image(item: Dataset) -> tuple[str, tuple[int, ...]]:
    """The image that coordinates are on, "" for none or several, and which of its frames."""
    found = [
        reference
        for child in item.get("ContentSequence") or []
        if str(child.get("ValueType", "")) == "IMAGE"
        for reference in child.get("ReferencedSOPSequence") or []
    ]
    if len(found) != 1:
        return "", ()
    frames = found[0].get("ReferencedFrameNumber")
    numbers = [] if frames is None else frames if isinstance(frames, MultiValue) else [frames]
    return str(found[0].get("ReferencedSOPInstanceUID", "") or ""), tuple(map(int, numbers))


def _region(
    group: Dataset, graphics: list[_Graphic], number: int, report_uid: str, label: str | None
) -> Region | None:
    drawings = _drawings(graphics)
    if not drawings:
        return None
    tracking_uid = _text(group, _TRACKING_UID, "UID")
    if not tracking_uid:
        origin = (("prompt_report", report_uid), ("prompt_measurement", str(number)))
    else:
        origin = (("prompt_report", report_uid), ("prompt_tracking_uid", tracking_uid[:64]))
    images = tuple(dict.fromkeys(d.image_uid for d in drawings if d.image_uid))
    return Region(
        marks=tuple(drawings),
        label=label or _label(group, number),
        origin=origin,
        images=images,
    )


def _drawings(graphics: list[_Graphic]) -> list[Drawing]:
    """A long and a short axis on one plane are one drawing; all else stands for itself."""
    long = next((g for g in graphics if g.number in _LONG and g.shape is Shape.LENGTH), None)
    short = next((g for g in graphics if g.number in _SHORT and g.shape is Shape.LENGTH), None)
    if long and short and long.place == short.place:
        both = np.concatenate([long.points, short.points])
        return [long.drawn_as(Shape.BIDIRECTIONAL, both)]
    # An area and a perimeter may bear the same outline: each is drawn once.
    drawn = {(g.place, g.points.tobytes()): g.drawn_as(g.shape, g.points) for g in graphics}
    return list(drawn.values())


def _text(group: Dataset, name: tuple[str, str], keyword: str) -> str:
    """A value of the first direct child with that concept name; "" where there is none."""
    for item in group.get("ContentSequence") or []:
        if _name(item) == name and item.get(keyword):
            value = item.get(keyword)
            # highdicom and OHIF write text as UT; some readers split it at backslashes.
            return str(value if isinstance(value, str) else "".join(map(str, value)))
    return ""


def _label(group: Dataset, number: int) -> str:
    """What the reader called it: the finding, else the tracking identifier, made fit for DICOM."""
    for item in group.get("ContentSequence") or []:
        if _name(item) == _FINDING:
            codes = item.get("ConceptCodeSequence") or [Dataset()]
            text = _fit(str(codes[0].get("CodeMeaning", "") or item.get("TextValue", "") or ""))
            if text:
                return text
    identifier = _fit(_text(group, _TRACKING_ID, "TextValue"))
    if ":" in identifier:  # a tool's name, as OHIF writes it: "Cornerstone3DTools@^0.1.0:Length"
        identifier = f"{identifier.rsplit(':', 1)[1]} {number}"
    return identifier.strip()[:LONG_STRING] or DEFAULT_LABEL


def _fit(text: str) -> str:
    """A text without what can't stand in a label, cut to what fits."""
    plain = "".join(c for c in text if c.isprintable() and c != "\\")
    return plain.strip()[: LONG_STRING - len(str(GROUPS_LIMIT)) - 1].strip()
