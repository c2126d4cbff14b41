"""Results as different as our inputs are, for whoever judges what we write about them.

Labels are made here, not by a network: what is judged is the writing. Volumes are put
together by our own VolumeBuilder, from phantoms on disk and from real and odd series.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage, PositronEmissionTomographyImageStorage

from operators.findings.coverage import remark_coverage
from operators.findings.measure import measure
from operators.job import Code, Instance, Report, Segmentation, Series, Volume
from operators.reading import Box as FoundBox
from operators.reading import ClassScores, OperatingPoint, OutputClass, Reading
from operators.study.read import read_drop
from operators.volume.build import build_volumes
from operators.volume.planar import PlanarChoice, build_planar
from tests.operators.scene import MODEL, make_segmentation, segment, two_glands
from tests.series import Ball, axis_directions, centred_grid, oblique

SHAPE = (12, 22, 27)
SPACING_ZYX_MM = (2.5, 0.8, 1.1)
JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"
GREEK = "Διονυσιος"


@dataclass(frozen=True)
class Made:
    """A result that is to be written.

    Attributes
    ----------
    about : Report or Reading
        As the graph hands it to the writer.
    source : Path
        A file that it was made from, whose own faults it inherits.
    """

    about: Report | Reading
    source: Path


Make = Callable[[Path, Path], Made]  # (folder to write a phantom into, RADLOOP_DATA) → result


def real_segmentation(paths: list[Path], *, part: int = 0) -> Segmentation:
    """A series of a scanner with a box in its middle as the mandible."""
    instances = tuple(
        Instance(path, pydicom.dcmread(path, stop_before_pixels=True)) for path in paths
    )
    header = instances[0].header
    series = Series(str(header.SeriesInstanceUID), str(header.Modality), instances)
    return boxed(build_volumes(series, "test_bundle")[part])


def boxed(volume: Volume) -> Segmentation:
    """A box off the middle of a volume as the mandible."""
    labels = np.zeros(volume.array.shape, np.uint8)
    labels[tuple(slice(size // 3, max(size // 2, size // 3 + 1)) for size in labels.shape)] = 1
    return Segmentation(volume, labels, (segment(1, "mandible"),), MODEL)


def finished(segmentation: Segmentation) -> Report:
    """As the graph's Findings leave it."""
    return measure(remark_coverage(segmentation))


