"""The graph's last operator. What is written is in the files of its kind."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from operators.core import ExecutionContext, InputContext, Operator, OperatorSpec, OutputContext
from operators.evidence.write import write_job
from operators.job import ExtraEvidence, StudyJob


class EvidenceWriter(Operator):
    """Reports in, files out; hands the finished job to whoever runs the graph.

    Parameters
    ----------
    sink : callable
        Called once per job with the job as it leaves the graph. It is no output
        port: a port whose flow ends nowhere stops the graph for ever.
    extra : collection of ExtraEvidence
        What is written beside SEG and SR.
    structure_sets : collection of str
        Bundles that get an RTSTRUCT where `extra` has it.
    """

    def __init__(
        self,
        fragment: Any,
        *args: Any,
        sink: Callable[[StudyJob], None],
        extra: Collection[ExtraEvidence] = (),
        structure_sets: Collection[str] = (),
        **kwargs: Any,
    ) -> None:
        self._sink, self._extra, self._structure_sets = sink, extra, structure_sets
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """One input port."""
        spec.input("job")

    def compute(
        self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext
    ) -> None:
        """Write the evidence of every report of the job."""
        job: StudyJob = op_input.receive("job")
        self._sink(write_job(job, self._extra, self._structure_sets))
