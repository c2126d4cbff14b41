"""The graph's step from matched series to volumes. The geometry is in `build.py`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from operators.core import ExecutionContext, InputContext, Operator, OperatorSpec, OutputContext
from operators.job import StudyJob
from operators.volume.build import build_matched, unreadable_files
from operators.volume.planar import PlanarChoice


class VolumeBuilder(Operator):
    """Matched series in, volumes out.

    Parameters
    ----------
    choice : PlanarChoice or None
        Which picture of a series of 2D images a person means; None where nobody asked.
    """

    def __init__(
        self, fragment: Any, *args: Any, choice: PlanarChoice | None = None, **kwargs: Any
    ) -> None:
        self.choice = choice
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Input "job", output "built"."""
        spec.input("job")
        spec.output("built")

    def compute(
        self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext
    ) -> None:
        """Build what can be built."""
        job: StudyJob = op_input.receive("job")
        volumes, refused = build_matched(job.matches, unreadable_files(job.refused), self.choice)
        op_output.emit(replace(job, volumes=volumes, refused=(*job.refused, *refused)), "built")