def phantom(
    folder: Path,
    _data: Path,
    *,
    directions: np.ndarray | None = None,
    spacing_zyx_mm: tuple[float, float, float] = SPACING_ZYX_MM,
    edit: Callable[[Dataset], None] | None = None,
    change: Callable[[Segmentation], Segmentation] | None = None,
    count: int = 1,
) -> Made:
    """Balls in a CT; `edit` changes every header, `change` the segmentation."""
    centre = (10.0, -40.0, 70.0)
    grid = centred_grid(SHAPE, spacing_zyx_mm, directions, centre_lps_mm=centre)
    kinds = [("parotid", "left"), ("larynx", None), ("mandible", None)]
    segments = [segment(2 + n, *kinds[n % 3]) for n in range(count)]
    away = np.array([[1.0, -1.0, 2.0], [-6.0, 3.0, -4.0], [6.0, 4.0, 4.0]])
    radius_mm = 2.5 if count > 1 else 5.0
    balls = [
        Ball(tuple(np.add(centre, away[n % 3] * (1 + n // 3))), radius_mm, 10 * (2 + n))
        for n in range(count)
    ]
    made = make_segmentation(
        folder, balls, SHAPE, grid, segments, edit=(lambda d, _k: edit(d)) if edit else None
    )
    if change is not None:
        made = change(made)
    return Made(finished(made), next(iter(sorted(folder.glob("*.dcm")))))


def glands(folder: Path, _data: Path) -> Made:
    """Oblique and anisotropic, numbers with a gap, one structure not found."""
    made = two_glands(folder).segmentation
    return Made(finished(made), next(iter(sorted(folder.glob("*.dcm")))))


def nothing_found(segmentation: Segmentation) -> Segmentation:
    return replace(segmentation, labels=np.zeros_like(segmentation.labels))


def one_slice(segmentation: Segmentation) -> Segmentation:
    labels = segmentation.labels.copy()
    k = int(np.argmax((labels > 0).sum(axis=(1, 2))))
    labels[:k] = labels[k + 1 :] = 0
    return replace(segmentation, labels=labels)


def overlapping(segmentation: Segmentation) -> Segmentation:
    """Two structures that share voxels, as planes of bits."""
    labels = np.zeros_like(segmentation.labels)
    labels[3:8, 5:15, 5:15] |= 1
    labels[5:10, 10:20, 10:20] |= 2
    segments = (segment(1, "parotid", "left"), segment(2, "mandible"))
    return replace(segmentation, labels=labels, segments=segments, overlapping=True)


def prompted(segmentation: Segmentation) -> Segmentation:
    prompt = (("prompt_box", "1,2,30,40"), ("prompt_slice", "2.25.77"))
    return replace(segmentation, model=replace(MODEL, prompt=prompt))


def named(character_set: str | list[str], name: str, header: Dataset) -> None:
    header.SpecificCharacterSet = character_set
    header.PatientName = name


def odd(header: Dataset) -> None:
    """Values that the standard forbids and archives hold."""
    with pydicom.config.disable_value_validation():
        header.StudyID = "IBSI_1_STS_002_CT"  # 17 characters in an SH
        header.PatientSex = "unknown"
        header.PatientBirthDate = "1950.13.45"
        header.SeriesNumber = "9999999"


def bare(header: Dataset) -> None:
    """Empty where the standard lets an attribute be empty."""
    for keyword in ("PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "StudyTime"):
        setattr(header, keyword, "")


def as_mr(header: Dataset) -> None:
    header.SOPClassUID, header.Modality = MRImageStorage, "MR"
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType", "KVP"):
        del header[keyword]


def as_suv(header: Dataset) -> None:
    header.SOPClassUID, header.Modality = PositronEmissionTomographyImageStorage, "PT"
    header.Units, header.RescaleType = "GML", "SUV"


def unit(name: Any, segmentation: Segmentation) -> Segmentation:
    return replace(segmentation, volume=replace(segmentation.volume, unit=name))


def real(kind: str, folder: str, _folder: Path, data: Path) -> Made:
    paths = sorted((data / "sts-ct-mr-pet-dicom" / folder / kind).glob("*.dcm"))
    return Made(finished(real_segmentation(paths)), paths[0])


def odd_case(name: str, _folder: Path, data: Path, *, part: int = 0) -> Made:
    (study,) = read_drop(data / "odd-series" / "cases" / name).studies
    series = study.series[0]
    volume = build_volumes(series, "test_bundle")[part]
    return Made(finished(boxed(volume)), series.instances[0].path)


def planar(file: str, frame: int | None, _folder: Path, data: Path) -> Made:
    path = data / file
    header = pydicom.dcmread(path, stop_before_pixels=True)
    series = Series(str(header.SeriesInstanceUID), str(header.Modality), (Instance(path, header),))
    return Made(finished(boxed(build_planar(series, PlanarChoice("", frame)))), path)


CLASSES = (
    OutputClass("nodule", "Nodule", Code("27925004", "SCT", "Nodule")),
    OutputClass("dense", "Dense"),
)


def reading(what: str, folder: Path, data: Path) -> Made:
    """Classes of a volume or of its slices, boxes, or a detector that found nothing."""
    made = phantom(folder, data)
    assert isinstance(made.about, Report)
    volume = made.about.segmentation.volume
    said = Reading(volume, CLASSES, MODEL, detector=what in ("boxes", "no box"))
    if what == "classes":
        point = OperatingPoint(CLASSES[0].name, 0.6, 0.9, 0.8, "a set", 99)
        said = replace(said, scores=(ClassScores(None, (0.8, 0.2)),), operating_point=point)
    elif what == "classes by slice":
        scores = tuple(ClassScores(k, (0.3, 0.7)) for k in range(len(SHAPE)))
        said = replace(said, scores=scores, activation="softmax")
    elif what == "boxes":
        edges = ((6.0, 0.0, 0.0), (0.0, 5.0, 0.0), (0.0, 0.0, 7.5))
        places = ((10.0, -40.0, 70.0), (14.0, -43.0, 75.0))
        said = replace(
            said, boxes=tuple(FoundBox(n, 0.9 - n / 2, at, edges) for n, at in enumerate(places))
        )
    return Made(said, made.source)


FLIPPED = next(a for a in axis_directions() if np.linalg.det(a) > 0 and a[0, 0] == a[1, 1] == -1)
SAGITTAL = next(a for a in axis_directions() if np.linalg.det(a) > 0 and abs(a[0, 2]) == 1)
CORONAL = next(a for a in axis_directions() if np.linalg.det(a) > 0 and abs(a[1, 2]) == 1)

PHANTOMS: dict[str, Make] = {
    "CT, one structure": phantom,
    "CT, oblique, two of three structures": glands,
    "CT, 12 structures": partial(phantom, count=12),
    "CT, rows and columns backwards": partial(phantom, directions=FLIPPED),
    "CT, sagittal": partial(phantom, directions=SAGITTAL),
    "CT, coronal, two structures": partial(phantom, directions=CORONAL, count=2),
    "CT, oblique": partial(phantom, directions=oblique(25, -35)),
    "CT, thick slices": partial(phantom, spacing_zyx_mm=(7.0, 0.5, 0.9)),
    "CT, mask on one slice": partial(phantom, change=one_slice),
    "CT, overlapping": partial(phantom, change=overlapping),
    "CT, nothing found": partial(phantom, change=nothing_found),
    "CT, prompted": partial(phantom, change=prompted),
    "CT, Japanese name": partial(phantom, edit=partial(named, ["", "ISO 2022 IR 87"], JAPANESE)),
    "CT, Greek name": partial(phantom, edit=partial(named, "ISO_IR 126", GREEK)),
    "CT, odd header values": partial(phantom, edit=odd),
    "CT, empty header values": partial(phantom, edit=bare),
    "MR": partial(phantom, edit=as_mr, change=partial(unit, "arbitrary"), count=2),
    "PET, SUV": partial(phantom, edit=as_suv, change=partial(unit, "SUVbw"), count=2),
    "classes of a volume": partial(reading, "classes"),
    "classes of slices": partial(reading, "classes by slice"),
    "boxes": partial(reading, "boxes"),
    "a detector that found nothing": partial(reading, "no box"),
}
_OWN = "xray-us-pathology"
REAL: dict[str, Make] = {
    "CT of a scanner": partial(real, "CT", "STS_002"),
    "MR of a scanner": partial(real, "MR_T1", "STS_002"),
    "PET of a scanner": partial(real, "PET", "STS_002"),
    "odd: second of two phases": partial(odd_case, "04-two-phases", part=1),
    "odd: duplicate": partial(odd_case, "03a-duplicate-position"),
    "odd: backwards normal": partial(odd_case, "14b-row-direction-negative"),
    "odd: slope by slice": partial(odd_case, "13-slope-per-slice"),
    "odd: padding": partial(odd_case, "16c-padding-value"),
    "odd: tilted gantry": partial(odd_case, "01-gantry-tilt"),
    "odd: jitter": partial(odd_case, "20-position-jitter"),
    "DX": partial(planar, "highdicom/dx_image.dcm", None),
    "CR without spacing": partial(planar, f"{_OWN}/xray/RG3_J2KI.dcm", None),
    "ultrasound frame": partial(planar, f"{_OWN}/us/OBXXXX1A_rle_2frame.dcm", 2),
    "slide tile": partial(planar, f"{_OWN}/pathology/he_region_1024_sm.dcm", 6),
}
