"""Every structure by number, and nothing that needs a guideline.

docs/measurements.md defines each measurement; this is where they are put together. Each
segment is measured within its own box: the cost is that of the structures, not that of
the volume times their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy import ndimage

from operators.errors import Refusal
from operators.findings import concepts
from operators.findings.axes import Line, extents_mm, in_plane_axes, longest_line
from operators.findings.boxes import Box, bounding_boxes
from operators.findings.concepts import Intensity, intensity_of
from operators.findings.coverage import remark_coverage
from operators.findings.sides import check_sides
from operators.findings.surface import Surface, crossing_weights_mm2, measure_surface
from operators.findings.tally import tally
from operators.job import Code, Finding, Plane, Refused, Report, Segment, Segmentation, StudyJob
from operators.measured import Measurement
from operators.volume.scale import area_mm2

_26_NEIGHBOURS = np.ones((3, 3, 3), bool)
_STATISTICS = (
    ("minimum", concepts.MINIMUM, 0),
    ("percentile_05", concepts.PERCENTILE_05, 5),
    ("median", concepts.MEDIAN, 50),
    ("percentile_95", concepts.PERCENTILE_95, 95),
    ("maximum", concepts.MAXIMUM, 100),
)
_AT_ONCE = 1 << 15  # values in float64 at a time


def measure(segmentation: Segmentation) -> Report:
    """Measure every segment on the grid of its volume.

    Parameters
    ----------
    segmentation : Segmentation
        Labels on the grid of their volume.

    Returns
    -------
    Report
        One finding per segment, in the order of `segmentation.segments`, with its
        measurements; none where it was not found. A 2D image has an area only. The
        volume of its segmentation has gained remarks where a side is doubtful. Severity
        is NOT_ASSESSED: no rule was applied.

    Raises
    ------
    GridMismatch, UndescribedLabel
        See `tally`.
    """
    volume = segmentation.volume
    counts = tally(segmentation)
    found = [s for s in segmentation.segments if counts[:, s.number].any()]
    centroids: dict[Segment, np.ndarray] = {}
    measured: dict[Segment, tuple[Measurement, ...]] = {}
    if volume.plane is not None:
        centroids = dict.fromkeys(found, np.full(3, np.nan))
        for segment in found:
            mask = segmentation.mask(segment.number, 0)
            measured[segment] = (_area(volume.plane, mask),)
    elif found:
        boxes = bounding_boxes(segmentation, counts)
        weights_mm2, intensity = crossing_weights_mm2(volume.lps_from_index), intensity_of(volume)
        for segment in found:
            box = boxes[segment.number]
            mask = segmentation.mask(segment.number, box)
            if segment.laterality is not None:
                centroids[segment] = _centroid_lps_mm(mask, box, volume.lps_from_index)
            measured[segment] = tuple(
                _measure_mask(segmentation, mask, box, weights_mm2, intensity)
            )
    flags = check_sides(volume, centroids)
    if flags:
        volume = replace(volume, quality=(*volume.quality, *flags))
        segmentation = replace(segmentation, volume=volume)
    return Report(
        segmentation=segmentation,
        findings=tuple(
            Finding(
                segment=segment,
                voxels=int(counts[:, segment.number].sum()),
                unit=volume.unit,
                measurements=measured.get(segment, ()),
            )
            for segment in segmentation.segments
        ),
    )


def _area(plane: Plane, mask: np.ndarray) -> Measurement:
    """Area in mm2 where the scale is known for all of it, else in pixels.

    No statistics: grey levels of a 2D image are those of a display.
    """
    pixels = int(np.count_nonzero(mask))
    core = ndimage.binary_erosion(mask)
    at_edge = pixels - int(np.count_nonzero(core))
    area = area_mm2(plane, mask)
    pixel, unit = (1.0, concepts.PIXELS)
    if area is not None:
        pixel, unit = area / pixels, concepts.SQUARE_MILLIMETRE
    return Measurement("area", pixels * pixel, concepts.AREA, unit, uncertainty=at_edge * pixel / 2)


def _measure_mask(
    segmentation: Segmentation,
    mask: np.ndarray,
    box: Box,
    weights_mm2: np.ndarray,
    intensity: Intensity,
) -> Iterator[Measurement]:
    """All measurements of one segment of a stack, in the order a reader gets them."""
    volume = segmentation.volume
    surface = measure_surface(mask, weights_mm2)
    pieces, piece = _largest_piece(mask)
    yield from _size(mask, piece, box, volume.lps_from_index, surface)
    longest = longest_line(piece, box, volume.lps_from_index)
    del piece
    yield _length("long_axis_3d", concepts.LONG_AXIS_3D, longest)
    sides = (
        ("extent_left_right", concepts.WIDTH),
        ("extent_front_back", concepts.DEPTH),
        ("extent_head_feet", concepts.HEIGHT),
    )
    for (name, code), (size, off) in zip(
        sides, extents_mm(mask, volume.lps_from_index).T, strict=True
    ):
        yield Measurement(name, float(size), code, concepts.MILLIMETRE, uncertainty=float(off))
    yield Measurement(
        "surface_area", surface.area_mm2, concepts.SURFACE_AREA, concepts.SQUARE_MILLIMETRE
    )
    yield Measurement("components", float(pieces), concepts.COMPONENTS, concepts.NO_UNITS)
    array, core = volume.array[box], surface.core
    if volume.padding is not None:
        tissue = ~volume.padding[box]
        mask, core = mask & tissue, core & tissue
    yield from _statistics(array[mask], array[core], intensity)


def measure_size(mask: np.ndarray, lps_from_index: np.ndarray) -> tuple[Measurement, ...]:
    """Volume, long and short axis of a mask without its image.

    Parameters
    ----------
    mask : numpy.ndarray, shape (z, y, x), bool
        With at least one voxel.
    lps_from_index : numpy.ndarray, shape (4, 4)
        (i, j, k, 1) → LPS mm.

    Returns
    -------
    tuple of Measurement
        The same as `measure` gives for the same mask.
    """
    surface = measure_surface(mask, crossing_weights_mm2(lps_from_index))
    box = (slice(0, mask.shape[0]), slice(0, mask.shape[1]), slice(0, mask.shape[2]))
    return tuple(_size(mask, _largest_piece(mask)[1], box, lps_from_index, surface))


def _size(
    mask: np.ndarray, piece: np.ndarray, box: Box, lps_from_index: np.ndarray, surface: Surface
) -> Iterator[Measurement]:
    """Volume of all pieces, and the axes of the largest one."""
    voxel_ml = float(abs(np.linalg.det(lps_from_index[:3, :3])) / 1000.0)
    voxels = int(np.count_nonzero(mask))
    shell = voxels - int(np.count_nonzero(surface.core))
    yield Measurement(
        "volume",
        voxels * voxel_ml,
        concepts.VOLUME,
        concepts.MILLILITRE,
        uncertainty=shell * voxel_ml / 2,
    )
    long, short = in_plane_axes(piece, box, lps_from_index)
    yield _length("long_axis", concepts.LONG_AXIS, long)
    yield _length("short_axis", concepts.SHORT_AXIS, short)


def _length(name: str, code: Code, line: Line) -> Measurement:
    return Measurement(
        name,
        line.length_mm,
        code,
        concepts.MILLIMETRE,
        uncertainty=line.uncertainty_mm,
        axis=line.axis,
    )


def _largest_piece(mask: np.ndarray) -> tuple[int, np.ndarray]:
    """Number of connected pieces, and the mask of the one with most voxels."""
    labels, pieces = ndimage.label(mask, _26_NEIGHBOURS)
    if pieces == 1:
        return 1, mask
    voxels = np.zeros(pieces + 1, np.int64)
    for plane in labels:
        voxels += np.bincount(plane.ravel(), minlength=pieces + 1)
    return pieces, labels == 1 + int(np.argmax(voxels[1:]))


def _statistics(
    values: np.ndarray, core: np.ndarray, intensity: Intensity
) -> Iterator[Measurement]:
    """Of the source values; none where the source calls all of them padding.

    Parameters
    ----------
    values : numpy.ndarray, shape (n,)
        Under the mask, without padding.
    core : numpy.ndarray, shape (m,)
        The same without voxels at the surface, where two tissues may share a voxel.
    intensity : Intensity
        What they are.
    """
    if not len(values):
        return
    mean = float(values.mean(dtype=np.float64))
    off = abs(mean - float(core.mean(dtype=np.float64))) if len(core) else None
    squares = 0.0
    for first in range(0, len(values), _AT_ONCE):
        squares += float(np.square(values[first : first + _AT_ONCE] - mean).sum())
    spread = (squares / len(values)) ** 0.5
    order = np.percentile(values, [percent for _, _, percent in _STATISTICS])
    rows = [
        ("mean", concepts.MEAN, mean, off),
        ("standard_deviation", concepts.STANDARD_DEVIATION, spread, None),
        *(
            (name, derivation, float(value), None)
            for (name, derivation, _), value in zip(_STATISTICS, order, strict=True)
        ),
    ]
    for name, derivation, value, uncertainty in rows:
        code, how = intensity.coded(derivation)
        yield Measurement(name, value, code, intensity.unit, how, uncertainty)


def _centroid_lps_mm(mask: np.ndarray, box: Box, lps_from_index: np.ndarray) -> np.ndarray:
    """Centre of gravity of a mask, shape (3,)."""
    ijk = []
    for axis in (2, 1, 0):
        voxels = np.count_nonzero(mask, axis=tuple({0, 1, 2} - {axis}))
        ijk.append(box[axis].start + voxels @ np.arange(len(voxels)) / voxels.sum())
    return np.asarray(lps_from_index[:3] @ (*ijk, 1.0))


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
