"""One study, asked against all routes: what runs on which series, how soon, for whom.

For each series and bundle the first route decides that names the bundle and whose
conditions all hold. A route only opens the way: the bundle's card is asked afterwards,
in the graph (`operators.study.select`), and may still say no.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.routes.facts import SeriesFacts, StudyFacts
from app.routes.model import (
    ALL,
    NONE,
    STUDY_CONDITIONS,
    Priority,
    Range,
    Route,
    Routes,
    Site,
    Words,
)
from operators.study.select import RoutedPair

UNKNOWN = "not known"
_CASE_MATTERS = frozenset({"calling_aet", "called_aet"})


@dataclass(frozen=True)
class Answer:
    """One condition of a route, asked of one series.

    Attributes
    ----------
    condition : str
        Its name in the file.
    wanted, found : str
        For people: what the file says and what the header says. May hold what a
        technician typed: for the terminal of whoever asks, never for a log.
    holds : bool
        Whether it is fulfilled.
    """

    condition: str
    wanted: str
    found: str
    holds: bool


@dataclass(frozen=True)
class Run:
    """A series that a route sends to a bundle.

    Attributes
    ----------
    bundle : str
        Name of the bundle.
    series_instance_uid : str
        The series.
    route : str
        Id of the route that decided.
    ask_body_part : bool
        Whether the card's body part is still asked.
    destinations : tuple of str
        Keys; where what this run writes goes.
    status_sr : bool
        Whether they get a status SR while there is no result.
    """

    bundle: str
    series_instance_uid: str
    route: str
    ask_body_part: bool
    destinations: tuple[str, ...]
    status_sr: bool = False


@dataclass(frozen=True)
class Plan:
    """What the routes decide about a study. Holds no value of any header but UIDs.

    Attributes
    ----------
    runs : tuple of Run
        By series, then bundle; empty: no route wants the study.
    quiet_seconds : float
        Of the most urgent route with a run; among several, the longest, s.
    priority : Priority
        The most urgent one's.
    """

    runs: tuple[Run, ...]
    quiet_seconds: float
    priority: Priority

    @property
    def bundles(self) -> tuple[str, ...]:
        """Every bundle that has a run."""
        return tuple(sorted({run.bundle for run in self.runs}))

    @property
    def routes(self) -> tuple[str, ...]:
        """Ids of the routes that have a run, each once."""
        return tuple(dict.fromkeys(run.route for run in self.runs))

    @property
    def destinations(self) -> tuple[str, ...]:
        """Every destination that one of the runs names."""
        return tuple(sorted({key for run in self.runs for key in run.destinations}))

    @property
    def status_destinations(self) -> tuple[str, ...]:
        """Every destination that gets a status SR while there is no result."""
        asked = (run for run in self.runs if run.status_sr)
        return tuple(sorted({key for run in asked for key in run.destinations}))

    def destinations_of(self, bundle: str) -> tuple[str, ...]:
        """Where the results of one bundle go."""
        keys = {key for run in self.runs if run.bundle == bundle for key in run.destinations}
        return tuple(sorted(keys))

    def pairs(self) -> tuple[RoutedPair, ...]:
        """What the graph needs to know, for `app.graph.analyse`."""
        return tuple(
            RoutedPair(run.bundle, run.series_instance_uid, run.ask_body_part) for run in self.runs
        )


def judge(route: Route, study: StudyFacts, series: SeriesFacts) -> tuple[Answer, ...]:
    """Ask every condition of a route, of one series; all, also after a no."""
    return tuple(
        _answer(name, condition, study, series) for name, condition in route.when.asked().items()
    )


def _answer(name: str, condition: Words | Range, study: StudyFacts, series: SeriesFacts) -> Answer:
    if isinstance(condition, Range):
        return Answer(name, str(condition), str(series.slices), condition.holds(series.slices))
    told = study.study_values if name in STUDY_CONDITIONS else series.values
    values = told.get(name, ())
    found = ", ".join(value or '""' for value in values) or UNKNOWN
    # What nobody has told answers no question, not even "none of".
    holds = bool(values) and condition.holds(values, exact_case=name in _CASE_MATTERS)
    return Answer(name, str(condition), found, holds)


def names(route: Route, site: Site) -> tuple[str, ...]:
    """Bundles that a route decides about, whether for or against."""
    return site.bundles if route.bundles in ((ALL,), (NONE,)) else route.bundles


def decide(study: StudyFacts, series: SeriesFacts, routes: Routes, site: Site) -> dict[str, Route]:
    """For each bundle, the route that decides about it; none where no route does."""
    deciding: dict[str, Route] = {}
    for route in routes.routes:
        open_ = [name for name in names(route, site) if name not in deciding]
        if open_ and all(answer.holds for answer in judge(route, study, series)):
            deciding |= dict.fromkeys(open_, route)
    return deciding


def routes_for(study: StudyFacts, routes: Routes, site: Site) -> Plan:
    """What the routes decide about a study, as far as it is known.

    While a study is coming in, ask again after each change: the quiet time and the
    priority may differ once a series is there that another route wants.

    Parameters
    ----------
    study : StudyFacts
        Of `facts.Gathering`.
    routes : Routes
        Of `load.load_routes`.
    site : Site
        The same that the routes were checked against.
    """
    deciding = [
        (series.series_instance_uid, bundle, route)
        for series in study.series
        for bundle, route in sorted(decide(study, series, routes, site).items())
        if route.bundles != (NONE,)
    ]
    runs = tuple(
        Run(
            bundle=bundle,
            series_instance_uid=uid,
            route=route.id,
            ask_body_part=not route.ignore_body_part,
            destinations=site.destinations if route.deliver is None else route.deliver,
            status_sr=route.status_sr,
        )
        for uid, bundle, route in deciding
    )
    winners = [route for _, _, route in deciding]
    if not winners:
        return Plan(runs, site.quiet_seconds, Priority.ROUTINE)
    priority = min((route.priority for route in winners), key=lambda p: p.rank)
    quiet = (
        route.quiet_seconds or site.quiet_seconds for route in winners if route.priority is priority
    )
    return Plan(runs, max(quiet), priority)
