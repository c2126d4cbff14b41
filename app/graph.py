"""The MONAI Deploy application: which operators, in which order.

One graph for every way in: `radloop run`, the worker of `radloop serve`, and
the one-shot entry point of the MAP (`python -m app`). A new Application is made
for each study, since running one again after a failed run crashes the process;
what is costly, the models, is made once and handed in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from app.bundle_folders import bundle_folders
from operators.core import Application, CountCondition, Operator
from operators.evidence.operator import EvidenceWriter
from operators.findings.operator import Findings
from operators.job import StudyJob
from operators.models.card import load_cards
from operators.models.operator import BundleInference
from operators.models.warm import WarmModels
from operators.study.operator import SeriesSelector, StudySource
from operators.volume.operator import VolumeBuilder


class RadloopGraph(Application):
    """Study, selection, volume, inference, findings, evidence: one line.

    Parameters
    ----------
    job : StudyJob
        Where to read and to write.
    models : WarmModels
        Loaded bundles.
    bundle : str or None
        Run this one, whatever the body part says.
    sink : callable
        Receives the finished job.
    progress : callable
        Receives the name of each stage as it begins.
    """

    def __init__(
        self,
        *,
        job: StudyJob,
        models: WarmModels,
        bundle: str | None,
        sink: Callable[[StudyJob], None],
        progress: Callable[[str], None],
    ) -> None:
        self._job, self._models, self._bundle = job, models, bundle
        self._sink, self._progress = sink, progress
        super().__init__(argv=["radloop"])

    def compose(self) -> None:
        accepts = {name: card.accepts for name, card in self._models.cards.items()}
        announced = functools.partial(_announced, progress=self._progress)
        line = [
            # An operator without an input would run for ever: once is what is wanted.
            announced(StudySource)(self, CountCondition(self, 1), job=self._job, name="study"),
            announced(SeriesSelector)(
                self, accepts_by_bundle=accepts, forced_bundle=self._bundle, name="selection"
            ),
            announced(VolumeBuilder)(self, name="volume"),
            announced(BundleInference)(self, models=self._models, name="inference"),
            announced(Findings)(self, name="findings"),
            announced(EvidenceWriter)(self, sink=self._sink, name="evidence"),
        ]
        for before, after in pairwise(line):
            self.add_flow(before, after)


def _announced(kind: type[Operator], progress: Callable[[str], None]) -> type[Operator]:
    """The same operator, that says its name before it computes."""

    class Announced(kind):
        def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
            progress(self.name)
            super().compute(op_input, op_output, context)

    return Announced


def load_models() -> WarmModels:
    """Cards of all installed bundles; each network is loaded when it is first used.

    Raises
    ------
    CardInvalid
        A card breaks the schema.
    """
    return WarmModels(load_cards(bundle_folders()))


def analyse(
    input_dir: Path,
    output_dir: Path,
    recorded_at: str,
    *,
    models: WarmModels,
    bundle: str | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> StudyJob:
    """Run the graph once, in this process.

    Parameters
    ----------
    input_dir : Path
        Folder of DICOM files, read recursively.
    output_dir : Path
        Where SEG and SR go; made if missing.
    recorded_at : str
        ``YYYYMMDDHHMMSS`` of the study version; our objects bear it.
    models : WarmModels
        From `load_models`.
    bundle : str or None
        Run this bundle whatever the body part says.
    progress : callable
        Called with the name of each stage as it begins.

    Returns
    -------
    StudyJob
        With everything that was refused, and why.

    Raises
    ------
    BundleUnknown
        `bundle` is not installed.
    """
    if bundle is not None:
        models.card(bundle)
    finished: list[StudyJob] = []
    job = StudyJob(input_dir=input_dir, output_dir=output_dir, recorded_at=recorded_at)
    RadloopGraph(
        job=job, models=models, bundle=bundle, sink=finished.append, progress=progress
    ).run()
    return finished[0]
