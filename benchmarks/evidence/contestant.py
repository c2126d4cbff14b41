"""One contestant in its own process: ``python -m benchmarks.evidence.contestant WHO IN OUT N``.

Prints one JSON line a pass: seconds, and how far the resident set rose (the
kernel's own high-water mark, set back before the pass) above where it stood
before the pass, and above where it stood after the imports: what an earlier pass
left behind counts in the second only.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.evidence.phantom import SEGMENTS, labels_of

STATUS = Path("/proc/self/status")


def memory_kb(field: str) -> int:
    """VmRSS or VmHWM of this process, kB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def radloop(labels: np.ndarray) -> Callable[[Path, Path], None]:
    """Our functions, as the operators call them."""
    from operators.evidence.write import write_evidence
    from operators.findings.measure import measure
    from operators.job import Code, ModelIdentity, Segment, Segmentation
    from operators.study.read import read_drop
    from operators.study.select import Accepts, select
    from operators.volume.build import build_volumes

    structure = Code("91723000", "SCT", "Anatomical Structure")
    liver = Code("10200004", "SCT", "Liver")
    segments = tuple(
        Segment(n, f"ball_{n}", f"Ball {n}", structure, liver, (25 * n, 255 - 20 * n, 90))
        for n in range(1, SEGMENTS + 1)
    )
    model = ModelIdentity("benchmark", "1.0.0", "0" * 64, "radloop", "none")
    accepts = {"benchmark": Accepts.from_mapping({"modality": ["CT"]})}

    def once(source: Path, target: Path) -> None:
        matches, _ = select(read_drop(source).studies, accepts)
        volume = build_volumes(matches[0].series, "benchmark")[0]
        segmentation = Segmentation(volume, labels, segments, model)
        write_evidence(measure(segmentation), target, "20260101120000")

    return once


def sdk(labels: np.ndarray) -> Callable[[Path, Path], None]:
    """The App SDK's built-in operators, as their `compute` calls them."""
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
    rules = '{"selections": [{"name": "CT", "conditions": {"Modality": "CT"}}]}'
    described = [
        SegmentDescription(
            segment_label=f"Ball {n}",
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_name="benchmark",
            algorithm_version="1.0.0",
        )
        for n in range(1, SEGMENTS + 1)
    ]
    loader = DICOMDataLoaderOperator(home, input_folder=Path(), name="loader")
    selector = DICOMSeriesSelectorOperator(home, rules=rules, name="selector")
    to_volume = DICOMSeriesToVolumeOperator(home, name="volume")
    seg = DICOMSegmentationWriterOperator(
        home, segment_descriptions=described, output_folder=Path(), name="seg"
    )
    maker = ModelInfo(creator="radloop", name="benchmark", version="1.0.0", uid="1.0.0")
    report = DICOMTextSRWriterOperator(home, output_folder=Path(), model_info=maker, name="sr")

    def once(source: Path, target: Path) -> None:
        studies = loader.load_data_to_studies(source)
        selected = selector.filter(json.loads(rules), studies)
        image = to_volume.convert_to_image(selected)
        assert image is not None and image.asnumpy().shape == labels.shape
        seg.process_images(labels, selected, target)  # type: ignore[arg-type]  # takes arrays too
        series = selected[0].selected_series[0].series
        report.write("\n".join(f"Ball {n}" for n in range(1, SEGMENTS + 1)), series, target)

    return once


def main() -> None:
    """Run as many passes as asked."""
    who, source, target, passes = sys.argv[1:]
    labels = labels_of(len(list(Path(source).iterdir())))
    once = {"radloop": radloop, "sdk": sdk}[who](labels)
    imported_kb = memory_kb("VmRSS")
    for number in range(int(passes)):
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
        before_kb = memory_kb("VmRSS")
        started = time.perf_counter()
        once(Path(source), Path(target) / str(number))
        seconds = time.perf_counter() - started
        peak_kb = memory_kb("VmHWM")
        measured = {
            "seconds": seconds,
            "added_mb": (peak_kb - before_kb) / 1024,
            "held_mb": (peak_kb - imported_kb) / 1024,
        }
        print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
