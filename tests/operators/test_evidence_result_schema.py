"""`result.json` is what its published schema says, and the schema takes nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import jsonschema
import pytest

from operators.evidence.result import SCHEMA, SCHEMA_FILE, write_result
from operators.evidence.write import write_job
from operators.findings.measure import measure_job
from operators.job import Code, StudyJob
from operators.measured import Axis, Measurement, RuleResult
from tests.operators.scene import RECORDED_AT, two_glands
from tests.validators import result_errors

MM = Code("mm", "UCUM", "millimeter")
LENGTH = Measurement(
    name="long_axis",
    value=12.5,
    code=Code("103339001", "SCT", "Long axis"),
    unit=MM,
    uncertainty=0.8,
    axis=Axis(((0.0, 1.0, 2.0), (3.0, 4.0, 5.0)), k=7),
)
MEAN = Measurement(
    name="mean",
    value=40.0,
    code=Code("112031", "DCM", "Attenuation Coefficient"),
    unit=Code("[hnsf'U]", "UCUM", "Hounsfield unit"),
    derivation=Code("373098007", "SCT", "Mean"),
)
RULE = RuleResult(
    rule="some_guideline/rule",
    citation="A journal 2017; 1: 1, table 1",
    severity="LOW",
    accepted_by="",
    statement="12.5 mm.",
    decided_by=("long_axis",),
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a run with one structure that is not there."""
    folder = tmp_path_factory.mktemp("run")
    segmentation = two_glands(folder / "in").segmentation
    job = StudyJob(folder, folder / "out", RECORDED_AT, segmentations=(segmentation,))
    write_result(write_job(measure_job(job)))
    return json.loads((folder / "out" / "result.json").read_text())


def test_the_schema_is_one_and_bears_the_number_of_the_file() -> None:
    schema = json.loads(SCHEMA_FILE.read_text())

    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema"]["const"] == SCHEMA
    assert schema["$id"].endswith(f":{SCHEMA}")


def test_a_run_s_result_is_valid(result: dict[str, Any]) -> None:
    assert [finding["voxels"] > 0 for finding in result["results"][0]["findings"]].count(False) == 1
    assert result_errors(result) == []


def test_measurements_and_rules_have_the_form_of_their_classes(result: dict[str, Any]) -> None:
    for proposed in (True, False):
        rule = replace(RULE, accepted_by="" if proposed else "Dr A")
        said = {
            "measurements": [asdict(LENGTH), asdict(MEAN)],
            "rules": [{**asdict(rule), "proposed": rule.proposed}],
        }
        changed = json.loads(json.dumps(result))
        changed["results"][0]["findings"][0].update(json.loads(json.dumps(said)))

        assert result_errors(changed) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 2),
        (("recorded_at",), "2024"),
        (("results", 0, "unit"), "mg"),
        (("results", 0, "another"), 1),
        (("results", 0, "findings", 0, "severity"), "FINE"),
        (("results", 0, "findings", 0, "another"), 1),
        (("results", 0, "evidence", 0, "sop_instance_uid"), "../x"),
        (("readings",), None),
    ],
)
def test_anything_else_is_named_by_its_place(
    result: dict[str, Any], path: tuple[str | int, ...], value: Any
) -> None:
    changed = json.loads(json.dumps(result))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value

    (error,) = result_errors(changed)

    assert str(path[0]) in error
