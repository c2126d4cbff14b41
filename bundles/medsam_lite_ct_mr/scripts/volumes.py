"""The data sets as volumes with labels: one shape for NIfTI and DICOM, LPS, axes (z, y, x).

Which patients may be seen by which step is decided here and only here: by the frozen
`splits.json` of the two sets that are trained on. The other sets are for tests alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
from scipy import ndimage

from operators.job import Unit, Volume
from operators.models.medsam.picture import display_window
from operators.study.read import read_drop
from operators.volume.build import build_volumes

Split = Literal["train", "validation", "test"]

ORGANS = {
    1: "brainstem",
    2: "spinal_cord",
    3: "parotid_right",
    4: "parotid_left",
    5: "mandible",
    6: "larynx",
    7: "esophagus",
}
ABDOMEN_FOLDER = "totalseg-ct-dicom"
SARCOMA_FOLDER = "sts-ct-mr-pet-dicom"
TUMOUR = 1


@dataclass(frozen=True)
class Structure:
    """A name, and the label ids that it is made of."""

    name: str
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Labelled:
    """One volume of one patient, and what is known to be in it.

    Attributes
    ----------
    data : str
        Set and, where it has several, modality: ``"sarcoma MR"``.
    patient : str
        Whose it is; two volumes may be of one patient.
    case : str
        Names the volume within its set.
    array : numpy.ndarray, shape (z, y, x)
        Values; x grows to the patient's left, y to the back.
    labels : numpy.ndarray, shape (z, y, x), uint8
        Label ids on the same grid.
    pixel_mm : float
        The larger side of a pixel.
    window : tuple of float
        Lowest and highest value that is told apart.
    structures : tuple of Structure
        Those that were outlined in this patient. One that is not here is unlabelled,
        not absent.
    """

    data: str
    patient: str
    case: str
    array: np.ndarray
    labels: np.ndarray
    pixel_mm: float
    window: tuple[float, float]
    structures: tuple[Structure, ...]

    def mask(self, structure: Structure) -> np.ndarray:
        """Where the structure is, shape (z, y, x), bool."""
        return np.isin(self.labels, structure.labels)


@dataclass(frozen=True)
class Source:
    """A volume that is not read yet: reading all of them at once would fill the memory."""

    data: str
    patient: str
    case: str
    read: Callable[[], Labelled]


def head_neck(root: Path, split: Split) -> Iterator[Source]:
    """Patients of one frozen list of openkbp-hn-ct."""
    folder = root / "openkbp-hn-ct"
    outlined = json.loads((folder / "labelled.json").read_text())
    for case in json.loads((folder / "splits.json").read_text())[split]:
        known = tuple(Structure(name, (k,)) for k, name in ORGANS.items() if name in outlined[case])

        def read(case: str = case, known: tuple[Structure, ...] = known) -> Labelled:
            files = folder / "ct" / f"{case}.nii.gz", folder / "label" / f"{case}.nii.gz"
            return _from_nifti("head-neck CT", case, case, *files, "HU", known)

        yield Source("head-neck CT", case, case, read)


def hippocampus(root: Path, split: Split) -> Iterator[Source]:
    """Cases of one frozen list of hippocampus-mr; two cases may be of one patient."""
    folder = root / "hippocampus-mr"
    splits = json.loads((folder / "splits.json").read_text())
    patient_of = {case: who for who, cases in splits["patients"].items() for case in cases}
    known = (
        Structure("anterior", (1,)),
        Structure("posterior", (2,)),
        Structure("hippocampus", (1, 2)),
    )
    for case in splits[split]:

        def read(case: str = case) -> Labelled:
            files = folder / "images" / f"{case}.nii.gz", folder / "labels" / f"{case}.nii.gz"
            return _from_nifti("hippocampus MR", patient_of[case], case, *files, "arbitrary", known)

        yield Source("hippocampus MR", patient_of[case], case, read)


def abdomen(root: Path) -> Iterator[Source]:
    """The one abdominal CT; its label map is a model's, so it compares methods only."""
    folder = root / ABDOMEN_FOLDER
    names = json.loads((folder / "labels.json").read_text())["example_seg_dicom"]
    known = tuple(Structure(entry["name"], (int(k),)) for k, entry in names.items())

    def read() -> Labelled:
        volume = _from_dicom(folder / "ct-repaired")
        labels = _on_grid(folder / "example_seg_dicom.nii.gz", volume)
        return _labelled("abdominal CT", "example", "example", volume, labels, known)

    yield Source("abdominal CT", "example", "example", read)


