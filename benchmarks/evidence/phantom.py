"""The study that all contestants get: a CT with balls of known labels, 10 or 104."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from app.demo.ct_series import SeriesIdentity, write_ct_series
from operators.evidence.uids import derive_uid

FEW, MANY = 10, 104
SIZE = 512
PIXEL_MM, SLICE_MM = 0.8, 1.5


def labels_of(slices: int, segments: int) -> np.ndarray:
    """Separate balls, labels from 1, shape (slices, 512, 512), uint8."""
    if segments == MANY:
        return _many(slices)
    labels = np.zeros((slices, SIZE, SIZE), np.uint8)
    y, x = np.ogrid[:SIZE, :SIZE]
    for number in range(1, FEW + 1):
        angle = 2 * np.pi * number / FEW
        cy, cx = SIZE / 2 + 150 * np.sin(angle), SIZE / 2 + 150 * np.cos(angle)
        cz, radius_mm = slices * (0.25 + 0.05 * number), 28.0
        for k in range(slices):
            left = radius_mm**2 - ((k - cz) * SLICE_MM) ** 2
            if left > 0:
                labels[k][((y - cy) ** 2 + (x - cx) ** 2) * PIXEL_MM**2 <= left] = number
    return labels


def _many(slices: int) -> np.ndarray:
    """104 ellipsoids in four layers of 5 x 6."""
    labels = np.zeros((slices, SIZE, SIZE), np.uint8)
    y, x = np.ogrid[:SIZE, :SIZE]
    radius = 0.48 * slices / 4
    for number in range(1, MANY + 1):
        layer, place = divmod(number - 1, 30)
        row, column = divmod(place, 5)
        cy, cx = SIZE * (row + 0.5) / 6, SIZE * (column + 0.5) / 5
        cz = slices * (layer + 0.5) / 4
        for k in range(slices):
            left = 1 - ((k - cz) / radius) ** 2
            if left > 0:
                labels[k][((y - cy) ** 2 + (x - cx) ** 2) / 36**2 <= left] = number
    return labels


def write_phantom(folder: Path, slices: int) -> None:
    """Write the series; values are noise around tissue, so that no file is trivial."""
    rng = np.random.RandomState(7)
    hu = rng.normal(40, 20, (slices, SIZE, SIZE)).astype(np.int16)
    write_ct(folder, hu, PIXEL_MM, SLICE_MM, "Noise and balls")


def write_ct(folder: Path, hu: np.ndarray, pixel_mm: float, slice_mm: float, comments: str) -> None:
    """Write values as the CT series of a benchmark's patient, who is nobody."""
    uids = [derive_uid("benchmark", part, str(hu.shape)) for part in ("study", "series", "frame")]
    write_ct_series(
        folder,
        hu,
        np.diag([pixel_mm, pixel_mm, slice_mm, 1.0]),
        SeriesIdentity(
            patient_name="BENCHMARK^PHANTOM",
            patient_id="BENCHMARK",
            study_instance_uid=uids[0],
            series_instance_uid=uids[1],
            frame_of_reference_uid=uids[2],
            study_description="Benchmark",
            series_description="Benchmark phantom",
            image_comments=comments,
            study_date="20260101",
            study_time="120000",
            body_part="HEADNECK",
            manufacturer="radloop",
            model="benchmark",
        ),
    )
