"""The MONAI Deploy application: which operators, in which order.

One graph for every way in: `radloop run`, the worker of `radloop serve`, and
the one-shot entry point of the MAP (`python -m app`). A new Application is made
for each study, since running one again after a failed run crashes the process;
what is costly, the models, is made once and handed in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from app.bundle_folders import bundle_folders, exported_bundles
from operators.compared import PriorSource
from operators.core import Application, CountCondition, Operator
from operators.errors import ModelRefusal
from operators.evidence.operator import EvidenceWriter
from operators.findings.guideline import Rulebook, load_rulebook
from operators.findings.operator import Findings
from operators.job import ExtraEvidence, StudyJob
from operators.models.card import load_cards
from operators.models.medsam.operator import PromptedSegmentation, RegionProposals
from operators.models.medsam.region import Drawing, OnImage, Region
from operators.models.operator import BundleInference
from operators.models.warm import WarmModels
from operators.study.operator import SeriesChooser, SeriesSelector, StudySource
from operators.study.select import RoutedPair
from operators.volume.operator import VolumeBuilder
from operators.volume.planar import PlanarChoice

Announce = Callable[[type[Operator]], Callable[..., Operator]]


class NeedsBox(ModelRefusal):
    """A prompted bundle was asked to run by itself."""

    code = "RL-1003"

    def __init__(self, bundle: str) -> None:
        super().__init__(
            f"bundle '{bundle}' runs on a box only: "
            "`radloop segment STUDY --box x0,y0,x1,y1 --slice N`."
        )


class RunsByItself(ModelRefusal):
    """A box was given to a bundle that takes none."""

    code = "RL-1911"

    def __init__(self, bundle: str) -> None:
        super().__init__(
            f"bundle '{bundle}' takes no box, it runs by itself: "
            f"`radloop run STUDY --bundle {bundle}`. `radloop bundles list` says which take one."
        )


@dataclass(frozen=True)
class Asked:
    """What a person wants segmented.

    Attributes
    ----------
    bundle : str
        A prompted bundle.
    series_uid : str or None
        None where the folder holds one series that fits.
    regions : tuple of Region
        Box, points or marks of a file; none: regions of a 2D image are proposed.
    image : str
        InstanceNumber or SOP Instance UID of a 2D image, where no mark names it.
    frame : int or None
        Of a 2D image with frames, from 1.
    """

    bundle: str
    series_uid: str | None
    regions: tuple[Region, ...]
    image: str = ""
    frame: int | None = None

    @property
    def choice(self) -> PlanarChoice:
        """Which picture of a series of 2D images is meant."""
        marks = [mark for region in self.regions for mark in region.marks]
        named = [mark.image for mark in marks if isinstance(mark, OnImage)]
        named += [mark.image_uid for mark in marks if isinstance(mark, Drawing)]
        image = next(iter(named), self.image)
        # A mark on one frame says which; where marks are on several, the first one's is used.
        frames = [
            mark.frames[0]
            for mark in marks
            if isinstance(mark, Drawing) and mark.image_uid == image and len(mark.frames) == 1
        ]
        return PlanarChoice(image, self.frame, next(iter(frames), None))


class RadloopGraph(Application):
    """Study, selection, volume, inference, findings, evidence: one line.

    Parameters
    ----------
    job : StudyJob
        Where to read and to write.
    models : WarmModels
        Loaded bundles.
    asked : str, Asked or None
        What a person wants: this bundle, whatever the body part says, or what is
        marked; None: whatever the cards match.
    routed : collection of RoutedPair or None
        Where nobody asked: only these pairs of bundle and series; None: any.
    rules : Rulebook
        What guidelines say to the measurements.
    sink : callable
        Receives the finished job.
    progress : callable
        Receives the name of each stage as it begins.
    extra : collection of ExtraEvidence
        What is written beside SEG and SR.
    priors : PriorSource or None
        Where earlier results of the same patient come from; None: they are not asked for.
    """

    def __init__(
        self,
        *,
        job: StudyJob,
        models: WarmModels,
        asked: str | Asked | None,
        routed: Collection[RoutedPair] | None,
        rules: Rulebook,
        sink: Callable[[StudyJob], None],
        progress: Callable[[str], None],
        extra: Collection[ExtraEvidence] = (),
        priors: PriorSource | None = None,
    ) -> None:
        self._extra, self._priors = extra, priors
        self._job, self._models, self._asked, self._routed = job, models, asked, routed
        self._rules, self._sink, self._progress = rules, sink, progress
        super().__init__(argv=["radloop"])

    def compose(self) -> None:
        announced = functools.partial(_announced, progress=self._progress)
        chooser, segmenter = (
            self._by_person(self._asked, announced)
            if isinstance(self._asked, Asked)
            else self._by_cards(self._asked, announced)
        )
        line = [
            # An operator without an input would run for ever: once is what is wanted.
            announced(StudySource)(self, CountCondition(self, 1), job=self._job, name="study"),
            chooser,
            announced(VolumeBuilder)(
                self,
                choice=self._asked.choice if isinstance(self._asked, Asked) else None,
                name="volume",
            ),
            segmenter,
            announced(Findings)(self, rules=self._rules, priors=self._priors, name="findings"),
            announced(EvidenceWriter)(
                self,
                sink=self._sink,
                extra=self._extra,
                structure_sets={
                    name for name, card in self._models.cards.items() if "RTSTRUCT" in card.outputs
                },
                name="evidence",
            ),
        ]
        for before, after in pairwise(line):
            self.add_flow(before, after)

    def _by_cards(self, bundle: str | None, announced: Announce) -> tuple[Operator, Operator]:
        cards = self._models.cards.items()
        accepts = {name: card.accepts for name, card in cards if not card.prompted}
        return announced(SeriesSelector)(
            self,
            accepts_by_bundle=accepts,
            forced_bundle=bundle,
            routed=self._routed,
            channels_by_bundle={
                name: card.run.channels for name, card in cards if card.run.channels
            },
            name="selection",
        ), announced(BundleInference)(self, models=self._models, name="inference")

    def _by_person(self, asked: Asked, announced: Announce) -> tuple[Operator, Operator]:
        chooser = announced(SeriesChooser)(
            self,
            bundle=asked.bundle,
            accepts=self._models.card(asked.bundle).accepts,
            series_uid=asked.series_uid,
            images={uid for region in asked.regions for uid in region.images},
            series={uid for region in asked.regions for uid in region.series},
            name="selection",
        )
        if not asked.regions:
            return chooser, announced(RegionProposals)(self, models=self._models, name="inference")
        return chooser, announced(PromptedSegmentation)(
            self, models=self._models, regions=asked.regions, name="inference"
        )


def _announced(kind: type[Operator], progress: Callable[[str], None]) -> type[Operator]:
    """The same operator, that says its name before it computes."""

    class Announced(kind):
        def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
            progress(self.name)
            super().compute(op_input, op_output, context)

    return Announced


def load_models(champions: Path | None = None) -> WarmModels:
    """Cards of all installed bundles; each network is loaded when it is first used.

    Parameters
    ----------
    champions : Path or None
        Which weights serve, asked again before each study; None or no such folder:
        those that the bundles came with.

    Returns
    -------
    WarmModels
        Run by the runtimes that were exported for, else by torch.

    Raises
    ------
    CardInvalid
        A card breaks the schema.
    """
    return WarmModels(load_cards(bundle_folders()), champions, exported_bundles())


def analyse(
    input_dir: Path,
    output_dir: Path,
    recorded_at: str,
    *,
    models: WarmModels,
    bundle: str | None = None,
    routed: Collection[RoutedPair] | None = None,
    rules: Rulebook | None = None,
    progress: Callable[[str], None] = lambda stage: None,
    extra: Collection[ExtraEvidence] = (),
    priors: PriorSource | None = None,
) -> StudyJob:
    """Run the graph once, in this process.

    Parameters
    ----------
    input_dir : Path
        Folder of DICOM files, read recursively, or one file.
    output_dir : Path
        Where SEG and SR go; made if missing.
    recorded_at : str
        ``YYYYMMDDHHMMSS`` of the study version; our objects bear it.
    models : WarmModels
        From `load_models`.
    bundle : str or None
        Run this bundle whatever the body part says.
    routed : collection of RoutedPair or None
        What the site's routes send where (`app.routes.plan.Plan.pairs`); None: the cards
        alone decide. Not asked where `bundle` is given.
    rules : Rulebook or None
        Of the site (`app.rules.site_rulebook`); None: the shipped ones, none accepted.
    progress : callable
        Called with the name of each stage as it begins.
    extra : collection of ExtraEvidence
        What is written beside SEG and SR.
    priors : PriorSource or None
        Where earlier results of the same patient come from (`app.priors`); None: they are
        not asked for.

    Returns
    -------
    StudyJob
        With everything that was refused, and why.

    Raises
    ------
    BundleUnknown
        `bundle` is not installed.
    NeedsBox
        `bundle` waits for a box.
    """
    if bundle is not None and models.card(bundle).prompted:
        raise NeedsBox(bundle)
    job = StudyJob(input_dir=input_dir, output_dir=output_dir, recorded_at=recorded_at)
    return _run(job, models, bundle, progress, rules, extra, priors, routed)


def segment(
    input_dir: Path,
    output_dir: Path,
    recorded_at: str,
    *,
    models: WarmModels,
    asked: Asked,
    rules: Rulebook | None = None,
    progress: Callable[[str], None] = lambda stage: None,
    extra: Collection[ExtraEvidence] = (),
    priors: PriorSource | None = None,
) -> StudyJob:
    """Run the graph once on what a person has marked, in this process.

    Parameters
    ----------
    input_dir, output_dir, recorded_at, models, rules, progress, extra, priors
        As for `analyse`.
    asked : Asked
        Bundle, series and marks.

    Returns
    -------
    StudyJob
        With a segmentation of each region, or with what was refused, and why.

    Raises
    ------
    BundleUnknown, WeightsMissing
        The bundle is not installed, or its weights are not.
    RunsByItself
        The bundle is not prompted.
    Refusal
        The series or the slice can't be told, or no mark fits it; nothing is written
        then.
    """
    card = models.card(asked.bundle)
    if not card.prompted:
        raise RunsByItself(asked.bundle)
    card.verify_weights()  # before a large study is read
    job = StudyJob(input_dir=input_dir, output_dir=output_dir, recorded_at=recorded_at)
    return _run(job, models, asked, progress, rules, extra, priors)


def _run(
    job: StudyJob,
    models: WarmModels,
    asked: str | Asked | None,
    progress: Callable[[str], None],
    rules: Rulebook | None,
    extra: Collection[ExtraEvidence],
    priors: PriorSource | None,
    routed: Collection[RoutedPair] | None = None,
) -> StudyJob:
    finished: list[StudyJob] = []
    RadloopGraph(
        job=job,
        models=models,
        asked=asked,
        routed=routed,
        rules=load_rulebook() if rules is None else rules,
        sink=finished.append,
        progress=progress,
        extra=extra,
        priors=priors,
    ).run()
    return finished[0]
