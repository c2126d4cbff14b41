"""Content items of a report as bytes, explicit VR little endian (PS3.3 C.17.3).

highdicom builds each as a data set and checks every value. A report on a hundred structures
has thousands that differ in a number or a name, so those of measurement groups are written
here; tests hold them to highdicom's, byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from highdicom import sr
from pydicom.datadict import tag_for_keyword
from pydicom.valuerep import DSfloat

from operators.evidence.encode import HEAD, HEAD_LIMIT, ITEM, LONG_HEAD, encode_item
from operators.job import Code

COMMENT = Code("121106", "DCM", "Comment")
SEVERITY = Code("246112005", "SCT", "Severity")
CONTAINS = "CONTAINS"
HAS_CONCEPT_MOD = "HAS CONCEPT MOD"
HAS_OBS_CONTEXT = "HAS OBS CONTEXT"
_SELECTED_FROM = "SELECTED FROM"
_PADDING = {"UI": b"\0", "CS": b" ", "DS": b" ", "UT": b" "}


def text_item(name: Code, text: str, relationship: str = CONTAINS) -> bytes:
    """A TEXT item."""
    return _content_item(relationship, "TEXT", name, _text("TextValue", "UT", text))


def code_item(
    name: Code, value: Code, relationship: str = CONTAINS, children: Iterable[bytes] = ()
) -> bytes:
    """A CODE item with what stands below it."""
    coded = _sequence("ConceptCodeSequence", [_concept(value)])
    return _content_item(relationship, "CODE", name, coded, children=children)


def uid_item(name: Code, uid: str, relationship: str = CONTAINS) -> bytes:
    """A UIDREF item."""
    return _content_item(relationship, "UIDREF", name, _text("UID", "UI", uid))


def number_item(name: Code, value: float, unit: Code, children: Iterable[bytes] = ()) -> bytes:
    """A NUM item with its unit."""
    measured = _item(
        _sequence("MeasurementUnitsCodeSequence", [_concept(unit)]),
        _short("FloatingPointValue", "FD", struct.pack("<d", value)),
        _text("NumericValue", "DS", str(DSfloat(value, auto_format=True))),
    )
    held = _sequence("MeasuredValueSequence", [measured])
    return _content_item(CONTAINS, "NUM", name, held, children=children)


def segment_item(name: Code, sop_class_uid: str, sop_instance_uid: str, segment: int) -> bytes:
    """An IMAGE item that names one segment of a SEG."""
    number = _short("ReferencedSegmentNumber", "US", struct.pack("<H", segment))
    return _image(CONTAINS, name, sop_class_uid, sop_instance_uid, number)


def outline_item(
    name: Code, points: np.ndarray, source: Code, sop_class_uid: str, sop_instance_uid: str
) -> bytes:
    """An SCOORD item with a POLYLINE, selected from one image.

    Parameters
    ----------
    points : numpy.ndarray, shape (n, 2)
        Column and row; (0.5, 0.5) is the centre of the first pixel.
    """
    return _content_item(
        CONTAINS,
        "SCOORD",
        name,
        children=[_image(_SELECTED_FROM, source, sop_class_uid, sop_instance_uid)],
        behind=(
            _short("GraphicData", "FL", np.asarray(points, "<f4").tobytes()),
            _text("GraphicType", "CS", "POLYLINE"),
        ),
    )


def group_item(name: Code, template: str, items: Iterable[bytes]) -> bytes:
    """A CONTAINER of a template of PS3.16."""
    followed = _item(
        _text("MappingResource", "CS", "DCMR"), _text("TemplateIdentifier", "CS", template)
    )
    return _content_item(
        CONTAINS,
        "CONTAINER",
        name,
        _text("ContinuityOfContent", "CS", "CONTINUOUS"),
        _sequence("ContentTemplateSequence", [followed]),
        children=items,
    )


def _image(relationship: str, name: Code, class_uid: str, uid: str, *more: bytes) -> bytes:
    reference = _item(
        _text("ReferencedSOPClassUID", "UI", class_uid),
        _text("ReferencedSOPInstanceUID", "UI", uid),
        *more,
    )
    named = _sequence("ReferencedSOPSequence", [reference])
    return _content_item(relationship, "IMAGE", name, before=(named,))


def _content_item(
    relationship: str,
    value_type: str,
    name: Code,
    *value: bytes,
    children: Iterable[bytes] = (),
    before: Iterable[bytes] = (),
    behind: Iterable[bytes] = (),
) -> bytes:
    """An item with its elements in the order of their tags."""
    below = b"".join(children)
    return _item(
        *before,
        _text("RelationshipType", "CS", relationship),
        _text("ValueType", "CS", value_type),
        _sequence("ConceptNameCodeSequence", [_concept(name)]),
        *value,
        *([_sequence("ContentSequence", [below])] if below else []),
        *behind,
    )


@lru_cache(maxsize=4096)
def _concept(code: Code) -> bytes:
    """The encoded item of a code; highdicom knows what is too long for which attribute."""
    return encode_item(sr.CodedConcept(code.value, code.scheme, code.meaning))


def _item(*elements: bytes) -> bytes:
    content = b"".join(elements)
    return ITEM.pack(0xFFFE, 0xE000, len(content)) + content


def _sequence(keyword: str, items: Iterable[bytes]) -> bytes:
    content = b"".join(items)
    return LONG_HEAD.pack(*_tag(keyword), b"SQ", 0, len(content)) + content


def _text(keyword: str, vr: str, value: str) -> bytes:
    content = value.encode("utf-8")
    content += _PADDING[vr] * (len(content) % 2)
    if vr == "UT":
        return LONG_HEAD.pack(*_tag(keyword), b"UT", 0, len(content)) + content
    return _short(keyword, vr, content)


def _short(keyword: str, vr: str, content: bytes) -> bytes:
    if len(content) > HEAD_LIMIT:  # PS3.5 6.2.2: then the VR is UN
        return LONG_HEAD.pack(*_tag(keyword), b"UN", 0, len(content)) + content
    return HEAD.pack(*_tag(keyword), vr.encode(), len(content)) + content


@lru_cache
def _tag(keyword: str) -> tuple[int, int]:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return tag >> 16, tag & 0xFFFF
