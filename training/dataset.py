"""Data sets on disk: NIfTI files and the manifest whose sha256 is the data set's name.

The manifest holds UIDs, digests and salted keys, and nothing else of a patient. It has
no date, so that the same content has the same name.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from operators.job import Segment, Unit, Volume
from operators.models.bundle import RAS_FROM_LPS
from training.holdout import Split
from training.refusals import DatasetChanged, NothingCollected, StateDamaged
from training.state import StateDir, write_durably

MANIFEST = "manifest.json"
GZIP_LEVEL = 1


@dataclass(frozen=True)
class Case:
    """One confirmed result as training data.

    Attributes
    ----------
    case : str
        Its name: a hash of patient, series and part.
    patient : str
        Salted key; equal for one person here.
    split : Split
        The patient's.
    study_instance_uid, series_instance_uid, part : str
        The source volume.
    sr_sop_instance_uid, sr_sha256, seg_sop_instance_uid, seg_sha256 : str
        The confirmed result.
    weights_sha256 : str
        Which model drew the labels; a label that was confirmed unchanged favours it.
    labelled : tuple of str
        Structures with voxels. Another one is *unlabelled, not absent*.
    image, label : str
        NIfTI files in the data set's folder.
    image_sha256, label_sha256 : str
        Of these files.
    """

    case: str
    patient: str
    split: Split
    study_instance_uid: str
    series_instance_uid: str
    part: str
    sr_sop_instance_uid: str
    sr_sha256: str
    seg_sop_instance_uid: str
    seg_sha256: str
    weights_sha256: str
    labelled: tuple[str, ...]
    image: str
    image_sha256: str
    label: str
    label_sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a data set holds.

    Attributes
    ----------
    bundle, bundle_version : str
        Whose labels these are.
    unit : Unit
        Of the images.
    label_names : mapping of str to int
        Label value by structure.
    cases : tuple of Case
        By name.
    sha256 : str
        Of the manifest's bytes; "" before it is written.
    folder : Path
        Where it lies.
    """

    bundle: str
    bundle_version: str
    unit: Unit
    label_names: dict[str, int]
    cases: tuple[Case, ...]
    sha256: str
    folder: Path

    def of(self, split: Split) -> tuple[Case, ...]:
        """Cases of one split."""
        return tuple(case for case in self.cases if case.split == split)

    def patients(self, split: Split) -> int:
        """Patients of one split."""
        return len({case.patient for case in self.of(split)})


def encode_manifest(
    bundle: str,
    bundle_version: str,
    unit: Unit | Literal["any"],
    segments: tuple[Segment, ...],
    cases: tuple[Case, ...],
) -> bytes:
    """The manifest's bytes: their sha256 is the data set's name."""
    content = {
        "schema": 1,
        "bundle": bundle,
        "bundle_version": bundle_version,
        "unit": unit,
        "label_names": {segment.name: segment.number for segment in segments},
        "cases": [asdict(case) for case in sorted(cases, key=lambda case: case.case)],
    }
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def read_manifest(state: StateDir, sha256: str) -> Manifest:
    """A data set by its name.

    Raises
    ------
    DatasetChanged
        There is no such manifest, or its bytes are not those of its name.
    """
    file = state.datasets / sha256 / MANIFEST
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise DatasetChanged(file) from error
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise DatasetChanged(file)
    content: dict[str, Any] = json.loads(raw)
    cases = tuple(
        Case(**{**entry, "labelled": tuple(entry["labelled"])}) for entry in content["cases"]
    )
    return Manifest(
        bundle=content["bundle"],
        bundle_version=content["bundle_version"],
        unit=content["unit"],
        label_names=content["label_names"],
        cases=cases,
        sha256=sha256,
        folder=file.parent,
    )


def _latest_file(state: StateDir, bundle: str) -> Path:
    return state.datasets / f"{bundle}.latest.json"


def point_to_latest(state: StateDir, bundle: str, sha256: str) -> None:
    """Note which data set was collected last."""
    content = json.dumps({"manifest": sha256}) + "\n"
    write_durably(_latest_file(state, bundle), content.encode())


