"""Volume and mean intensity of every structure, and nothing that needs a guideline."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from operators.errors import Refusal
from operators.findings.coverage import remark_coverage
from operators.findings.tally import tally
from operators.job import Finding, Plane, Refused, Report, Segmentation, StudyJob
from operators.volume.scale import area_mm2


def measure(segmentation: Segmentation) -> Report:
    """Measure every segment on the grid of its volume.

    Parameters
    ----------
    segmentation : Segmentation
        Labels on the grid of their volume.

    Returns
    -------
    Report
        One finding per segment, in the order of `segmentation.segments`. `volume_ml`
        counts every voxel of the mask. `mean` is over those voxels of the mask that
        the source does not call padding; None where there are none. A 2D image has
        neither, but an area where its scale is known. Severity is
        NOT_ASSESSED: no rule was applied.

    Raises
    ------
    GridMismatch, UndescribedLabel
        See `tally`.
    """
    volume = segmentation.volume
    if volume.plane is not None:
        return _measure_plane(segmentation, volume.plane)
    counts = tally(segmentation)
    voxels = counts.sum(axis=0)
    totals, measured = _intensity(segmentation, counts)
    findings = []
    for segment in segmentation.segments:
        count, inside = int(voxels[segment.number]), int(measured[segment.number])
        findings.append(
            Finding(
                segment=segment,
                voxels=count,
                volume_ml=count * volume.voxel_ml if count else None,
                mean=float(totals[segment.number] / inside) if inside else None,
                unit=volume.unit,
            )
        )
    return Report(segmentation=segmentation, findings=tuple(findings))


def _measure_plane(segmentation: Segmentation, plane: Plane) -> Report:
    """Area where the scale is known; no volume, and no mean of a display's grey levels."""
    tally(segmentation)  # refuses labels that nothing describes
    findings = []
    for segment in segmentation.segments:
        mask = segmentation.mask(segment.number, 0)
        findings.append(
            Finding(
                segment=segment,
                voxels=int(np.count_nonzero(mask)),
                volume_ml=None,
                mean=None,
                unit=segmentation.volume.unit,
                area_mm2=area_mm2(plane, mask),
            )
        )
    return Report(segmentation=segmentation, findings=tuple(findings))


def _intensity(segmentation: Segmentation, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the source values and number of voxels it is over, per label; padding left out."""
    volume, width = segmentation.volume, counts.shape[1]
    totals, measured = np.zeros(width), np.zeros(width, np.int64)
    # Slice by slice: bincount wants int64 labels and float64 weights, and copies of
    # a whole volume in those would be several times the volume.
    for k in np.flatnonzero(counts.any(axis=1)):
        if segmentation.overlapping:
            for number in np.flatnonzero(counts[k]):
                inside = segmentation.mask(int(number), int(k))
                if volume.padding is not None:
                    inside = inside & ~volume.padding[k]
                totals[number] += volume.array[k][inside].sum(dtype=np.float64)
                measured[number] += np.count_nonzero(inside)
            continue
        inside = segmentation.labels[k] != 0
        if volume.padding is not None:
            inside &= ~volume.padding[k]
        labels = segmentation.labels[k][inside]
        totals += np.bincount(labels, weights=volume.array[k][inside], minlength=width)
        measured += np.bincount(labels, minlength=width)
    return totals, measured


def measure_job(job: StudyJob) -> StudyJob:
    """`job` with a report per segmentation; one that is refused doesn't stop the others."""
    reports: list[Report] = []
    refused: list[Refused] = []
    for segmentation in job.segmentations:
        try:
            reports.append(measure(remark_coverage(segmentation)))
        except Refusal as refusal:
            refused.append(Refused(segmentation.volume.series_instance_uid, refusal.reason))
    return replace(job, reports=(*job.reports, *reports), refused=(*job.refused, *refused))
