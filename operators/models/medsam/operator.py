"""PromptedSegmentation: volumes and what a person marked in, a segmentation of each mark out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from operators.core import ExecutionContext, InputContext, Operator, OperatorSpec, OutputContext
from operators.errors import ModelRefusal
from operators.job import Refused, Segmentation, StudyJob
from operators.models.bundle import InferenceFailed
from operators.models.medsam.place import place
from operators.models.medsam.proposals import ProposalsNeedPicture
from operators.models.medsam.region import Region
from operators.models.warm import WarmModels


class PromptedSegmentation(Operator):
    """Segment what is marked. The running is in `model.py`.

    Parameters
    ----------
    models : WarmModels
        Has the prompted bundle that the series was matched with.
    regions : tuple of Region
        What was asked for.
    """

    def __init__(
        self,
        fragment: Any,
        *args: Any,
        models: WarmModels,
        regions: tuple[Region, ...],
        **kwargs: Any,
    ) -> None:
        self.models, self.regions = models, regions
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Input "job", output "segmented"."""
        spec.input("job")
        spec.output("segmented")

    def compute(
        self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext
    ) -> None:
        """Segment."""
        job: StudyJob = op_input.receive("job")
        op_output.emit(segment_prompted(job, self.models, self.regions), "segmented")


class RegionProposals(Operator):
    """Propose regions of a 2D image. The rule is in `proposals.py`.

    Parameters
    ----------
    models : WarmModels
        Has the prompted bundle that the series was matched with.
    """

    def __init__(self, fragment: Any, *args: Any, models: WarmModels, **kwargs: Any) -> None:
        self.models = models
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Input "job", output "segmented"."""
        spec.input("job")
        spec.output("segmented")

    def compute(
        self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext
    ) -> None:
        """Propose."""
        job: StudyJob = op_input.receive("job")
        op_output.emit(propose_regions(job, self.models), "segmented")


def propose_regions(job: StudyJob, models: WarmModels) -> StudyJob:
    """The job with the proposals for its 2D image; without one where there is no image.

    Raises
    ------
    ModelRefusal
        The series is a stack of slices, or the network failed.
    """
    if not job.volumes:
        return job  # the volume builder has said why
    volume = job.volumes[0]
    if volume.plane is None:
        raise ProposalsNeedPicture(volume.series_instance_uid)
    model = models.get_prompted(volume.bundle)
    try:
        return replace(job, segmentations=(model.propose(volume),))
    except (RuntimeError, ValueError, MemoryError) as error:  # torch raises these
        raise InferenceFailed(volume.bundle, volume.series_instance_uid, error) from error


def segment_prompted(job: StudyJob, models: WarmModels, regions: tuple[Region, ...]) -> StudyJob:
    """The job with a segmentation of each region; without one where no series gave a volume.

    Of several regions, one that can't be placed is refused and the others go on.

    Raises
    ------
    ModelRefusal
        No region fits a slice, or the network failed: a person asked for this, so it is
        said to them and nothing is written.
    """
    if not job.volumes:
        return job  # the volume builder has said why
    done: list[Segmentation] = []
    refused: list[tuple[str, ModelRefusal]] = []
    for number, region in enumerate(regions, start=1):
        try:
            placed = place(job.volumes, region)
        except ModelRefusal as refusal:
            refused.append((f"mark {number} of {len(regions)}", refusal))
            continue
        volume = placed.volume
        model = models.get_prompted(volume.bundle)
        try:
            done.append(model.segment(placed, region))
        except (RuntimeError, ValueError, MemoryError) as error:  # torch raises these
            raise InferenceFailed(volume.bundle, volume.series_instance_uid, error) from error
    if not done:
        raise refused[0][1]
    left_out = (Refused(what, refusal.reason) for what, refusal in refused)
    return replace(job, segmentations=tuple(done), refused=(*job.refused, *left_out))
