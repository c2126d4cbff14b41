"""`StudyJob`: the one envelope that passes from operator to operator, and what it carries.

Everything here is immutable; an operator returns a copy with its own field
filled (`dataclasses.replace`). Nothing here reads a file or imports a model
library.

Index convention, everywhere: an array is (z, y, x) = (slice, row, column); its
affine takes index (i, j, k) = (column, row, slice) to LPS mm. `array[k, j, i]`
lies at `lps_from_index @ (i, j, k, 1)`, the centre of that voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydicom.dataset import Dataset

if TYPE_CHECKING:
    from operators.compared import Comparison
    from operators.measured import Measurement, RuleResult
    from operators.reading import Reading

Unit = Literal["HU", "SUVbw", "arbitrary"]
Severity = Literal["CRITICAL", "HIGH", "MODERATE", "LOW", "NORMAL", "NOT_ASSESSED"]
EvidenceKind = Literal["SEG", "SR", "RTSTRUCT", "KEY_IMAGE", "PDF"]
# What is written beside SEG and SR only where a site or a person asks for it.
ExtraEvidence = Literal["key_images", "pdf", "rtstruct"]
Part = int | slice | tuple[int | slice, ...]  # of a stack (z, y, x)


@dataclass(frozen=True)
class PixelPlace:
    """Where pixel data lie in a file whose lengths were checked.

    Attributes
    ----------
    keyword : str
        PixelData, FloatPixelData or DoubleFloatPixelData.
    offset, length : int
        First byte of the value, and bytes of it.
    file_version : tuple of int
        Device, inode, bytes and time of the last change (ns): in another version of
        the file, the pixel data may lie elsewhere.
    """

    keyword: str
    offset: int
    length: int
    file_version: tuple[int, ...]


@dataclass(frozen=True)
class Instance:
    """One readable DICOM file, header only.

    Attributes
    ----------
    path : Path
        Where the file is.
    header : pydicom.dataset.Dataset
        All elements up to the pixel data, with `file_meta`; text decoded.
    pixels : PixelPlace or None
        None where they must be looked for again.
    """

    path: Path
    header: Dataset
    pixels: PixelPlace | None = None

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID (0008,0018)."""
        return str(self.header.SOPInstanceUID)


@dataclass(frozen=True)
class Series:
    """Instances with one Series Instance UID, in no particular order."""

    series_instance_uid: str
    modality: str
    instances: tuple[Instance, ...]

    @property
    def description(self) -> str:
        """Series Description (0008,103E); empty where absent. May hold PHI: never logged."""
        return str(self.instances[0].header.get("SeriesDescription", "") or "")


@dataclass(frozen=True)
class Refused:
    """Something that was left out, and why.

    Attributes
    ----------
    what : str
        A file's name or a Series Instance UID.
    reason : str
        `Refusal.reason`, or why no bundle matches.
    """

    what: str
    reason: str


