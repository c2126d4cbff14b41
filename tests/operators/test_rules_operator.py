"""Rules in the graph: a spleen that somebody measured goes through the real operator."""

from __future__ import annotations

import numpy as np
import pytest

from operators.core import Application, CountCondition, Operator
from operators.findings.guideline import Acceptance, Rulebook, load_rulebook
from operators.findings.operator import NO_RULES, Findings
from operators.job import StudyJob
from tests.operators.rule_scene import report

RULE = "spleen_volume/above_range"


class Start(Operator):
    def __init__(self, fragment, *args, job, **kwargs):
        self.job = job
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec):
        spec.output("job")

    def compute(self, op_input, op_output, context):
        op_output.emit(self.job, "job")


class Catch(Operator):
    def __init__(self, fragment, *args, caught, **kwargs):
        self.caught = caught
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec):
        spec.input("job")

    def compute(self, op_input, op_output, context):
        self.caught.append(op_input.receive("job"))


class Line(Application):
    def __init__(self, job: StudyJob, book: Rulebook, caught: list[StudyJob]) -> None:
        self.parts = job, book, caught
        super().__init__(argv=["test"])

    def compose(self) -> None:
        job, book, caught = self.parts
        start = Start(self, CountCondition(self, 1), job=job, name="start")
        findings = Findings(self, rules=book, name="findings")
        self.add_flow(start, findings)
        self.add_flow(findings, Catch(self, caught=caught, name="catch"))


@pytest.mark.parametrize(
    ("accepted", "severity", "rules"),
    [(None, "NOT_ASSESSED", 0), (False, "NOT_ASSESSED", 1), (True, "LOW", 1)],
)
def test_the_operator_judges_by_the_rulebook_that_it_was_given(
    tmp_path, accepted: bool | None, severity: str, rules: int
) -> None:
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[4:56, 4:55, 5:55] = 1  # 132600 voxels of 3 mm3: 397.8 mL
    spleen = report("78961009", (), labels=labels).segmentation
    book = load_rulebook()
    if accepted:
        acceptance = Acceptance("Doe^Jane", book.rule(RULE).digest)
        book = load_rulebook(accepted={RULE: acceptance})
    caught: list[StudyJob] = []

    job = StudyJob(tmp_path, tmp_path, "20240506070809", segmentations=(spleen,))
    Line(job, NO_RULES if accepted is None else book, caught).run()

    (finding,) = caught[0].reports[0].findings
    assert finding.volume_ml == pytest.approx(397.8)
    assert finding.severity == severity
    assert len(finding.rules) == rules