def latest_manifest(state: StateDir, bundle: str) -> Manifest:
    """The data set that was collected last.

    Raises
    ------
    NothingCollected
        There is none.
    StateDamaged, DatasetChanged
        Something was changed.
    """
    file = _latest_file(state, bundle)
    try:
        sha256 = str(json.loads(file.read_text())["manifest"])
    except FileNotFoundError as error:
        raise NothingCollected(bundle) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateDamaged(file, "is damaged") from error
    return read_manifest(state, sha256)


def file_sha256(file: Path) -> str:
    """Of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify_case(manifest: Manifest, case: Case) -> None:
    """Hash both files of a case.

    Raises
    ------
    DatasetChanged
        One is missing, or is not the one that was collected.
    """
    for name, expected in ((case.image, case.image_sha256), (case.label, case.label_sha256)):
        file = manifest.folder / name
        if not file.is_file() or file_sha256(file) != expected:
            raise DatasetChanged(file)


def write_nifti(array_zyx: np.ndarray, lps_from_index: np.ndarray, file: Path) -> str:
    """Write a compressed NIfTI-1 file; the same array gives the same bytes.

    Parameters
    ----------
    array_zyx : numpy.ndarray, shape (z, y, x)
        Stored with axes (x, y, z), in its own dtype.
    lps_from_index : numpy.ndarray, shape (4, 4)
        (i, j, k, 1) → LPS mm; stored as sform in RAS (float32, as NIfTI has it).
    file : Path
        Ends in ``.nii.gz``.

    Returns
    -------
    str
        sha256 of the file.
    """
    import nibabel

    image = nibabel.Nifti1Image(array_zyx.transpose(2, 1, 0), RAS_FROM_LPS @ lps_from_index)
    image.header.set_xyzt_units("mm")
    with (
        file.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=GZIP_LEVEL, fileobj=raw, mtime=0) as packed,
    ):
        packed.write(image.to_bytes())
    return file_sha256(file)


def read_nifti(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array (z, y, x) and affine (i, j, k, 1) → LPS mm of a file of `write_nifti`."""
    import nibabel

    image = nibabel.Nifti1Image.from_filename(file)
    array = np.ascontiguousarray(np.asanyarray(image.dataobj).transpose(2, 1, 0))
    affine: np.ndarray = RAS_FROM_LPS @ image.affine
    return array, affine


def load_case(manifest: Manifest, case: Case) -> tuple[Volume, np.ndarray]:
    """A case as the graph would have it: volume and label map, shape (z, y, x).

    The volume has no headers: nothing is written from it.

    Raises
    ------
    DatasetChanged
        A file is not the one that was collected.
    """
    verify_case(manifest, case)
    array, affine = read_nifti(manifest.folder / case.image)
    labels, _ = read_nifti(manifest.folder / case.label)
    volume = Volume(
        array=array,
        lps_from_index=affine,
        unit=manifest.unit,
        frame_of_reference_uid="",
        headers=(),
        series_instance_uid=case.series_instance_uid,
        bundle=manifest.bundle,
        part=case.part,
    )
    return volume, labels


def datalist(manifest: Manifest, split: Split) -> list[dict[str, object]]:
    """Cases of one split as a MONAI data list.

    Returns
    -------
    list of dict
        `image`, `label` (paths), `case`, and `labelled`: one float per label value from
        0 to the highest, 1.0 where that structure is labelled. Background always is.
    """
    size = max(manifest.label_names.values()) + 1
    items: list[dict[str, object]] = []
    for case in manifest.of(split):
        labelled = [0.0] * size
        labelled[0] = 1.0
        for name in case.labelled:
            labelled[manifest.label_names[name]] = 1.0
        items.append(
            {
                "image": str(manifest.folder / case.image),
                "label": str(manifest.folder / case.label),
                "case": case.case,
                "labelled": labelled,
            }
        )
    return items
