"""A report of any size without files: structures in a row, in a volume made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from operators.findings.measure import measure
from operators.findings.tally import tally
from operators.job import (
    Code,
    Plane,
    QualityFlag,
    Report,
    Segment,
    Segmentation,
    Volume,
)
from tests.operators.scene import MODEL
from tests.series import centred_grid, stable_uid

ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
ORGAN = Code("113343008", "SCT", "Organ")


def header(k: int) -> Dataset:
    """Of slice k of a CT."""
    made = Dataset()
    made.SOPClassUID = CTImageStorage
    made.SOPInstanceUID = stable_uid("report", k)
    made.StudyInstanceUID = stable_uid("report", "study")
    made.SeriesInstanceUID = stable_uid("report", "series")
    made.StudyDate, made.StudyTime, made.Modality = "20240102", "030405", "CT"
    made.PatientName, made.PatientID = "Nobody^Known", "N-1"
    made.PatientBirthDate = made.PatientSex = made.AccessionNumber = made.StudyID = ""
    made.ReferringPhysicianName = ""
    made.SeriesNumber, made.InstanceNumber = 4, k + 101
    return made


def make_report(
    found: int,
    absent: int = 0,
    *,
    flags: Sequence[str] = (),
    label: str = "Structure {}",
    plane: Plane | None = None,
) -> Report:
    """`found` structures of one to three voxels in two slices of water, and some that aren't there.

    Structure n is largest in slice n modulo 2.
    """
    side = 4 * (int(np.ceil(np.sqrt(max(found, 1)))) + 1)
    shape = (1 if plane else 2, side, side)
    labels = np.zeros(shape, np.uint8)
    per_row = side // 4
    for number in range(1, found + 1):
        row, column = divmod(number - 1, per_row)
        at = (4 * row + 1, 4 * column + 1)
        labels[(number % 2) % shape[0], at[0] : at[0] + 2, at[1] : at[1] + 2] = number
    volume = Volume(
        array=np.where(labels, 60, 0).astype(np.int16),
        lps_from_index=np.full((4, 4), np.nan) if plane else centred_grid(shape, (5.0, 1.0, 1.0)),
        unit="arbitrary" if plane else "HU",
        frame_of_reference_uid="" if plane else stable_uid("report", "frame"),
        headers=tuple(header(k) for k in range(shape[0])),
        series_instance_uid=stable_uid("report", "series"),
        bundle=MODEL.name,
        quality=tuple(QualityFlag(f"flag-{n}", text) for n, text in enumerate(flags)),
        plane=plane,
    )
    segments = tuple(
        Segment(
            number=n,
            name=f"structure_{n}",
            label=label.replace("{}", str(n)),
            category=ANATOMY,
            type=ORGAN,
            colour_rgb=(200, 40 + n % 200, 250 - n % 240),
        )
        for n in range(1, found + absent + 1)
    )
    return measure(Segmentation(volume, labels, segments, MODEL))


def counted(report: Report) -> np.ndarray:
    """As the writers get it."""
    return tally(report.segmentation)
