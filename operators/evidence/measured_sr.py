"""The measurements of a structure in its measurement groups (TID 1419).

Not all of them, and in the order of their use: a viewer writes the first few beside the
structure. Extents, pieces and percentiles are in result.json.
"""

from __future__ import annotations

from collections.abc import Iterator

from highdicom import sr

from operators.evidence.planar_sr import significant
from operators.evidence.rule_text import COMMENT
from operators.evidence.seg import coded
from operators.job import Finding
from operators.measured import Measurement

_OF_THE_WHOLE = ("volume", "mean", "standard_deviation", "long_axis_3d", "surface_area")
# Without their end points: they may lie in another slice than the group's outline.
_IN_PLANE = ("long_axis", "short_axis")


def volumetric_measurements(finding: Finding) -> list[sr.Measurement]:
    """Of the whole structure (TID 1411)."""
    return [_number(measured) for measured in _chosen(finding, _OF_THE_WHOLE)]


def in_plane_measurements(finding: Finding) -> list[sr.Measurement]:
    """Long and short axis (TID 1410)."""
    return [_number(measured) for measured in _chosen(finding, _IN_PLANE)]


def uncertainty_items(finding: Finding) -> list[sr.TextContentItem]:
    """One sentence with what the grid leaves open; none where that is not known.

    A sentence, since the template of a measurement (TID 1419) has no row for it.
    """
    parts = [
        f"{_name(measured)} ± {measured.uncertainty:.3g} {_unit(measured)}".rstrip()
        for measured in _chosen(finding, (*_OF_THE_WHOLE, *_IN_PLANE))
        if measured.uncertainty is not None
    ]
    if not parts:
        return []
    text = f"Left open by the grid of the images alone: {', '.join(parts)}."
    return [sr.TextContentItem(COMMENT, text, sr.RelationshipTypeValues.CONTAINS)]


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


def _number(measured: Measurement) -> sr.Measurement:
    """One NUM with its unit.

    The spread goes by its own name: viewers show names and no derivations, and two lines
    called "Attenuation Coefficient" would say nothing.
    """
    name, derivation = measured.code, measured.derivation
    if derivation is not None and measured.name != "mean":
        name, derivation = derivation, None
    return sr.Measurement(
        coded(name),
        significant(measured.value),
        coded(measured.unit),
        derivation=None if derivation is None else coded(derivation),
    )
