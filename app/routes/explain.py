"""For a person: what every route says about every series of a folder, and what the cards add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from app.routes.facts import SeriesFacts, StudyFacts, read_studies
from app.routes.model import NONE, Route, Routes, Site
from app.routes.plan import Answer, Plan, decide, judge, names, routes_for
from operators.job import Series
from operators.study.read import read_drop
from operators.study.select import Accepts, explain_mismatch


@dataclass(frozen=True)
class RouteExplained:
    """One route, asked of one series.

    Attributes
    ----------
    id : str
        Of the route.
    line : int
        Where it stands in the file; 0 where there is no file.
    outcome : str
        It decides for at least one bundle; a condition failed; or all hold, but earlier
        routes have decided about all of its bundles.
    answers : tuple of Answer
        Every condition, also after the first that failed.
    """

    id: str
    line: int
    outcome: Literal["decides", "no", "matches, but earlier routes decide"]
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class End:
    """What becomes of one series at one bundle.

    Attributes
    ----------
    bundle : str
        Its name.
    runs : bool
        Whether routes and card let it.
    says : str
        By which route, or why not.
    """

    bundle: str
    runs: bool
    says: str


@dataclass(frozen=True)
class SeriesExplained:
    """One series: all routes, all bundles."""

    series_instance_uid: str
    modality: str
    instances: int
    routes: tuple[RouteExplained, ...]
    ends: tuple[End, ...]


@dataclass(frozen=True)
class StudyExplained:
    """One study: its series, and the plan that follows."""

    study_instance_uid: str
    series: tuple[SeriesExplained, ...]
    plan: Plan

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {
            "plan": asdict(self.plan)
            | {"bundles": self.plan.bundles, "destinations": self.plan.destinations}
        }


def explain_folder(
    folder: Path,
    routes: Routes,
    site: Site,
    accepts_by_bundle: Mapping[str, Accepts],
    *,
    calling_aet: str = "",
    called_aet: str = "",
    source: str = "",
) -> tuple[list[StudyExplained], list[dict[str, str]]]:
    """Explain every study of a folder.

    Parameters
    ----------
    folder : Path
        DICOM files, read recursively.
    routes, site
        As for `plan.routes_for`.
    accepts_by_bundle : mapping
        What each bundle's card asks.
    calling_aet, called_aet, source : str
        As if it had been sent so; empty: not known.

    Returns
    -------
    tuple of (list of StudyExplained, list of dict)
        The second: files and studies that the analysis would refuse, ``what`` and ``reason``.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    studies, _ = read_studies(files, calling_aet=calling_aet, called_aet=called_aet, source=source)
    drop = read_drop(folder)  # as the graph does it: it also says what can't be read
    readable = {s.series_instance_uid: s for study in drop.studies for s in study.series}
    explained = []
    for study in studies:
        told = tuple(
            _series(study, series, routes, site, accepts_by_bundle, readable)
            for series in study.series
        )
        explained.append(
            StudyExplained(study.study_instance_uid, told, routes_for(study, routes, site))
        )
    return explained, [{"what": r.what, "reason": r.reason} for r in drop.refused]


def _series(
    study: StudyFacts,
    series: SeriesFacts,
    routes: Routes,
    site: Site,
    accepts_by_bundle: Mapping[str, Accepts],
    readable: Mapping[str, Series],
) -> SeriesExplained:
    deciding = decide(study, series, routes, site)
    told = []
    for route, line in zip(routes.routes, routes.lines, strict=True):
        answers = judge(route, study, series)
        told.append(RouteExplained(route.id, line, _outcome(route, answers, deciding), answers))
    body = readable.get(series.series_instance_uid)
    ends = tuple(
        _end(bundle, deciding.get(bundle), body, accepts_by_bundle[bundle])
        for bundle in sorted({*site.bundles, *(b for r in routes.routes for b in names(r, site))})
    )
    modality = ", ".join(series.values["modality"])
    uid, count = series.series_instance_uid, series.instances
    return SeriesExplained(uid, modality, count, tuple(told), ends)


def _outcome(
    route: Route, answers: tuple[Answer, ...], deciding: Mapping[str, Route]
) -> Literal["decides", "no", "matches, but earlier routes decide"]:
    if not all(answer.holds for answer in answers):
        return "no"
    decides = any(other is route for other in deciding.values())
    return "decides" if decides else "matches, but earlier routes decide"


def _end(bundle: str, route: Route | None, series: Series | None, accepts: Accepts) -> End:
    if route is None:
        return End(bundle, False, "no route sends it there")
    if route.bundles == (NONE,):
        return End(bundle, False, f"route {route.id} sends it nowhere")
    if series is None:
        return End(bundle, False, f"route {route.id} sends it, but it can't be read (see refused)")
    said = explain_mismatch(series, accepts, ask_body_part=not route.ignore_body_part)
    if said is not None:
        return End(bundle, False, f"route {route.id} sends it, but its card says: {said}")
    return End(bundle, True, f"runs, by route {route.id}")
