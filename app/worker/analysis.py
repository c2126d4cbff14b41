"""The job that radloop's worker runs: the graph, and what its result means for the study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from app.worker.messages import Job, Outcome, Request

if TYPE_CHECKING:
    from app.settings import Settings
    from operators.compared import PriorSource
    from operators.findings.guideline import Rulebook
    from operators.job import ExtraEvidence, Refused, StudyJob
    from operators.models.warm import WarmModels

REASONS_SHOWN = 3
PROPOSER = "medsam_lite"


@dataclass(frozen=True)
class AnalysisFactory:
    """Loads every installed bundle once; picklable, and cheap until it is called.

    Attributes
    ----------
    champions : Path or None
        Which weights serve; see `app.graph.load_models`.
    rules : Rulebook or None
        What guidelines say; see `app.graph.analyse`.
    extra : tuple of ExtraEvidence
        What is written beside SEG and SR.
    priors : PriorSource or None
        Where earlier results come from; see `app.graph.analyse`.
    """

    champions: Path | None = None
    rules: Rulebook | None = None
    extra: tuple[ExtraEvidence, ...] = ()
    priors: PriorSource | None = None

    @classmethod
    def of_site(cls, settings: Settings) -> Self:
        """As the site's settings have it.

        Raises
        ------
        RulesRefusal
            See `app.rules.site_rulebook`.
        """
        from app.priors import of_site
        from app.rules import site_rulebook
        from operators.models.champion import CHAMPIONS

        return cls(
            settings.state_dir / CHAMPIONS,
            site_rulebook(settings),
            settings.extra_evidence,
            of_site(settings),
        )

    def __call__(self) -> Job:
        """Load the models; the job that analyses one study with them."""
        from app.graph import analyse, load_models
        from operators.evidence.result import write_result
        from operators.study.select import RoutedPair

        models = load_models(self.champions)
        models.load_all()

        def job(request: Request) -> Outcome:
            routed = request.routed
            done = analyse(
                request.input_dir,
                request.output_dir,
                request.recorded_at,
                models=models,
                routed=None if routed is None else [RoutedPair(*pair) for pair in routed],
                rules=self.rules,
                extra=self.extra,
                priors=self.priors,
            )
            if request.propose and not done.matches and _is_one_picture(done):
                done = _propose(request, models, self.rules, self.extra)
            write_result(done)
            return outcome(done)

        return job


def _is_one_picture(job: StudyJob) -> bool:
    from operators.study.image_type import planar_type_of_series

    series = [series for study in job.studies for series in study.series]
    return len(series) == 1 and planar_type_of_series(series[0]) is not None


def _propose(
    request: Request,
    models: WarmModels,
    rules: Rulebook | None,
    extra: tuple[ExtraEvidence, ...],
) -> StudyJob:
    """Regions of the one 2D image, by the network that other prompts have too.

    Raises
    ------
    Refusal
        Its weights are not there, or the picture can't be told or used.
    """
    from app.graph import Asked, segment

    return segment(
        request.input_dir,
        request.output_dir,
        request.recorded_at,
        models=models,
        asked=Asked(PROPOSER, None, ()),
        rules=rules,
        extra=extra,
    )


def outcome(job: StudyJob) -> Outcome:
    """What a finished job means for the state of its study.

    Parameters
    ----------
    job : StudyJob
        As the last operator left it.

    Returns
    -------
    Outcome
        Done where anything was written; else failed where anything was refused
        (a bundle might have wanted it); else not applicable.
    """
    if job.evidence:
        names = tuple(str(item.path.relative_to(job.output_dir)) for item in job.evidence)
        return Outcome("done", _reasons(job.refused), names)
    if job.refused:
        return Outcome("failed", _reasons(job.refused))
    return Outcome("not applicable", _reasons(job.unmatched) or "no series that a bundle accepts")


def _reasons(entries: tuple[Refused, ...]) -> str:
    shown = [f"{entry.what}: {entry.reason}" for entry in entries[:REASONS_SHOWN]]
    more = len(entries) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")
