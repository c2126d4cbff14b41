"""The graph's door to measurements. The counting is in `measure.py`."""

from __future__ import annotations

from operators.core import ExecutionContext, InputContext, Operator, OperatorSpec, OutputContext
from operators.findings.measure import measure_job
from operators.job import StudyJob


class Findings(Operator):
    """Segmentations in, reports out."""

    def setup(self, spec: OperatorSpec) -> None:
        """One port each way."""
        spec.input("job")
        spec.output("measured")

    def compute(
        self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext
    ) -> None:
        """Measure every segmentation of the job."""
        job: StudyJob = op_input.receive("job")
        op_output.emit(measure_job(job), "measured")
