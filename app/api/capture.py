"""A caller's PNG, JPEG or TIFF as a DICOM object, so that it goes the way of every image.

A secondary capture of grey levels with no patient in it. It lives as long as the call:
no archive has it, so the SEG and SR about it are not named in the answer.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from app.api.images import Uploaded
from app.compare.picture import grey_picture
from operators.evidence.uids import derive_uid

# Modality that stands for each of the roadmap's 2D words.
MODALITY = {"xray": "DX", "ultrasound": "US", "pathology": "GM"}
_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("AccessionNumber", "StudyID", "ReferringPhysicianName", "PatientOrientation"),
    *("SeriesNumber", "Laterality"),
)


def put_capture(uploaded: Uploaded, image_type: str, input_dir: Path) -> Uploaded:
    """Leave a DICOM object in place of a picture, whose file moves beside the folder.

    Parameters
    ----------
    uploaded : Uploaded
        Of `inspect`; a series is left as it is.
    image_type : str
        One of `MODALITY`; a picture of anything else is left as it is.
    input_dir : Path
        Where the worker reads.
    """
    if uploaded.series is not None or image_type not in MODALITY:
        return uploaded
    (source,) = uploaded.files
    content = hashlib.sha256(source.read_bytes()).hexdigest()
    capture = build_capture(grey_picture(source), image_type, content)
    moved = source.rename(input_dir.parent / "picture")
    capture.save_as(input_dir / "picture.dcm", enforce_file_format=True)
    return Uploaded((moved,), None)


def build_capture(grey: np.ndarray, image_type: str, content_sha256: str) -> Dataset:
    """The object.

    Parameters
    ----------
    grey : numpy.ndarray, shape (rows, columns), uint8
    image_type : str
        One of `MODALITY`.
    content_sha256 : str
        Of the picture's file: UIDs follow from it.

    References
    ----------
    DICOM PS3.3 A.8.1, Secondary Capture Image.
    """
    dataset = Dataset()
    for keyword in _EMPTY:
        setattr(dataset, keyword, None)
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = derive_uid("picture", "instance", image_type, content_sha256)
    dataset.StudyInstanceUID = derive_uid("picture", "study", image_type, content_sha256)
    dataset.SeriesInstanceUID = derive_uid("picture", "series", image_type, content_sha256)
    dataset.Modality = MODALITY[image_type]
    dataset.ConversionType = "WSD"
    dataset.InstanceNumber = 1
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = grey.shape
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = grey.tobytes() + b"\0" * (grey.size % 2)
    dataset["PixelData"].VR = "OB"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset
