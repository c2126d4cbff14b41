"""What the site's routes want of a study, before its workflow begins.

Headers are read in a thread of their own: a study of thousands of instances takes
seconds, and the loop that groups what arrives must not wait for it. Without a file of
routes nothing is read: every bundle's card decides, and results go everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from app.intake.ledger import Arrival, StudyVersion
from app.intake.peek import UnreadableError
from app.intake.spool import Spool
from app.routes.facts import Gathering, read_instance
from app.routes.load import load_routes
from app.routes.model import Priority
from app.routes.plan import routes_for
from app.routes.site import read_site
from app.settings import Settings


@dataclass(frozen=True)
class Wanted:
    """What is to happen with a study version.

    Attributes
    ----------
    quiet_seconds : float
        How long nothing new must have come, s.
    priority : int
        Smaller is earlier.
    deliver : mapping
        Key of a destination → bundles whose results it gets; None: all.
    routed : tuple or None
        (bundle, Series Instance UID, whether the card's body part is asked); None: the
        cards decide about every series.
    status : tuple of str
        Keys of the destinations that get a status SR while there is no result.
    """

    quiet_seconds: float
    priority: int
    deliver: Mapping[str, tuple[str, ...] | None]
    routed: tuple[tuple[str, str, bool], ...] | None
    status: tuple[str, ...] = ()

    @property
    def is_nothing(self) -> bool:
        """Whether no route wants the study."""
        return self.routed == ()


class Planner:
    """Answers, for one spool, by the routes that were in force at the start.

    Parameters
    ----------
    settings : Settings
        `routes` names the file.
    spool : Spool
        Where instances lie.
    arrivals : callable
        Gives what came of a study version.

    Raises
    ------
    RoutesRefusal
        The file can't be read, or says something that can't be; lists every problem.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        arrivals: Callable[[StudyVersion], Sequence[Arrival]],
    ) -> None:
        self._spool, self._arrivals = spool, arrivals
        self._site, _ = read_site(settings)
        self._routes = load_routes(settings.routes, self._site)
        named = [route.quiet_seconds for route in self._routes.routes]
        self.least_quiet_seconds = min(
            settings.quiet_seconds if seconds is None else seconds for seconds in named
        )
        self._by_cards = Wanted(
            settings.quiet_seconds,
            Priority.ROUTINE.rank,
            dict.fromkeys(self._site.destinations),
            None,
        )
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="routes")
        self._asked: dict[str, tuple[int, Future[Wanted]]] = {}

    def wanted(self, study: StudyVersion) -> Wanted | None:
        """What the routes want of it as it is now; None while its headers are being read."""
        if self._routes.file is None:
            return self._by_cards
        arrivals = self._arrivals(study)
        count, answer = self._asked.get(study.name, (-1, None))
        if count != len(arrivals) or answer is None:
            answer = self._pool.submit(self._plan, study.study_uid, arrivals)
            self._asked[study.name] = (len(arrivals), answer)
        return answer.result() if answer.done() else None

    def forget(self, study: StudyVersion) -> None:
        """It is on its way."""
        self._asked.pop(study.name, None)

    def _plan(self, study_uid: str, arrivals: Sequence[Arrival]) -> Wanted:
        gathered = Gathering(study_uid)
        for arrival in arrivals:
            try:
                facts = read_instance(self._spool.path(arrival.name))
            except (UnreadableError, OSError):
                continue  # the analysis will refuse it by name
            gathered.add(
                facts,
                calling_aet=arrival.calling_aet,
                called_aet=arrival.called_aet,
                source=arrival.source,
            )
        plan = routes_for(gathered.facts(), self._routes, self._site)
        return Wanted(
            plan.quiet_seconds,
            plan.priority.rank,
            {
                key: tuple(b for b in plan.bundles if key in plan.destinations_of(b))
                for key in plan.destinations
            },
            tuple((p.bundle, p.series_instance_uid, p.ask_body_part) for p in plan.pairs()),
            plan.status_destinations,
        )