@dataclass(frozen=True)
class Study:
    """One study of one patient.

    Attributes
    ----------
    study_instance_uid : str
        Study Instance UID (0020,000D).
    series : tuple of Series
        Readable series, ordered by UID.
    warnings : tuple of str
        What a correct reader does with a remark (no PHI).
    """

    study_instance_uid: str
    series: tuple[Series, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Match:
    """A series that a bundle's card accepts.

    Attributes
    ----------
    bundle : str
        Name of the bundle's folder.
    series : Series
        The series to run it on; of several channels, the first.
    channels : tuple of Series
        Every channel's series, in the network's order; empty where it takes one series.
    """

    bundle: str
    series: Series
    channels: tuple[Series, ...] = ()


@dataclass(frozen=True)
class QualityFlag:
    """Something about the input that a reader must see beside the result.

    Attributes
    ----------
    name : str
        Machine name, e.g. ``"duplicates-removed"``.
    text : str
        One sentence, no PHI.
    """

    name: str
    text: str


@dataclass(frozen=True)
class Scale:
    """How large pixels are in a rectangle of a 2D image.

    Attributes
    ----------
    left, top, right, bottom : int
        Pixel edges, (0, 0) at the outer corner of the first pixel.
    row_mm, column_mm : float
        Between rows and between columns, mm, > 0.
    """

    left: int
    top: int
    right: int
    bottom: int
    row_mm: float
    column_mm: float


@dataclass(frozen=True)
class Plane:
    """What makes a volume of one slice a 2D image: it has no place in the patient.

    Attributes
    ----------
    image_type : str
        "xray", "ultrasound" or "pathology".
    frame : int or None
        Number of the frame from 1; None for an image without frames.
    scales : tuple of Scale
        Where lengths are known; empty: nowhere, and no mm or mm2 may be written.
    scale_holds : str
        For what lengths hold ("at the detector plane"); "" where there are none.
    """

    image_type: str
    frame: int | None
    scales: tuple[Scale, ...]
    scale_holds: str


@dataclass(frozen=True)
class Volume:
    """A grid of values with its place in the patient; its slices may lean (`volume/tilt.py`).

    Attributes
    ----------
    array : numpy.ndarray, shape (z, y, x), int16 or float32
        Values in `unit`.
    lps_from_index : numpy.ndarray, shape (4, 4), float64
        (i, j, k, 1) → LPS mm; see the module's head. All NaN for a 2D image: no length
        and no place that is computed from it can pass for one.
    unit : Unit
        What the values are.
    frame_of_reference_uid : str
        Frame of Reference UID (0020,0052); "" for a 2D image.
    headers : tuple of Dataset
        The source instance of every slice, in the order of k; headers only.
    series_instance_uid : str
        Series the slices come from.
    bundle : str
        Which bundle this volume was built for.
    part : str
        Which of several volumes of one series ("" where it is the only one).
    quality : tuple of QualityFlag
        Remarks that travel into SR and table.
    padding : numpy.ndarray or None, shape (z, y, x), bool
        True where the source says "no tissue" (PixelPaddingValue).
    channels : tuple of numpy.ndarray
        Further series on the same grid, for a bundle of several channels; `array` is
        the first channel.
    channel_headers : tuple of tuple of Dataset
        The source instances of each of `channels`, each in its own order of slices.
    plane : Plane or None
        Set for a 2D image, whose array is one slice of grey levels, 0 to 255.
    """

    array: np.ndarray
    lps_from_index: np.ndarray
    unit: Unit
    frame_of_reference_uid: str
    headers: tuple[Dataset, ...]
    series_instance_uid: str
    bundle: str
    part: str = ""
    quality: tuple[QualityFlag, ...] = ()
    padding: np.ndarray | None = None
    channels: tuple[np.ndarray, ...] = ()
    channel_headers: tuple[tuple[Dataset, ...], ...] = ()
    plane: Plane | None = None

    @property
    def source_sop_uids(self) -> tuple[str, ...]:
        """SOP Instance UID of every slice, in the order of k."""
        return tuple(str(header.SOPInstanceUID) for header in self.headers)

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        """Distance between slices along their normal, between rows, between columns, mm."""
        i, j = np.linalg.norm(self.lps_from_index[:3, :2], axis=0)
        return round(1000.0 * self.voxel_ml / float(i * j), 9), float(j), float(i)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel, mL."""
        return float(abs(np.linalg.det(self.lps_from_index[:3, :3])) / 1000.0)


@dataclass(frozen=True)
class Code:
    """A coded concept: value, scheme designator, meaning (PS3.3 section 8)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Segment:
    """What one label stands for.

    Attributes
    ----------
    number : int
        Label value in `Segmentation.labels`, from 1.
    name : str
        Machine name (``"parotid_left"``).
    label : str
        What a reader sees (``"Left parotid gland"``).
    category, type : Code
        Segmented Property Category and Type (PS3.3 C.8.20.2).
    laterality : Code or None
        Type modifier, right or left, where the structure has a side.
    colour_rgb : tuple of int
        0 to 255; written as RecommendedDisplayCIELabValue.
    """

    number: int
    name: str
    label: str
    category: Code
    type: Code
    colour_rgb: tuple[int, int, int]
    laterality: Code | None = None


@dataclass(frozen=True)
class ModelIdentity:
    """Which network, exactly.

    Attributes
    ----------
    name, version : str
        Bundle name and version from its metadata.
    weights_sha256 : str
        Of the weights file that ran ("" only for a model without weights).
    manufacturer : str
        Who made it.
    runtime : str
        E.g. ``"torch-cpu-float32"``; another runtime gives other UIDs.
    config_sha256 : str
        Of the bundle's config, card, metadata and scripts, which decide the labels too.
    prompt : tuple of (str, str)
        What a person gave it beside the images, by name; empty where it ran alone.
        A result with a prompt is semi-automatic.
    """

    name: str
    version: str
    weights_sha256: str
    manufacturer: str
    runtime: str
    config_sha256: str = ""
    prompt: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Segmentation:
    """Labels on the grid of their volume.

    Attributes
    ----------
    volume : Volume
        The source.
    labels : numpy.ndarray, shape (z, y, x), unsigned
        Label map, 0 is background; where `overlapping`, a plane of bits per segment:
        bit n - 1 of a voxel says whether it is in segment n.
    segments : tuple of Segment
        Every structure that was looked for, found or not.
    model : ModelIdentity
        Who says so.
    overlapping : bool
        How `labels` are to be read.
    """

    volume: Volume
    labels: np.ndarray
    segments: tuple[Segment, ...]
    model: ModelIdentity
    overlapping: bool = False

    def mask(self, number: int, k: Part = slice(None)) -> np.ndarray:
        """Voxels of one segment, bool: of slice `k` (y, x), of any part, or of all (z, y, x)."""
        there = self.labels[k]
        if not self.overlapping:
            return there == number
        return (there & there.dtype.type(1 << (number - 1))) != 0


@dataclass(frozen=True)
class Finding:
    """One structure, measured.

    Attributes
    ----------
    segment : Segment
        The structure.
    voxels : int
        Count; 0 means looked for and not found, then nothing is measured.
    unit : Unit
        Of the source values.
    severity : Severity
        NOT_ASSESSED unless an accepted rule measured it.
    measurements : tuple of Measurement
        All numbers, in the order a reader gets them.
    rules : tuple of RuleResult
        What guidelines say to them.
    """

    segment: Segment
    voxels: int
    unit: Unit
    severity: Severity = "NOT_ASSESSED"
    measurements: tuple[Measurement, ...] = ()
    rules: tuple[RuleResult, ...] = ()

    def measured(self, name: str, unit: str | None = None) -> float | None:
        """Value of one measurement by its machine name; None without it, or in another unit."""
        for one in self.measurements:
            if one.name == name and unit in (None, one.unit.value):
                return one.value
        return None

    @property
    def volume_ml(self) -> float | None:
        """Volume, mL; None for a 2D image."""
        return self.measured("volume", "mL")

    @property
    def area_mm2(self) -> float | None:
        """Area of a 2D image whose scale is known where the mask lies."""
        return self.measured("area", "mm2")

    @property
    def mean(self) -> float | None:
        """Mean of the source values, in `unit`; None for a 2D image."""
        return self.measured("mean")


@dataclass(frozen=True)
class Report:
    """A segmentation with its findings, one per segment; compared with an earlier result or not."""

    segmentation: Segmentation
    findings: tuple[Finding, ...]
    comparison: Comparison | None = None


@dataclass(frozen=True)
class Evidence:
    """A DICOM object that was written.

    Attributes
    ----------
    kind : EvidenceKind
        What it is.
    path : Path
        The file.
    sop_instance_uid, series_instance_uid : str
        Its identity.
    source_study_uid, source_series_uid, part : str, str, str
        Volume it is about.
    bundle : str
        Whose result it is.
    prompt : tuple of (str, str)
        Of the model identity: tells results of one bundle on one volume apart.
    """

    kind: EvidenceKind
    path: Path
    sop_instance_uid: str
    series_instance_uid: str
    source_study_uid: str
    source_series_uid: str
    part: str
    bundle: str
    prompt: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class StudyJob:
    """A drop of DICOM files (usually one study) on its way through the graph.

    Attributes
    ----------
    input_dir, output_dir : Path
        Folder of DICOM files in, or one file; folder of results out.
    recorded_at : str
        Date and time of the study version's record, ``YYYYMMDDHHMMSS``; our
        objects bear it, so that a retry writes the same bytes.
    studies : tuple of Study
        Set by StudySource.
    refused : tuple of Refused
        Files, studies and series that were left out, each with its reason; every
        operator may add to it. A refusal of one never stops the others.
    matches, unmatched
        Set by SeriesSelector.
    volumes
        Set by VolumeBuilder.
    segmentations, readings
        Set by BundleInference.
    reports, evidence
        Set by Findings, EvidenceWriter.
    """

    input_dir: Path
    output_dir: Path
    recorded_at: str
    studies: tuple[Study, ...] = ()
    refused: tuple[Refused, ...] = ()
    matches: tuple[Match, ...] = ()
    unmatched: tuple[Refused, ...] = ()
    volumes: tuple[Volume, ...] = ()
    segmentations: tuple[Segmentation, ...] = ()
    readings: tuple[Reading, ...] = ()
    reports: tuple[Report, ...] = ()
    evidence: tuple[Evidence, ...] = ()
