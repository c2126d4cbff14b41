"""A phantom on disk, its volume and the labels that a perfect network would give.

The volume is put together here from the files, not by our VolumeBuilder, so that
a test of what is written can't be led astray by how it was read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from operators.findings.measure import measure
from operators.job import Code, ModelIdentity, Report, Segment, Segmentation, Volume
from tests.series import Ball, Box, centred_grid, oblique, render, write_ct_series

RECORDED_AT = "20240506070809"
SIDES = {
    "left": Code("7771000", "SCT", "Left"),
    "right": Code("24028007", "SCT", "Right"),
}
KINDS = {
    "parotid": Code("45289007", "SCT", "Parotid gland"),
    "mandible": Code("91609006", "SCT", "Mandible"),
    "larynx": Code("4596009", "SCT", "Larynx"),
}


def segment(number: int, kind: str, side: str | None = None) -> Segment:
    """A segment of the head and neck; colours differ by number."""
    name = f"{kind}_{side}" if side else kind
    return Segment(
        number=number,
        name=name,
        label=name.replace("_", " ").capitalize(),
        category=Code("91723000", "SCT", "Anatomical Structure"),
        type=KINDS[kind],
        colour_rgb=(230, 40 + 20 * (number % 8), 60),
        laterality=SIDES[side] if side else None,
    )


MODEL = ModelIdentity(
    name="test_bundle",
    version="1.2.3",
    weights_sha256="0123456789abcdef" * 4,
    manufacturer="radloop tests",
    runtime="torch-cpu-float32",
)


def make_segmentation(
    folder: Path,
    shapes: Sequence[Ball | Box],
    shape_zyx: tuple[int, int, int],
    lps_from_index: np.ndarray,
    segments: Sequence[Segment],
    *,
    edit: Callable[[Dataset, int], None] | None = None,
) -> Segmentation:
    """Write a CT series of `shapes` and label every voxel by its HU.

    The n-th shape must have HU ``10 * segments[n].number``; segments beyond the
    shapes stay empty.
    """
    array = render(shapes, shape_zyx, lps_from_index)
    paths = write_ct_series(folder, array, lps_from_index, edit=edit)
    headers = tuple(pydicom.dcmread(path, stop_before_pixels=True) for path in paths)
    volume = Volume(
        array=array,
        lps_from_index=lps_from_index,
        unit="HU",
        frame_of_reference_uid=str(headers[0].FrameOfReferenceUID),
        headers=headers,
        series_instance_uid=str(headers[0].SeriesInstanceUID),
        bundle="test_bundle",
    )
    labels = np.where(array > 0, array // 10, 0).astype(np.uint8)
    return Segmentation(volume=volume, labels=labels, segments=tuple(segments), model=MODEL)


def two_glands(folder: Path, *, edit: Callable[[Dataset, int], None] | None = None) -> Report:
    """Left parotid and mandible on an oblique grid; the larynx is looked for and not there.

    The numbers of the labels have a gap, and rows x columns is no multiple of 8.
    """
    shape = (14, 25, 31)
    grid = centred_grid(shape, (2.5, 0.8, 1.1), oblique(20, 10), centre_lps_mm=(10.0, -40.0, 70.0))
    shapes = [
        Ball(centre_lps_mm=(5.0, -42.0, 68.0), radius_mm=5.0, hu=20),
        Box(centre_lps_mm=(17.0, -38.0, 72.0), size_lps_mm=(6.0, 5.0, 9.0), hu=70),
    ]
    segments = [segment(2, "parotid", "left"), segment(5, "larynx"), segment(7, "mandible")]
    return measure(make_segmentation(folder, shapes, shape, grid, segments, edit=edit))
