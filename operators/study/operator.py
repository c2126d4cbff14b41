"""The first two steps of the graph. Reading is in `read.py`, choosing in `select.py`
(by cards) and `choose.py` (by a person)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from operators.core import ExecutionContext, InputContext, Operator, OperatorSpec, OutputContext
from operators.job import StudyJob
from operators.models.run_block import Channel
from operators.study.choose import choose_marked
from operators.study.read import read_drop
from operators.study.select import Accepts, RoutedPair, select


class StudySource(Operator):
    """The job's folder in, its studies out.

    Without an input to wait for, it runs as often as its conditions let it: give it a
    ``CountCondition(fragment, 1)``.

    Parameters
    ----------
    job : StudyJob
        Names the folder.
    """

    def __init__(self, fragment: Any, *args: Any, job: StudyJob, **kwargs: Any) -> None:
        self.job = job
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """One output, "study"."""
        spec.output("study")

    def compute(
        self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext
    ) -> None:
        """Read the folder."""
        drop = read_drop(self.job.input_dir)
        refused = (*self.job.refused, *drop.refused)
        op_output.emit(replace(self.job, studies=drop.studies, refused=refused), "study")


class SeriesSelector(Operator):
    """Studies in, pairs of bundle and series out.

    Parameters
    ----------
    accepts_by_bundle : mapping
        Bundle name → what its card asks.
    forced_bundle : str, optional
        Only this bundle, whatever the body part.
    routed : collection of RoutedPair, optional
        Only these pairs of bundle and series.
    """

    def __init__(
        self,
        fragment: Any,
        *args: Any,
        accepts_by_bundle: Mapping[str, Accepts],
        forced_bundle: str | None = None,
        routed: Collection[RoutedPair] | None = None,
        channels_by_bundle: Mapping[str, tuple[Channel, ...]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.accepts_by_bundle = accepts_by_bundle
        self.forced_bundle = forced_bundle
        self.routed = routed
        self.channels_by_bundle = channels_by_bundle
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Input "job", output "matched"."""
        spec.input("job")
        spec.output("matched")

    def compute(
        self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext
    ) -> None:
        """Ask every card about every series."""
        job: StudyJob = op_input.receive("job")
        matches, unmatched = select(
            job.studies,
            self.accepts_by_bundle,
            self.forced_bundle,
            self.routed,
            self.channels_by_bundle,
        )
        op_output.emit(replace(job, matches=matches, unmatched=unmatched), "matched")


class SeriesChooser(Operator):
    """Studies in, the pairs of bundle and series that a person asked for out: mostly one.

    Parameters
    ----------
    bundle : str
        Name of the bundle.
    accepts : Accepts
        What its card asks.
    series_uid : str or None
        None where the marks say it, or the folder holds one series that fits.
    images, series : collection of str
        SOP Instance UIDs and Series Instance UIDs that marks refer to.
    """

    def __init__(
        self,
        fragment: Any,
        *args: Any,
        bundle: str,
        accepts: Accepts,
        series_uid: str | None,
        images: Collection[str] = (),
        series: Collection[str] = (),
        **kwargs: Any,
    ) -> None:
        self.bundle, self.accepts, self.series_uid = bundle, accepts, series_uid
        self.images, self.series = images, series
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Input "job", output "matched"."""
        spec.input("job")
        spec.output("matched")

    def compute(
        self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext
    ) -> None:
        """Find the series."""
        job: StudyJob = op_input.receive("job")
        matches = choose_marked(
            job.studies, self.bundle, self.accepts, self.series_uid, self.images, self.series
        )
        op_output.emit(replace(job, matches=matches), "matched")
