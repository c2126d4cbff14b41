"""The series that is sent: CT slices of half a megabyte, files on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SIDE = 512  # 512 x 512 x 2 bytes = 0.5 MB


def make_series(folder: Path, count: int) -> list[Path]:
    """Write `count` slices; their paths in order."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    study, series = generate_uid(), generate_uid()
    paths = []
    for number in range(count):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.Modality, dataset.PatientID, dataset.PatientName = "CT", "BENCH", "Bench^Ingest"
        dataset.InstanceNumber = number + 1
        dataset.Rows = dataset.Columns = SIDE
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 1, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        pixels = random.integers(-1000, 1000, (SIDE, SIDE), dtype=np.int16)
        dataset.PixelData = pixels.tobytes()
        path = folder / f"{number:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
