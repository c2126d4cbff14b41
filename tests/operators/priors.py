"""Two studies of one patient: balls of known size, on grids of one's choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from operators.compared import Prior
from operators.evidence.prior import read_priors
from operators.evidence.write import write_evidence
from operators.findings.measure import measure
from operators.job import Code, ModelIdentity, Report, Segment
from tests.operators.scene import MODEL, RECORDED_AT, make_segmentation, segment
from tests.series import Ball, Box, centred_grid, stable_uid

SHAPE, SPACING_ZYX_MM = (44, 60, 56), (1.0, 0.8, 0.9)
CENTRE = (4.0, -30.0, 20.0)
FRAME = stable_uid("one frame")
NEOPLASM = Code("108369006", "SCT", "Neoplasm")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")


def lesion(number: int) -> Segment:
    """One of several of a kind."""
    return replace(
        segment(number, "mandible"),
        name=f"lesion_{number}",
        label=f"Lesion {number}",
        category=ABNORMAL,
        type=NEOPLASM,
    )


def study(
    folder: Path,
    shapes: Sequence[Ball | Box],
    segments: Sequence[Segment],
    *,
    date: str,
    frame: str = "",
    patient_id: str = "P-1",
    issuer: str = "Hospital",
    shape_zyx: tuple[int, int, int] = SHAPE,
    spacing_zyx_mm: tuple[float, float, float] = SPACING_ZYX_MM,
    directions: np.ndarray | None = None,
    model: ModelIdentity = MODEL,
) -> Report:
    """Measured; every shape of HU ``10 * number`` is segment `number`."""

    def edit(dataset: Dataset, k: int) -> None:
        dataset.StudyDate, dataset.PatientID, dataset.IssuerOfPatientID = date, patient_id, issuer
        dataset.StudyInstanceUID = stable_uid("study", date, patient_id)
        dataset.SeriesInstanceUID = stable_uid("series", date, patient_id)
        dataset.SOPInstanceUID = stable_uid("series", date, patient_id, k)
        dataset.FrameOfReferenceUID = frame or stable_uid("frame", date)

    grid = centred_grid(shape_zyx, spacing_zyx_mm, directions, centre_lps_mm=CENTRE)
    made = make_segmentation(folder, shapes, shape_zyx, grid, segments, edit=edit)
    return measure(replace(made, model=model))


def ball(radius_mm: float, number: int = 1, at: tuple[float, float, float] = CENTRE) -> Ball:
    """Of the segment with that number."""
    return Ball(at, radius_mm, 10 * number)


def as_prior(report: Report, folder: Path) -> Prior:
    """Written to DICOM and read back."""
    write_evidence(report, folder, RECORDED_AT)
    found = read_priors(folder)
    assert found.left_out == ()
    (prior,) = found.results
    return prior
