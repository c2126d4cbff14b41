"""A CT Image Storage series from an array: what the demo patient is sent as.

Uncompressed Explicit VR Little Endian, one file per slice, bytes that depend on
nothing but the arguments. It writes only what it is told: no dose, scanner or
institution is invented, so attributes of that kind that must be there stay empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from operators.errors import Refusal
from operators.evidence.uids import derive_uid

RESCALE_INTERCEPT_HU = -1024
BITS_STORED = 12
HIGHEST_HU = 2**BITS_STORED - 1 + RESCALE_INTERCEPT_HU


class NotACtGrid(Refusal):
    """The grid can't be the slices of one CT series."""

    code = "RL-0601"

    def __init__(self, cosine: float, limit: float) -> None:
        super().__init__(
            f"the grid's slices are not stacked along the normal of their pixels: the cosine "
            f"between the two is {cosine:.4f} (at least {limit:.4f} is needed; negative means "
            "mirrored). Resample the array to a right-handed, rectangular grid first."
        )


@dataclass(frozen=True)
class SeriesIdentity:
    """Who and what a series says it is.

    Attributes
    ----------
    patient_name, patient_id : str
        Values of PN and LO.
    study_instance_uid, series_instance_uid, frame_of_reference_uid : str
        The instances' UIDs are derived from the series'.
    study_description, series_description, image_comments : str
        Free text; `image_comments` is the place to say what the pixels are.
    study_date, study_time : str
        ``YYYYMMDD`` and ``HHMMSS``; those of series and content too.
    body_part : str
        BodyPartExamined, a defined term of PS3.16 Annex L.
    manufacturer, model : str
        Of the equipment module.
    """

    patient_name: str
    patient_id: str
    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    study_description: str
    series_description: str
    image_comments: str
    study_date: str
    study_time: str
    body_part: str
    manufacturer: str
    model: str


def write_ct_series(
    folder: Path, hu: np.ndarray, lps_from_index: np.ndarray, identity: SeriesIdentity
) -> list[Path]:
    """Write one CT Image Storage instance per slice.

    Parameters
    ----------
    folder : Path
        Created where absent; files are ``CT0001.dcm`` and so on, in the order of k.
    hu : numpy.ndarray, shape (z, y, x), integer
        Hounsfield units; clipped to -1024 to 3071 (12 bits).
    lps_from_index : numpy.ndarray, shape (4, 4), float64
        (i, j, k, 1) = (column, row, slice) → LPS mm, right-handed, slices stacked
        along their normal.
    identity : SeriesIdentity
        Patient, study, series and equipment.

    Returns
    -------
    list of Path
        In the order of k.

    Raises
    ------
    NotACtGrid
        The grid is sheared or mirrored.

    References
    ----------
    DICOM PS3.3 A.3 (CT Image IOD), C.7.6.2 (Image Plane), C.8.2.1 (CT Image).
    """
    column_step, row_step, slice_step = lps_from_index[:3, :3].T
    spacing_i, spacing_j, spacing_k = np.linalg.norm(lps_from_index[:3, :3], axis=0)
    along_row, along_column = column_step / spacing_i, row_step / spacing_j
    cosine = float(np.cross(along_row, along_column) @ slice_step / spacing_k)
    if cosine < 0.9999:
        raise NotACtGrid(cosine, 0.9999)

    common = _common(identity, *hu.shape[1:])
    # "is the spacing between rows": the first value of the pair (PS3.3 10.7.1.3).
    common.PixelSpacing = [_ds(spacing_j), _ds(spacing_i)]
    common.ImageOrientationPatient = [_ds(value) for value in (*along_row, *along_column)]
    common.SliceThickness = _ds(spacing_k)
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _write_slice(folder, common, k, plane, lps_from_index @ (0.0, 0.0, k, 1.0))
        for k, plane in enumerate(hu)
    ]


def _ds(value: float) -> str:
    """A decimal string of at most 16 characters; -0 is 0."""
    return f"{round(float(value), 9) + 0.0:.10g}"


def _common(identity: SeriesIdentity, rows: int, columns: int) -> Dataset:
    """What every slice of the series says alike."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    for part in ("Study", "Series", "Content"):
        setattr(ds, f"{part}Date", identity.study_date)
        setattr(ds, f"{part}Time", identity.study_time)
    ds.AccessionNumber = ""
    ds.Modality = "CT"
    ds.Manufacturer = identity.manufacturer
    ds.ManufacturerModelName = identity.model
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = identity.study_description
    ds.SeriesDescription = identity.series_description
    ds.PatientName = identity.patient_name
    ds.PatientID = identity.patient_id
    ds.PatientBirthDate = ""
    ds.PatientSex = ""
    ds.BodyPartExamined = identity.body_part
    ds.KVP = None
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID = identity.study_instance_uid
    ds.SeriesInstanceUID = identity.series_instance_uid
    ds.StudyID = "1"
    ds.SeriesNumber = 1
    ds.AcquisitionNumber = 1
    ds.FrameOfReferenceUID = identity.frame_of_reference_uid
    ds.PositionReferenceIndicator = ""
    ds.ImageComments = identity.image_comments
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, BITS_STORED, BITS_STORED - 1
    ds.PixelRepresentation = 0
    ds.WindowCenter, ds.WindowWidth = 40, 400
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = RESCALE_INTERCEPT_HU, 1, "HU"
    return ds


def _write_slice(
    folder: Path, common: Dataset, k: int, plane: np.ndarray, origin: np.ndarray
) -> Path:
    """Write slice `k`, whose first pixel's centre lies at `origin` (LPS mm)."""
    ds = Dataset()
    ds.update(common)
    ds.SOPInstanceUID = derive_uid(common.SeriesInstanceUID, str(k + 1))
    ds.InstanceNumber = k + 1
    ds.ImagePositionPatient = [_ds(value) for value in origin[:3]]
    stored = np.clip(plane, RESCALE_INTERCEPT_HU, HIGHEST_HU) - RESCALE_INTERCEPT_HU
    ds.PixelData = stored.astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = UID(derive_uid("radloop", "ct_series"))
    ds.file_meta.ImplementationVersionName = "RADLOOP"
    path = folder / f"CT{k + 1:04d}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path
