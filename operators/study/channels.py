"""Several series for one bundle: which of a study's series is which channel.

Each channel of a card names conditions; exactly one series must meet them. Where
none does, or two do, nothing is guessed: the series are left unmatched and told why.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydicom.dataset import Dataset

from operators.job import Match, Series
from operators.models.run_block import Channel, ChannelRule
from operators.volume.build import is_localizer

# What ContrastBolusAgent holds where there was none.
_NO_AGENT = frozenset(
    ("none", "no", "n/a", "na", "nil", "-", "without", "no contrast", "not applicable", "0")
)
_GIVEN = frozenset(
    [
        "contrast",
        "+contrast",
        "postcontrast",
        "+c",
        "c+",
        "ce",
        "t1c",
        "t1ce",
        "t1gd",
        "gd",
        "gd+",
        "+gd",
        "postgad",
        "postgd",
        "km",
        "+km",
    ]
)
_BEFORE = frozenset(("pre", "precontrast", "unenhanced", "native", "noncontrast", "nativ"))
# Beside a denial: of two phases in one description, or of an unsaid one.
_BOTH = frozenset(("w", "with", "and", "post"))
_DENIED = re.compile(
    r"\b(?:no|non|pre|without|w/?o|sans|ohne)[\s_-]*(?:iv[\s_-]*)?"
    r"(?:contrast|gad[a-z]*|gd|km|c\b)|-c\b|\b(?:without|w/o|wo)\b"
)


def match_channels(
    bundle: str, candidates: Sequence[Series], channels: Sequence[Channel]
) -> Match | str:
    """The match of one study, or why there is none.

    Parameters
    ----------
    bundle : str
        Name of the bundle.
    candidates : sequence of Series
        Of one study, those that the card's `accepts` allows.
    channels : sequence of Channel
        In the order that the network wants.

    Returns
    -------
    Match or str
        `series` is that of the first channel, on whose grid the result will lie. A
        sentence without its full stop where a channel has no series, or several, or
        two channels have the same.
    """
    chosen: list[Series] = []
    for channel in channels:
        fit = [series for series in candidates if holds(channel.rule, series)]
        unclear = [series for series in candidates if _contrast_is_open(channel.rule, series)]
        if unclear:
            return (
                f"series {unclear[0].series_instance_uid} may be its channel {channel.name}, but "
                "ContrastBolusAgent and description don't agree on, or don't tell, whether it had "
                "contrast medium: correct them, or send the study without it"
            )
        if not fit:
            return f"no series of the study is its channel {channel.name}"
        if len(fit) > 1:
            uids = ", ".join(series.series_instance_uid for series in fit[:4])
            return f"{len(fit)} series could be its channel {channel.name}: {uids}"
        if any(fit[0] is other for other in chosen):
            uid = fit[0].series_instance_uid
            return f"series {uid} would be two of its channels, {channel.name} among them"
        chosen.append(fit[0])
    return Match(bundle, chosen[0], tuple(chosen))


def holds(rule: ChannelRule, series: Series) -> bool:
    """Whether all conditions hold for every image of a series but its localizers."""
    headers = [image.header for image in series.instances if not is_localizer(image.header)]
    return bool(headers) and all(
        _holds_without_contrast(rule, header)
        and (rule.contrast is None or contrast_said(header) is rule.contrast)
        for header in headers
    )


def _contrast_is_open(rule: ChannelRule, series: Series) -> bool:
    """Whether only what its headers say of contrast medium, which is unclear, is in the way."""
    headers = [image.header for image in series.instances if not is_localizer(image.header)]
    return (
        rule.contrast is not None
        and bool(headers)
        and all(_holds_without_contrast(rule, header) for header in headers)
        and any(contrast_said(header) is None for header in headers)
    )


def _holds_without_contrast(rule: ChannelRule, header: Dataset) -> bool:
    words = _words(_DENIED.sub(" ", _described(header)))
    if rule.any_of and not words & set(rule.any_of):
        return False
    if words & set(rule.none_of):
        return False
    for keyword, allowed in rule.numbers:
        value = header.get(keyword)
        if value is None or not allowed.holds(float(value)):
            return False
    return True


def contrast_said(header: Dataset) -> bool | None:
    """Whether an image was taken with contrast medium; None where that can't be told.

    ContrastBolusAgent and the description are heard. Contradiction, or a mere "post"
    (contrast or operation?), is no answer. Silence of both means without: the attribute
    belongs to images that had contrast medium (PS3.3 C.7.6.4).
    """
    agent = str(header.get("ContrastBolusAgent") or "").strip().casefold()
    described = _described(header)
    words = _words(_DENIED.sub(" ", described))
    denied = agent in _NO_AGENT or bool(_DENIED.search(described)) or bool(words & _BEFORE)
    given = bool(agent) and agent not in _NO_AGENT
    given = given or bool(words & _GIVEN) or any(word.startswith("gad") for word in words)
    if denied:
        return None if given or words & _BOTH else False
    if given:
        return True
    return None if "post" in words else False


def _described(header: Dataset) -> str:
    said = f"{header.get('SeriesDescription') or ''} {header.get('ProtocolName') or ''}"
    return said.casefold()


def _words(text: str) -> set[str]:
    """Whole words, and the parts of one that is put together by a plus: t1+c is t1 and +c."""
    words = set(re.findall(r"[a-z0-9+]+", text))
    for word in tuple(words):
        before, plus, after = word.partition("+")
        if plus and before:
            words |= {before, f"+{after}"} if after else {before}
    return words
