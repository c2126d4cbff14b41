"""The graph's door to measurements and rules, which are in `measure.py` and `rules.py`."""

from __future__ import annotations

from typing import Any

from operators.compared import PriorSource
from operators.core import ExecutionContext, InputContext, Operator, OperatorSpec, OutputContext
from operators.findings.guideline import Rulebook
from operators.findings.longitudinal import compare_job
from operators.findings.measure import measure_job
from operators.findings.rules import apply_rules_to_job
from operators.job import StudyJob

NO_RULES = Rulebook(())


class Findings(Operator):
    """Segmentations in, reports out.

    Parameters
    ----------
    rules : Rulebook
        What guidelines say, and what of it the site has accepted; by default nothing.
    priors : PriorSource or None
        Where earlier results of the same patient come from; None: they are not asked for.
    """

    def __init__(
        self,
        fragment: Any,
        *args: Any,
        rules: Rulebook = NO_RULES,
        priors: PriorSource | None = None,
        **kwargs: Any,
    ) -> None:
        self._rules, self._priors = rules, priors
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """One port each way."""
        spec.input("job")
        spec.output("measured")

    def compute(
        self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext
    ) -> None:
        """Measure every segmentation of the job, then ask the rules and earlier results."""
        job: StudyJob = op_input.receive("job")
        measured = apply_rules_to_job(measure_job(job), self._rules)
        compared = compare_job(measured, self._priors) if self._priors else measured
        op_output.emit(compared, "measured")
