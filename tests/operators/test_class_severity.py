"""The roadmap's table of severities, and the conditions under which it is used at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset

from operators.findings.class_severity import class_severity
from operators.job import Code, Volume
from operators.reading import ClassScores, OperatingPoint, OutputClass, Reading
from tests.operators.scene import MODEL

POINT = OperatingPoint("kind", 0.7, 0.9, 0.8, "made up", 100)


def reading(code: str | None, modality: str, point: OperatingPoint | None = POINT) -> Reading:
    header = Dataset()
    header.Modality = modality
    volume = Volume(
        array=np.zeros((1, 2, 2), np.float32),
        lps_from_index=np.eye(4),
        unit="arbitrary",
        frame_of_reference_uid="",
        headers=(header,),
        series_instance_uid="1.2.3",
        bundle="test_bundle",
    )
    kind = OutputClass("kind", "Pneumothorax", Code(code, "SCT", "x") if code else None)
    return Reading(volume, (kind,), MODEL, operating_point=point)


@pytest.mark.parametrize(
    ("modality", "code", "severity"),
    [
        ("DX", "36118008", "CRITICAL"),  # xray pneumothorax
        ("CR", "36118008", "CRITICAL"),
        ("DX", "233604007", "HIGH"),  # xray pneumonia
        ("DX", "4147007", "HIGH"),  # xray mass
        ("DX", "72704001", "MODERATE"),  # xray fracture
        ("CT", "50960005", "CRITICAL"),  # ct hemorrhage
        ("CT", "55641003", "CRITICAL"),  # ct infarction
        ("CT", "4147007", "HIGH"),  # ct mass
        ("MR", "108369006", "HIGH"),  # mri tumor
        ("MR", "52988006", "MODERATE"),  # mri lesion
        # Not in the table.
        ("CT", "36118008", "NOT_ASSESSED"),
        ("US", "4147007", "NOT_ASSESSED"),
        ("DX", "39607008", "NOT_ASSESSED"),
        ("DX", None, "NOT_ASSESSED"),
    ],
)
def test_grades_are_the_roadmap_s(modality: str, code: str | None, severity: str) -> None:
    assert class_severity(reading(code, modality), ClassScores(None, (0.9,))) == severity


@pytest.mark.parametrize(
    ("score", "severity"), [(0.69, "NOT_ASSESSED"), (0.7, "CRITICAL"), (0.71, "CRITICAL")]
)
def test_a_score_counts_from_the_operating_point_on(score: float, severity: str) -> None:
    assert class_severity(reading("36118008", "DX"), ClassScores(None, (score,))) == severity


def test_without_a_measured_operating_point_there_is_no_severity() -> None:
    without = reading("36118008", "DX", None)

    assert class_severity(without, ClassScores(None, (0.99,))) == "NOT_ASSESSED"


def test_an_operating_point_grades_its_own_class_and_no_other() -> None:
    one = reading("36118008", "DX")
    two = replace(one, classes=(OutputClass("other", "Other"), *one.classes))

    assert class_severity(two, ClassScores(None, (0.1, 0.99))) == "CRITICAL"
    assert class_severity(two, ClassScores(None, (0.99, 0.1))) == "NOT_ASSESSED"
