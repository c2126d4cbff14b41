"""Several series for one bundle: which of a study's series is which channel.

Each channel of a card names conditions; exactly one series must meet them. Where
none does, or two do, nothing is guessed: the series are left unmatched and told why.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from operators.job import Match, Series
from operators.models.run_block import Channel, ChannelRule
from operators.volume.build import is_localizer


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
    for header in headers:
        said = f"{header.get('SeriesDescription') or ''} {header.get('ProtocolName') or ''}"
        words = set(re.findall(r"[a-z0-9+]+", said.casefold()))
        if rule.any_of and not words & set(rule.any_of):
            return False
        if words & set(rule.none_of):
            return False
        contrast = bool(str(header.get("ContrastBolusAgent") or "").strip())
        if rule.contrast is not None and contrast != rule.contrast:
            return False
        for keyword, allowed in rule.numbers:
            value = header.get(keyword)
            if value is None or not allowed.holds(float(value)):
                return False
    return bool(headers)