def sarcoma(root: Path, modality: Literal["CT", "MR_T1", "PET"]) -> Iterator[Source]:
    """One modality of the three sarcoma patients."""
    data = f"sarcoma {modality.removesuffix('_T1')}"
    for folder in sorted((root / SARCOMA_FOLDER).glob("STS_*")):

        def read(folder: Path = folder) -> Labelled:
            volume = _from_dicom(folder / modality)
            labels = _on_grid(folder / f"mask_{modality}.nii.gz", volume)
            known = (Structure("tumour", (TUMOUR,)),)
            return _labelled(data, folder.name, folder.name, volume, labels, known)

        yield Source(data, folder.name, folder.name, read)


def trained_on(root: Path, split: Split) -> list[Source]:
    """One list of both sets whose training patients the shipped weights have seen."""
    return [*head_neck(root, split), *hippocampus(root, split)]


def never_trained_on(root: Path) -> list[Source]:
    """Sets of which no patient was seen, for forgetting."""
    return [
        *abdomen(root),
        *sarcoma(root, "CT"),
        *sarcoma(root, "MR_T1"),
        *sarcoma(root, "PET"),
    ]


def _from_nifti(
    data: str,
    patient: str,
    case: str,
    image: Path,
    label: Path,
    unit: Unit,
    known: tuple[Structure, ...],
) -> Labelled:
    """Both files in the order of a DICOM series: slices upwards, rows to the back."""
    values, lps_from_index = _lps(image)
    labels, _ = _lps(label)
    volume = Volume(values.astype(np.float32), lps_from_index, unit, "", (), "", "")
    return _labelled(data, patient, case, volume, labels.astype(np.uint8), known)


def _lps(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array (z, y, x), x to the left and y to the back, and a diagonal matrix of its spacing."""
    image = nibabel.as_closest_canonical(nibabel.load(file))
    array = np.asanyarray(image.dataobj)[::-1, ::-1].transpose(2, 1, 0)
    return np.ascontiguousarray(array), np.diag([*image.header.get_zooms()[:3], 1.0])


def _from_dicom(folder: Path) -> Volume:
    series = read_drop(folder).studies[0].series[0]
    return build_volumes(series, "evaluation")[0]


def _on_grid(label: Path, volume: Volume) -> np.ndarray:
    """A label map on the grid of a DICOM volume, by patient coordinates, nearest neighbour."""
    image = nibabel.load(label)
    ras_from_lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    label_from_index = np.linalg.inv(image.affine) @ ras_from_lps @ volume.lps_from_index
    flip = np.eye(4)[[2, 1, 0, 3]]  # (i, j, k) and array axes (k, j, i)
    matrix = label_from_index @ flip
    return ndimage.affine_transform(
        np.asanyarray(image.dataobj).astype(np.uint8),
        matrix[:3, :3],
        matrix[:3, 3],
        output_shape=volume.array.shape,
        order=0,
    )


def _labelled(
    data: str,
    patient: str,
    case: str,
    volume: Volume,
    labels: np.ndarray,
    known: tuple[Structure, ...],
) -> Labelled:
    pixel_mm = max(volume.spacing_zyx_mm[1:])
    window = display_window(volume)
    return Labelled(data, patient, case, volume.array, labels, pixel_mm, window, known)
