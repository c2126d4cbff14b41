"""The one series that a person means, where a person and not a card decides.

StudyRefusal
├── SeriesNotThere     RL-1020   no series has that UID
├── SeriesAmbiguous    RL-1021   several would do and none was named
└── SeriesUnfit        RL-1022   the bundle can't take it
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from operators.errors import StudyRefusal
from operators.job import Match, Series, Study
from operators.study.select import Accepts, explain_mismatch


class SeriesNotThere(StudyRefusal):
    """No series of the folder has the UID."""

    code = "RL-1020"

    def __init__(self, series_uid: str, there: Sequence[Series]) -> None:
        super().__init__(
            f"no series in the folder has the UID {series_uid[:64]}; there are: {_listed(there)}."
        )


class SeriesAmbiguous(StudyRefusal):
    """More than one series could be meant."""

    code = "RL-1021"

    def __init__(self, fit: Sequence[Series]) -> None:
        super().__init__(
            f"{len(fit)} series could be meant; name one with --series: {_listed(fit)}."
        )


class SeriesUnfit(StudyRefusal):
    """The bundle can't take the series, or there is none that it can."""

    code = "RL-1022"

    def __init__(self, bundle: str, why: str) -> None:
        super().__init__(f"bundle {bundle} can't take it: {why}.")


def choose_marked(
    studies: Sequence[Study],
    bundle: str,
    accepts: Accepts,
    series_uid: str | None,
    images: Collection[str],
    series: Collection[str],
) -> tuple[Match, ...]:
    """Pair a bundle with each series that is named, by a person or by marks.

    Parameters
    ----------
    studies, bundle, accepts, series_uid
        As for `choose_series`; a person's word comes first.
    images : collection of str
        SOP Instance UIDs that marks are on.
    series : collection of str
        Series Instance UIDs that marks refer to.

    Returns
    -------
    tuple of Match
        At least one. Every series that holds one of the images; else those that are
        referred to; else the only one that fits.

    Raises
    ------
    SeriesNotThere, SeriesAmbiguous, SeriesUnfit
    """
    everything = [one for study in studies for one in study.series]
    marked = [
        one.series_instance_uid
        for one in everything
        if not series_uid and any(i.sop_instance_uid in images for i in one.instances)
    ] or [
        one.series_instance_uid
        for one in everything
        if not series_uid and one.series_instance_uid in series
    ]
    if not marked:
        return (choose_series(studies, bundle, accepts, series_uid),)
    return tuple(choose_series(studies, bundle, accepts, uid) for uid in marked)


def choose_series(
    studies: Sequence[Study], bundle: str, accepts: Accepts, series_uid: str | None
) -> Match:
    """Pair a bundle with the series that was named, or with the only one that fits.

    Parameters
    ----------
    studies : sequence of Study
        Of `read_drop`.
    bundle : str
        Name of the bundle.
    accepts : Accepts
        What its card asks; the body part is not asked, a person has looked.
    series_uid : str or None
        Series Instance UID; None where the folder holds one that fits.

    Raises
    ------
    SeriesNotThere, SeriesAmbiguous, SeriesUnfit
    """
    everything = [series for study in studies for series in study.series]
    named = [s for s in everything if series_uid in (None, s.series_instance_uid)]
    if not named:
        if series_uid is None:
            raise SeriesUnfit(bundle, "the folder holds no series")
        raise SeriesNotThere(series_uid, everything)
    reasons = [explain_mismatch(series, accepts, ask_body_part=False) for series in named]
    fit = [series for series, why in zip(named, reasons, strict=True) if why is None]
    if not fit:
        told = (
            f"series {series.series_instance_uid}: {why}"
            for series, why in zip(named, reasons, strict=True)
        )
        raise SeriesUnfit(bundle, "; ".join(told))
    if len(fit) > 1:
        raise SeriesAmbiguous(fit)
    return Match(bundle, fit[0])


def _listed(series: Sequence[Series]) -> str:
    """UID, modality and number of images of each, as far as a sentence can hold."""
    shown = [f"{s.series_instance_uid} ({s.modality}, {len(s.instances)} images)" for s in series]
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    return (", ".join(shown[:8]) or "none") + more
