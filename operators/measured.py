"""What is known of a structure by number, and what a guideline says to those numbers.

`operators/findings` fills these; reports, result.json, pictures and the API read them.
"""

from __future__ import annotations

from dataclasses import dataclass

from operators.job import Code, Severity

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Axis:
    """A straight line within a structure.

    Attributes
    ----------
    ends_lps_mm : tuple of Point
        Both end points, (x, y, z) LPS mm.
    k : int or None
        Slice that it lies in; None where it runs through several.
    """

    ends_lps_mm: tuple[Point, Point]
    k: int | None


@dataclass(frozen=True)
class Measurement:
    """One number about one structure.

    Attributes
    ----------
    name : str
        Machine name, unique within a finding (``"volume"``, ``"long_axis"``).
    value : float
        In `unit`.
    code : Code
        What was measured.
    unit : Code
        UCUM.
    derivation : Code or None
        How it follows from many values (mean, standard deviation, percentile).
    uncertainty : float or None
        Half the width of the interval that the grid alone leaves open (partial volume,
        slice thickness), in `unit`; None where it can't be told.
    axis : Axis or None
        Where a length was taken.
    """

    name: str
    value: float
    code: Code
    unit: Code
    derivation: Code | None = None
    uncertainty: float | None = None
    axis: Axis | None = None


@dataclass(frozen=True)
class RuleResult:
    """What one rule of one guideline says to the measurements of a finding.

    Attributes
    ----------
    rule : str
        Id of the rule, ``"<file>/<rule>"``.
    citation : str
        Publication with edition, page and table.
    severity : Severity
        As the rule has it.
    accepted_by : str
        Who at the site accepted the rule; "" while nobody has: then it is *proposed*
        and decides no severity of the finding.
    statement : str
        One sentence for a reader, with the numbers that decided.
    differentials, recommendations : tuple of str
        As the rule has them, each from its citation.
    decided_by : tuple of str
        Names of the measurements that it looked at.
    """

    rule: str
    citation: str
    severity: Severity
    accepted_by: str
    statement: str
    differentials: tuple[str, ...] = ()
    recommendations: tuple[str, ...] = ()
    decided_by: tuple[str, ...] = ()

    @property
    def proposed(self) -> bool:
        """Whether nobody at the site has accepted the rule."""
        return not self.accepted_by
