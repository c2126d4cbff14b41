"""The two measurement groups of one structure of a stack (TID 1410, 1411, 1419), encoded.

Not all that was measured stands in them, and it stands in the order of its use: a viewer
writes the first few numbers beside the structure. Extents, pieces and percentiles are in
result.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydicom.uid import SegmentationStorage

from operators.evidence.common import Identity
from operators.evidence.content import (
    COMMENT,
    CONTAINS,
    HAS_CONCEPT_MOD,
    HAS_OBS_CONTEXT,
    SEVERITY,
    code_item,
    group_item,
    number_item,
    outline_item,
    segment_item,
    text_item,
    uid_item,
)
from operators.evidence.outline import Outline, on_source_image
from operators.evidence.planar_sr import significant
from operators.evidence.seg import tracking_uid
from operators.findings import concepts
from operators.job import Code, Finding, Volume
from operators.measured import Measurement

_GROUP = Code("125007", "DCM", "Measurement Group")
_TRACKING_IDENTIFIER = Code("112039", "DCM", "Tracking Identifier")
_TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
_CATEGORY = Code("276214006", "SCT", "Finding category")
_FINDING = Code("121071", "DCM", "Finding")
_SITE = Code("363698007", "SCT", "Finding Site")
_LATERALITY = Code("272741003", "SCT", "Laterality")
_DERIVATION = Code("121401", "DCM", "Derivation")
_REGION = Code("111030", "DCM", "Image Region")
_SOURCE = Code("260753009", "SCT", "Source")
_SEGMENT = Code("121191", "DCM", "Referenced Segment")
_SOURCE_SERIES = Code("121232", "DCM", "Source Series for Segmentation")

_OF_THE_WHOLE = ("volume", "mean", "standard_deviation", "long_axis_3d", "surface_area")
# Without their end points: they may lie in another slice than the group's outline.
_IN_PLANE = ("long_axis", "short_axis")


@dataclass(frozen=True)
class Structure:
    """What both groups are made from.

    Attributes
    ----------
    volume : Volume
        A stack.
    finding : Finding
        With voxels.
    number : int
        Of its segment in the SEG.
    seg : Identity
        Of the SEG.
    outline : Outline
        Of its largest cross-section.
    algorithm : bytes
        Encoded items (TID 4019).
    remarks : iterable of bytes
        Encoded items for the end of the volumetric group.
    """

    volume: Volume
    finding: Finding
    number: int
    seg: Identity
    outline: Outline
    algorithm: bytes
    remarks: Iterable[bytes] = ()


def planar_group(about: Structure) -> bytes:
    """The outline, and what was measured in a slice."""
    volume, outline = about.volume, about.outline
    header = volume.headers[outline.k]
    _, row_spacing_mm, column_spacing_mm = volume.spacing_zyx_mm
    area_mm2 = significant(outline.area_px * row_spacing_mm * column_spacing_mm)
    items = (
        *_head(about),
        *map(_number, _chosen(about.finding, _IN_PLANE)),
        number_item(concepts.AREA, area_mm2, concepts.SQUARE_MILLIMETRE),
        outline_item(
            _REGION,
            on_source_image(volume, outline),
            _SOURCE,
            str(header.SOPClassUID),
            str(header.SOPInstanceUID),
        ),
    )
    return group_item(_GROUP, "1410", items)


def volumetric_group(about: Structure) -> bytes:
    """The segment, what was measured of all of it, its severity, and the remarks."""
    finding = about.finding
    items = (
        *_head(about),
        *map(_number, _chosen(finding, _OF_THE_WHOLE)),
        segment_item(_SEGMENT, SegmentationStorage, about.seg.sop_instance_uid, about.number),
        uid_item(_SOURCE_SERIES, about.volume.series_instance_uid),
        text_item(SEVERITY, finding.severity),
        *_uncertainties(finding),
        *about.remarks,
    )
    return group_item(_GROUP, "1411", items)


def _head(about: Structure) -> Iterator[bytes]:
    """Tracking, what it is, where it is with its side, and which network found it.

    The segment's own tracking id and UID are all that ties the two groups and the SEG.
    """
    segment = about.finding.segment
    uid = tracking_uid(about.seg, segment)
    yield text_item(_TRACKING_IDENTIFIER, segment.name, HAS_OBS_CONTEXT)
    yield uid_item(_TRACKING_UID, uid, HAS_OBS_CONTEXT)
    yield code_item(_CATEGORY, segment.category, CONTAINS)
    yield code_item(_FINDING, segment.type, CONTAINS)
    side = segment.laterality
    sides = [] if side is None else [code_item(_LATERALITY, side, HAS_CONCEPT_MOD)]
    yield code_item(_SITE, segment.type, HAS_CONCEPT_MOD, sides)
    yield about.algorithm


def _uncertainties(finding: Finding) -> Iterator[bytes]:
    """One sentence with what the grid leaves open; none where that is not known.

    A sentence, since the template of a measurement (TID 1419) has no row for it.
    """
    parts = [
        f"{_name(measured)} ± {measured.uncertainty:.3g} {_unit(measured)}".rstrip()
        for measured in _chosen(finding, (*_OF_THE_WHOLE, *_IN_PLANE))
        if measured.uncertainty is not None
    ]
    if parts:
        text = f"Left open by the grid of the images alone: {', '.join(parts)}."
        yield text_item(COMMENT, text)


def _chosen(finding: Finding, names: tuple[str, ...]) -> Iterator[Measurement]:
    by_name = {measured.name: measured for measured in finding.measurements}
    return (by_name[name] for name in names if name in by_name)


def _name(measured: Measurement) -> str:
    """Of a number in a sentence."""
    return measured.name.replace("_3d", " in 3D").replace("_", " ")


def _unit(measured: Measurement) -> str:
    """Of a number in a sentence."""
    known = {"[hnsf'U]": "HU", "{SUVbw}g/ml": "SUVbw", "1": ""}
    return known.get(measured.unit.value, measured.unit.value)


def _number(measured: Measurement) -> bytes:
    """One NUM with its unit.

    The spread goes by its own name: viewers show names and no derivations, and two lines
    called "Attenuation Coefficient" would say nothing.
    """
    name, derivation = measured.code, measured.derivation
    if derivation is not None and measured.name != "mean":
        name, derivation = derivation, None
    below = [] if derivation is None else [code_item(_DERIVATION, derivation, HAS_CONCEPT_MOD)]
    return number_item(name, significant(measured.value), measured.unit, below)
