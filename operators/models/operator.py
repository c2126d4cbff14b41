"""BundleInference: volumes in, segmentations and readings out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from operators.core import ExecutionContext, InputContext, Operator, OperatorSpec, OutputContext
from operators.errors import Refusal
from operators.job import Refused, Segmentation, StudyJob
from operators.models.bundle import InferenceFailed, LoadedBundle
from operators.models.warm import WarmModels
from operators.reading import Reading


class BundleInference(Operator):
    """Run on each volume the bundle that it was built for. The running is in `bundle.py`."""

    def __init__(self, fragment: Any, *args: Any, models: WarmModels, **kwargs: Any) -> None:
        self.models = models
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("job")
        spec.output("segmented")

    def compute(
        self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext
    ) -> None:
        job: StudyJob = op_input.receive("job")
        op_output.emit(segment_all(job, self.models), "segmented")


def segment_all(job: StudyJob, models: WarmModels) -> StudyJob:
    """The job with a segmentation or a reading for each volume, or the reason why there is none."""
    # One study, one set of weights, even where another is promoted meanwhile.
    running: dict[str, LoadedBundle] = {}
    done: list[Segmentation] = []
    readings: list[Reading] = []
    refused: list[Refused] = []
    for volume in job.volumes:
        try:
            if volume.bundle not in running:
                running[volume.bundle] = models.get(volume.bundle)
            result = running[volume.bundle].analyse(volume)
            if isinstance(result, Reading):
                readings.append(result)
            else:
                done.append(result)
        except Refusal as refusal:
            refused.append(Refused(volume.series_instance_uid, refusal.reason))
        except Exception as error:  # noqa: BLE001  (a bundle's own code raises what it likes)
            failed = InferenceFailed(volume.bundle, volume.series_instance_uid, error)
            refused.append(Refused(volume.series_instance_uid, failed.reason))
    return replace(
        job,
        segmentations=tuple(done),
        readings=tuple(readings),
        refused=(*job.refused, *refused),
    )
