"""The graph's step from matched series to volumes. The geometry is in `build.py`."""

from __future__ import annotations

from dataclasses import replace

from operators.core import ExecutionContext, InputContext, Operator, OperatorSpec, OutputContext
from operators.job import StudyJob
from operators.volume.build import build_matched, unreadable_files


class VolumeBuilder(Operator):
    """Matched series in, volumes out."""

    def setup(self, spec: OperatorSpec) -> None:
        """Input "job", output "built"."""
        spec.input("job")
        spec.output("built")

    def compute(
        self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext
    ) -> None:
        """Build what can be built."""
        job: StudyJob = op_input.receive("job")
        volumes, refused = build_matched(job.matches, unreadable_files(job.refused))
        op_output.emit(replace(job, volumes=volumes, refused=(*job.refused, *refused)), "built")
