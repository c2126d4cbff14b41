"""Which series a bundle accepts, and for all others one sentence why not.

Only headers are asked. What only the whole stack can tell (gaps, tilt,
duplicates) is left to the volume builder, which refuses by its own names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from operators.errors import VolumeRefusal
from operators.job import Match, Refused, Series, Study
from operators.models.run_block import Channel
from operators.study.channels import match_channels
from operators.study.image_type import planar_type_of_series
from operators.study.intensities import Intensities
from operators.study.refusals import UnknownAcceptsKey
from operators.volume.build import image_type, is_localizer
from operators.volume.geometry import SAME_PLACE_MM, read_planes

# A code string is shown back to the reader only if it is one (PS3.5 section 6.2).
_CODE_STRING = re.compile(r"[A-Z0-9 _]{1,16}")
NO_ROUTE = "no route sends it there (`radloop routes explain` says which condition failed)"


@dataclass(frozen=True)
class Accepts:
    """What a bundle's card asks of a series.

    Attributes
    ----------
    modality : tuple of str
        Any of these.
    body_part : tuple of str
        BodyPartExamined is any of these, in upper case; empty: not asked.
    image_type_none_of : tuple of str
        No value of ImageType is one of these. Localizers never count as slices.
    min_slices : int
        Images that are no localizers.
    max_slice_spacing_mm : float or None
        Largest distance between slices, from their positions.
    measured_slice_spacing_mm : float or None
        Largest distance between slices among the data that the bundle was measured on:
        beyond it, up to the maximum, a series is taken with a remark.
    max_pixel_mm : float or None
        Largest distance between rows or columns.
    sop_classes : tuple of str
        SOP Class UIDs, any of these.
    planar : tuple of str
        Kinds of 2D images (`image_type.PLANAR_TYPES`) that are taken; nothing else is
        asked of them.
    intensities : Intensities or None
        Values of the images that the network was trained on: a volume with others is taken
        with a remark.

    Examples
    --------
    >>> Accepts.from_mapping({"modality": ["CT"], "slices": {"min": 40}}).min_slices
    40
    """

    modality: tuple[str, ...] = ("CT", "MR", "PT")
    body_part: tuple[str, ...] = ()
    image_type_none_of: tuple[str, ...] = ()
    min_slices: int = 2
    max_slice_spacing_mm: float | None = None
    measured_slice_spacing_mm: float | None = None
    max_pixel_mm: float | None = None
    sop_classes: tuple[str, ...] = (
        CTImageStorage,
        MRImageStorage,
        PositronEmissionTomographyImageStorage,
    )
    planar: tuple[str, ...] = ()
    intensities: Intensities | None = None

    @classmethod
    def from_mapping(cls, block: Mapping[str, Any]) -> Accepts:
        """Read the `accepts` block of a card.

        Parameters
        ----------
        block : mapping
            ``modality``, ``body_part``, ``sop_class``, ``planar``: a value or a list;
            ``image_type: {none_of: [...]}``, ``slices: {min: n}``,
            ``spacing_mm: {max: mm, measured: mm}`` (between slices), ``pixel_mm: {max: mm}``,
            ``intensities`` (`Intensities.from_mapping`).

        Raises
        ------
        UnknownAcceptsKey
            Another key: a question that is not understood must not pass unasked.
        """
        return cls(**dict(_fields(block)))

    def describe(self) -> str:
        """All questions in one line, for people."""
        said = [" or ".join(self.modality)]
        if self.body_part:
            said.append(f"body part {' or '.join(self.body_part)}")
        if self.image_type_none_of:
            said.append(f"image type without {', '.join(self.image_type_none_of)}")
        said.append(f"at least {self.min_slices} slices")
        if self.max_slice_spacing_mm is not None:
            said.append(f"slices at most {self.max_slice_spacing_mm:g} mm apart")
        if self.max_pixel_mm is not None:
            said.append(f"pixels at most {self.max_pixel_mm:g} mm wide")
        if self.planar:
            said.append(f"or one 2D image ({', '.join(self.planar)})")
        return "; ".join(said)


@dataclass(frozen=True)
class RoutedPair:
    """A series that the site's routes send to a bundle, if its card accepts it.

    Attributes
    ----------
    bundle : str
        Name of the bundle.
    series_instance_uid : str
        (0020,000E).
    ask_body_part : bool
        False where the route vouches for the body part; all else is asked.
    """

    bundle: str
    series_instance_uid: str
    ask_body_part: bool = True


def _fields(block: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Key by key, what becomes of it in `Accepts`."""
    lists = {"modality": "modality", "body_part": "body_part", "sop_class": "sop_classes"}
    nested: dict[tuple[str, str], tuple[str, Callable[[Any], Any]]] = {
        ("image_type", "none_of"): ("image_type_none_of", _strings),
        ("slices", "min"): ("min_slices", int),
        ("spacing_mm", "max"): ("max_slice_spacing_mm", float),
        ("spacing_mm", "measured"): ("measured_slice_spacing_mm", float),
        ("pixel_mm", "max"): ("max_pixel_mm", float),
    }
    known = (*lists, "planar", "intensities", *(".".join(pair) for pair in nested))
    for key, value in block.items():
        if key == "intensities":
            yield key, Intensities.from_mapping(value)
            continue
        if key == "planar":
            yield key, tuple(kind.lower() for kind in _strings(value))
            continue
        if key in lists:
            yield lists[key], _strings(value)
            continue
        inner = value.items() if isinstance(value, Mapping) else [("", value)]
        for name, content in inner:
            if (key, name) not in nested:
                raise UnknownAcceptsKey(f"{key}.{name}" if name else key, known)
            field, read = nested[key, name]
            yield field, read(content)


