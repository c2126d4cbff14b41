"""A structure with numbers of one's choice, for rules."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydicom.dataset import Dataset

from operators.job import Code, Finding, Report, Segment, Segmentation, Volume
from operators.measured import Measurement
from tests.operators.scene import MODEL

LEFT = Code("7771000", "SCT", "Left")


def measurement(
    name: str, value: float, unit: str, uncertainty: float | None = None
) -> Measurement:
    return Measurement(
        name, value, Code("0", "99TEST", name), Code(unit, "UCUM", unit), uncertainty=uncertainty
    )


def report(
    code: str,
    measurements: tuple[Measurement, ...],
    *,
    modality: str = "CT",
    laterality: Code | None = None,
    label: str = "Structure 1",
    header: Mapping[str, str] | None = None,
    labels: np.ndarray | None = None,
    scheme: str = "SCT",
) -> Report:
    """A report about one segment that, unless `labels` say so, touches no side."""
    if labels is None:
        labels = np.zeros((3, 4, 5), np.uint8)
        labels[1, 1:3, 1:4] = 1
    headers = []
    for _ in labels:
        one = Dataset()
        one.Modality = modality
        for keyword, value in (header or {}).items():
            setattr(one, keyword, value)
        headers.append(one)
    volume = Volume(
        array=np.zeros(labels.shape, np.int16),
        lps_from_index=np.diag([1.0, 1.0, 3.0, 1.0]),
        unit="HU" if modality == "CT" else "arbitrary",
        frame_of_reference_uid="1.2.3",
        headers=tuple(headers),
        series_instance_uid="1.2.3.4",
        bundle="test_bundle",
    )
    segment = Segment(
        number=1,
        name="structure_1",
        label=label,
        category=Code("91723000", "SCT", "Anatomical Structure"),
        type=Code(code, scheme, "type"),
        colour_rgb=(200, 100, 50),
        laterality=laterality,
    )
    finding = Finding(
        segment=segment,
        voxels=int(labels.sum()),
        unit=volume.unit,
        measurements=measurements,
    )
    return Report(Segmentation(volume, labels, (segment,), MODEL), (finding,))
