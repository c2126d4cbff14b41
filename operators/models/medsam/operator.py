"""PromptedSegmentation: volumes of one series and a person's box in, a segmentation out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from operators.core import ExecutionContext, InputContext, Operator, OperatorSpec, OutputContext
from operators.job import StudyJob
from operators.models.bundle import InferenceFailed
from operators.models.medsam.request import BoxPrompt, locate
from operators.models.warm import WarmModels


class PromptedSegmentation(Operator):
    """Segment what a box holds. The running is in `model.py`.

    Parameters
    ----------
    models : WarmModels
        Has the prompted bundle that the series was matched with.
    prompt : BoxPrompt
        What was asked for.
    """

    def __init__(
        self, fragment: Any, *args: Any, models: WarmModels, prompt: BoxPrompt, **kwargs: Any
    ) -> None:
        self.models, self.prompt = models, prompt
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
        op_output.emit(segment_prompted(job, self.models, self.prompt), "segmented")


def segment_prompted(job: StudyJob, models: WarmModels, prompt: BoxPrompt) -> StudyJob:
    """The job with one segmentation; without one where the series gave no volume.

    Raises
    ------
    ModelRefusal
        The prompt fits no slice of the series, or the network failed: a person asked
        for this one thing, so it is said to them and nothing is written.
    """
    if not job.volumes:
        return job  # the volume builder has said why
    volume, k = locate(job.volumes, prompt)
    model = models.get_prompted(volume.bundle)
    try:
        segmentation = model.segment(volume, k, prompt)
    except (RuntimeError, ValueError, MemoryError) as error:  # torch raises these
        raise InferenceFailed(volume.bundle, volume.series_instance_uid, error) from error
    return replace(job, segmentations=(segmentation,))