def _strings(value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    return tuple(str(item).upper() for item in values)


def explain_mismatch(series: Series, accepts: Accepts, *, ask_body_part: bool = True) -> str | None:
    """Why a series is not for a bundle.

    Parameters
    ----------
    series : Series
        Its headers are asked, one question after the other; the first "no" is told.
    accepts : Accepts
        The card's questions.
    ask_body_part : bool
        False where a person has named the bundle and so the body part.

    Returns
    -------
    str or None
        A sentence without its full stop; None where the series matches.
    """
    if planar_type_of_series(series) in accepts.planar:
        return None
    headers = [image.header for image in series.instances if not is_localizer(image.header)]
    if not headers:
        return f"all {len(series.instances)} images are localizers"
    questions = [_modality, _sop_class, _image_type, _slices, _pixel_size, _slice_spacing]
    if ask_body_part:
        questions.insert(2, _body_part)
    return next((said for ask in questions if (said := ask(headers, accepts))), None)


def _values(headers: list[Dataset], keyword: str) -> list[str]:
    """Different values of an element over a series, upper case; "" where it is empty."""
    found = Counter(str(header.get(keyword) or "").strip().upper() for header in headers)
    return [value for value, _ in found.most_common()]


def _none_of(what: str, values: list[str], accepted: tuple[str, ...]) -> str | None:
    odd = next((value for value in values if value not in accepted), None)
    if odd is None:
        return None
    shown = f"'{odd}'" if _CODE_STRING.fullmatch(odd) else "(no valid code string)"
    return f"{what} {shown} is none of {', '.join(accepted)}"


def _modality(headers: list[Dataset], accepts: Accepts) -> str | None:
    values = _values(headers, "Modality")
    if "" in values:
        return "its Modality is empty"
    return _none_of("modality", values, accepts.modality)


def _sop_class(headers: list[Dataset], accepts: Accepts) -> str | None:
    odd = next((h.SOPClassUID for h in headers if h.SOPClassUID not in accepts.sop_classes), None)
    if odd is None:
        return None
    accepted = ", ".join(UID(uid).name for uid in accepts.sop_classes)
    return f"its objects are {UID(odd).name}, not {accepted}"


def _body_part(headers: list[Dataset], accepts: Accepts) -> str | None:
    if not accepts.body_part:
        return None
    values = _values(headers, "BodyPartExamined")
    if "" in values:
        return (
            f"BodyPartExamined is empty and the bundle is for {', '.join(accepts.body_part)} only "
            "(`radloop run --bundle NAME` runs it regardless)"
        )
    return _none_of("body part", values, accepts.body_part)


def _image_type(headers: list[Dataset], accepts: Accepts) -> str | None:
    for banned in accepts.image_type_none_of:
        count = sum(banned in image_type(header) for header in headers)
        if count:
            return f"image type {banned} is not accepted ({count} of {len(headers)} images have it)"
    return None


def _slices(headers: list[Dataset], accepts: Accepts) -> str | None:
    if len(headers) >= accepts.min_slices:
        return None
    return f"it has {len(headers)} slices, fewer than {accepts.min_slices}"


def _pixel_size(headers: list[Dataset], accepts: Accepts) -> str | None:
    limit = accepts.max_pixel_mm
    spacings = [header.get("PixelSpacing") or [0.0] for header in headers]
    largest = max(float(np.max(spacing)) for spacing in spacings)
    if limit is None or largest <= limit:
        return None
    return f"its pixels are {largest:.2f} mm wide, more than {limit:.2f} mm"


def _slice_spacing(headers: list[Dataset], accepts: Accepts) -> str | None:
    limit = accepts.max_slice_spacing_mm
    if limit is None:
        return None
    try:
        planes = read_planes(headers, "")
    except VolumeRefusal:
        return None  # the volume builder refuses it, and says more
    steps = np.diff(np.sort(planes.origins @ planes.normal))
    # Repeated positions of several phases are no distance between slices.
    steps = steps[steps > SAME_PLACE_MM]
    if not len(steps) or np.median(steps) <= limit:
        return None
    return f"its slices are {np.median(steps):.2f} mm apart, more than {limit:.2f} mm"


def select(
    studies: tuple[Study, ...],
    accepts_by_bundle: Mapping[str, Accepts],
    forced_bundle: str | None = None,
    routed: Collection[RoutedPair] | None = None,
    channels_by_bundle: Mapping[str, tuple[Channel, ...]] | None = None,
) -> tuple[tuple[Match, ...], tuple[Refused, ...]]:
    """Pair series with bundles.

    Parameters
    ----------
    studies : tuple of Study
        Of `read_drop`.
    accepts_by_bundle : mapping
        Bundle name → what its card asks.
    forced_bundle : str, optional
        Only this bundle, and the body part is not asked.
    routed : collection of RoutedPair, optional
        Only these pairs; None: any. Not asked where a person forces a bundle.
    channels_by_bundle : mapping, optional
        Bundle name → its channels, where it takes several series.

    Returns
    -------
    matches : tuple of Match
        By study, series and bundle; a series may match several bundles. A bundle of
        several channels matches a study once.
    unmatched : tuple of Refused
        Every series that matched none, with every bundle's reason.
    """
    asked = dict(accepts_by_bundle)
    if forced_bundle is not None:
        asked = {name: accepts for name, accepts in asked.items() if name == forced_bundle}
    open_ways = _open_ways(routed if forced_bundle is None else None)
    several = channels_by_bundle or {}
    matches: list[Match] = []
    unmatched: list[Refused] = []

    def mismatch(name: str, series: Series) -> str | None:
        ask = open_ways(name, series.series_instance_uid)
        if ask is None:
            return NO_ROUTE
        ask_body_part = ask and forced_bundle is None
        return explain_mismatch(series, asked[name], ask_body_part=ask_body_part)

    for study in studies:
        found, serving, why = _by_channels(study, asked, several, mismatch)
        for series in study.series:
            reasons = []
            for name in sorted(asked):
                said = mismatch(name, series)
                if said is None and name in several:
                    said = why.get(name)
                    if said is None and series.series_instance_uid not in serving[name]:
                        said = "another series of the study is each of its channels"
                    if said is None and found[name].series is series:
                        matches.append(found[name])
                elif said is None:
                    matches.append(Match(name, series))
                if said is not None:
                    reasons.append(f"{name}: {said}.")
            if not asked:
                reasons.append(_no_bundle(forced_bundle, accepts_by_bundle))
            if len(reasons) == max(len(asked), 1):
                unmatched.append(Refused(series.series_instance_uid, " ".join(reasons)))
    return tuple(matches), tuple(unmatched)


def _by_channels(
    study: Study,
    asked: Collection[str],
    several: Mapping[str, tuple[Channel, ...]],
    mismatch: Callable[[str, Series], str | None],
) -> tuple[dict[str, Match], dict[str, set[str]], dict[str, str]]:
    """Of bundles of several channels: the match, the UIDs of its series, or why there is none."""
    found: dict[str, Match] = {}
    serving: dict[str, set[str]] = {}
    why: dict[str, str] = {}
    for name in sorted(set(asked) & set(several)):
        candidates = [series for series in study.series if mismatch(name, series) is None]
        result = match_channels(name, candidates, several[name])
        if isinstance(result, Match):
            found[name] = result
            serving[name] = {series.series_instance_uid for series in result.channels}
        else:
            why[name] = result
    return found, serving, why


def _open_ways(routed: Collection[RoutedPair] | None) -> Callable[[str, str], bool | None]:
    """Of a bundle and a series: whether to ask the body part; None where no route leads there."""
    if routed is None:
        return lambda bundle, series_uid: True
    ways = {(pair.bundle, pair.series_instance_uid): pair.ask_body_part for pair in routed}
    return lambda bundle, series_uid: ways.get((bundle, series_uid))


def _no_bundle(forced_bundle: str | None, installed: Mapping[str, Accepts]) -> str:
    names = ", ".join(sorted(installed)) or "none"
    if forced_bundle is None:
        return "No bundle is installed."
    return f"No bundle is called {forced_bundle} (installed: {names})."
