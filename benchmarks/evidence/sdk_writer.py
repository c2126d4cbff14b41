"""The App SDK's built-in operators, as their `compute` calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RULES = '{"selections": [{"name": "CT", "conditions": {"Modality": "CT"}}]}'


def sdk(labels: np.ndarray, segments: int, source: Path, *, part: str) -> Callable[[Path], None]:
    """A pass: SEG and Basic Text SR into a folder, from the files or from the loaded series."""
    from monai.deploy.core import Application
    from monai.deploy.operators import (
        DICOMDataLoaderOperator,
        DICOMSegmentationWriterOperator,
        DICOMSeriesSelectorOperator,
        DICOMSeriesToVolumeOperator,
        DICOMTextSRWriterOperator,
    )
    from monai.deploy.operators.dicom_seg_writer_operator import SegmentDescription
    from monai.deploy.operators.dicom_utils import ModelInfo
    from pydicom.sr.codedict import codes

    class Empty(Application):
        def compose(self) -> None:
            """Only a home for the operators."""

    home = Empty(argv=["benchmark"])
    described = [
        SegmentDescription(
            segment_label=f"Ball {n}",
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_name="benchmark",
            algorithm_version="1.0.0",
        )
        for n in range(1, segments + 1)
    ]
    loader = DICOMDataLoaderOperator(home, input_folder=Path(), name="loader")
    selector = DICOMSeriesSelectorOperator(home, rules=RULES, name="selector")
    to_volume = DICOMSeriesToVolumeOperator(home, name="volume")
    seg = DICOMSegmentationWriterOperator(
        home, segment_descriptions=described, output_folder=Path(), name="seg"
    )
    maker = ModelInfo(creator="radloop", name="benchmark", version="1.0.0", uid="1.0.0")
    report = DICOMTextSRWriterOperator(home, output_folder=Path(), model_info=maker, name="sr")

    def selected() -> Any:
        return selector.filter(json.loads(RULES), loader.load_data_to_studies(source))

    ready = selected() if part == "write" else None

    def once(target: Path) -> None:
        chosen = ready
        if chosen is None:
            chosen = selected()
            image = to_volume.convert_to_image(chosen)
            assert image is not None and image.asnumpy().shape == labels.shape
        seg.process_images(labels, chosen, target)  # type: ignore[arg-type]  # takes arrays too
        series = chosen[0].selected_series[0].series
        report.write("\n".join(f"Ball {n}" for n in range(1, segments + 1)), series, target)

    return once
