"""Small DICOM instances for intake, worker and delivery: valid, without meaning."""

from __future__ import annotations

import io
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

STUDY = "1.2.826.0.1.3680043.8.498.1"


def instance(
    number: int = 1,
    *,
    study: str = STUDY,
    manufacturer: str = "ACME",
    modality: str = "CT",
    syntax: str = ExplicitVRLittleEndian,
    comment: str = "",
) -> Dataset:
    """A data set with the elements that intake looks at and a few kilobytes of pixels."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = f"{study}.9.{number}"
    dataset.Modality = modality
    dataset.Manufacturer = manufacturer
    dataset.PatientName = "Test^Patient"
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = f"{study}.8"
    dataset.ImageComments = comment
    dataset.Rows = dataset.Columns = 32
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 1, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = number.to_bytes(2, "little") * 1024
    return dataset


def encoded(dataset: Dataset) -> bytes:
    """The whole file."""
    stream = io.BytesIO()
    dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def write(folder: Path, *datasets: Dataset) -> list[Path]:
    """One file each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.dcm" for number in range(len(datasets))]
    for path, dataset in zip(paths, datasets, strict=True):
        path.write_bytes(encoded(dataset))
    return paths
