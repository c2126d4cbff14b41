"""What a route may say: the tables behind `routes.yaml`, one class for each level of it.

A condition that is not there is not asked. A name that is not in these classes is
an error (`load`), so that a misspelt condition is never a condition that holds.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

ALL, NONE = "all", "none"
SOURCES = ("listener", "orthanc")  # the doors: C-STORE, Orthanc's change feed
DESTINATIONS = ("orthanc", "folder", "cstore", "stow")
LONGEST_VALUE = 64  # characters of an AE title, code string or description (PS3.5 6.2)
STUDY_CONDITIONS = ("calling_aet", "called_aet", "source", "study_description")


class Priority(StrEnum):
    """How soon; the most urgent first, in the words of DICOM (0040,1003)."""

    STAT = "stat"
    HIGH = "high"
    ROUTINE = "routine"
    LOW = "low"

    @property
    def rank(self) -> int:
        """For queues in which the smallest number is first: 1 (STAT) to 4."""
        return list(Priority).index(self) + 1


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def did_you_mean(name: str, known: tuple[str, ...]) -> str:
    """`` (did you mean x?)``, or nothing where nothing is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


_Word = Annotated[str, Field(max_length=LONGEST_VALUE)]


class Words(_Table):
    """A question about text: one of these, and none of those.

    Attributes
    ----------
    any_of : tuple of str
        At least one value is like one of these; empty: not asked. ``*`` stands for any
        characters, ``?`` for one, ``""`` for an empty or absent element.
    none_of : tuple of str
        No value is like one of these.

    Examples
    --------
    >>> Words.model_validate(["*neck*", ""]).holds(("CT Head/Neck",))
    True
    """

    any_of: Annotated[tuple[_Word, ...], Field(min_length=1, strict=False)] = ()
    none_of: Annotated[tuple[_Word, ...], Field(min_length=1, strict=False)] = ()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """``CT`` and ``[CT, PT]`` are short for ``{any_of: [CT, PT]}``."""
        if isinstance(value, Mapping):
            if not value:
                raise ValueError("asks nothing; leave it out, or give any_of or none_of")
            return {name: [v] if isinstance(v, str) else v for name, v in value.items()}
        return {"any_of": value if isinstance(value, list) else [value]}

    def holds(self, values: tuple[str, ...], *, exact_case: bool = False) -> bool:
        """Whether some values of an element answer the question.

        Parameters
        ----------
        values : tuple of str
            All different values; ``""`` where it is empty.
        exact_case : bool
            Whether ``ct`` is another word than ``CT``: so for AE titles (PS3.8 9.3.2).
        """

        def like(words: tuple[str, ...]) -> bool:
            fold = (lambda text: text) if exact_case else str.casefold
            return any(fnmatchcase(fold(v), fold(word)) for v in values for word in words)

        return (not self.any_of or like(self.any_of)) and not like(self.none_of)

    def __str__(self) -> str:
        said = [", ".join(word or '""' for word in self.any_of)] if self.any_of else []
        if self.none_of:
            said.append("none of " + ", ".join(word or '""' for word in self.none_of))
        return "; ".join(said)


class Range(_Table):
    """A question about a number: both ends belong to it."""

    min: int | None = Field(default=None, ge=0)
    max: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _asks(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("asks nothing; give min or max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"no number is at least {self.min} and at most {self.max}")
        return self

    def holds(self, value: int) -> bool:
        """Whether a number is in it."""
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    def __str__(self) -> str:
        ends = (("at least", self.min), ("at most", self.max))
        return ", ".join(f"{word} {end}" for word, end in ends if end is not None)


class When(_Table):
    """The conditions of a route; all must hold.

    Attributes
    ----------
    calling_aet, called_aet : Words or None
        Who sent the study, and whom it called. Case matters.
    source : Words or None
        The door it came through: ``listener`` or ``orthanc``.
    study_description : Words or None
        (0008,1030).
    modality, body_part, series_description, protocol_name : Words or None
        (0008,0060), (0018,0015), (0008,103E), (0018,1030), of a series.
    manufacturer, station_name : Words or None
        (0008,0070), (0008,1010).
    image_type : Words or None
        Each value of (0008,0008) by itself. Localizers are looked at only where a
        series holds nothing else.
    slices : Range or None
        Images of the series that are no localizers.
    """

    calling_aet: Words | None = None
    called_aet: Words | None = None
    source: Words | None = None
    study_description: Words | None = None
    modality: Words | None = None
    body_part: Words | None = None
    series_description: Words | None = None
    protocol_name: Words | None = None
    manufacturer: Words | None = None
    station_name: Words | None = None
    image_type: Words | None = None
    slices: Range | None = None

    @field_validator("source")
    @classmethod
    def _doors(cls, value: Words | None) -> Words | None:
        for word in (*value.any_of, *value.none_of) if value else ():
            if word not in SOURCES:
                known = ", ".join(SOURCES)
                raise ValueError(
                    f"there is no source {word!r}{did_you_mean(word, SOURCES)}: {known}"
                )
        return value

    def asked(self) -> dict[str, Words | Range]:
        """Conditions that are there, by name, in the order of this class."""
        said = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: condition for name, condition in said if condition is not None}


class Route(_Table):
    """One route.

    Attributes
    ----------
    id : str
        Its name in messages.
    why : str
        For whoever reads the file next.
    when : When
        Nothing: every series of every study.
    bundles : tuple of str
        Where a series goes that fulfils `when`: names; ``("all",)``: to all, as their
        cards accept it; ``("none",)``: to no bundle, whatever later routes say.
    ignore_body_part : bool
        Run the named bundles whatever BodyPartExamined says. It is the only question of a
        card that a route can silence: slices, spacing, modality and image type stay.
    quiet_seconds : float or None
        Instead of the setting, s.
    priority : Priority
        How soon.
    deliver : tuple of str or None
        Keys of destinations; None: all that are configured; empty: results stay in the
        output folder.
    status_sr : bool
        Whether those destinations get a one-line SR while there is no result: pending,
        failed or not applicable.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    why: str = Field(default="", max_length=500)
    when: When = When()
    bundles: Annotated[tuple[str, ...], Field(strict=False)]
    ignore_body_part: bool = False
    quiet_seconds: float | None = Field(default=None, gt=0, le=86400)
    priority: Annotated[Priority, Field(strict=False)] = Priority.ROUTINE
    deliver: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    status_sr: bool = False

    @field_validator("bundles", mode="before")
    @classmethod
    def _to_bundles(cls, value: Any) -> Any:
        if not value:
            raise ValueError("is empty; write `none` for no bundle, `all` for all")
        names = [value] if isinstance(value, str) else value
        if isinstance(names, list) and len(names) > 1 and {ALL, NONE} & set(map(str, names)):
            raise ValueError("`all` and `none` stand alone")
        return names

    @field_validator("deliver", mode="before")
    @classmethod
    def _to_destinations(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {ALL: None, NONE: ()}.get(value, (value,))
        if value == []:
            raise ValueError("is empty; write `none` for no destination, `all` for all")
        return value

    @model_validator(mode="after")
    def _means_something(self) -> Route:
        if self.bundles == (ALL,) and self.ignore_body_part:
            raise ValueError("ignore_body_part needs bundles by name: with `all`, each would run")
        if self.bundles == (NONE,):
            idle = self.model_fields_set - {"id", "why", "when", "bundles"}
            if idle:
                raise ValueError(f"a route to no bundle has no use for {', '.join(sorted(idle))}")
        return self


class Document(_Table):
    """The file."""

    version: Literal[1]
    routes: Annotated[tuple[Route, ...], Field(min_length=1, strict=False)]


@dataclass(frozen=True)
class Routes:
    """Routes in force.

    Attributes
    ----------
    routes : tuple of Route
        In the order of the file.
    file : Path or None
        None: the built-in route, everything by the cards.
    lines : tuple of int
        Line in which each route begins; 0 where there is no file.
    """

    routes: tuple[Route, ...]
    file: Path | None
    lines: tuple[int, ...]


@dataclass(frozen=True)
class Site:
    """What routes are checked against and filled up with.

    Attributes
    ----------
    bundles : tuple of str
        Installed bundles that run by themselves.
    prompted : tuple of str
        Installed bundles that wait for a person's box: no route can name them.
    destinations : tuple of str
        Keys of the configured ones.
    quiet_seconds : float
        Where a route says nothing, s.
    """

    bundles: tuple[str, ...]
    prompted: tuple[str, ...]
    destinations: tuple[str, ...]
    quiet_seconds: float
