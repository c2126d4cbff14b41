"""Secondary captures of what was found, for readers whose viewer draws no segmentation.

One series, one RGB image per page of `key_slices`. The pixels hold names and sizes of
structures but nothing of the patient's identity. BurnedInAnnotation is YES all the same:
text is drawn in, and who sends images out of the house must look at them first.
"""

from __future__ import annotations

import copy

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from operators.evidence.common import MANUFACTURER, identify, stamp, without_patient
from operators.evidence.key_slices import key_pages, key_slices
from operators.evidence.orientation import view_of
from operators.evidence.rule_text import rules_digest
from operators.job import Report, Volume

_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def build_key_images(
    report: Report, counts: np.ndarray, recorded_at: str
) -> tuple[hd.sc.SCImage, ...]:
    """Draw and build the images of one report.

    Parameters
    ----------
    report : Report
        A segmentation with its findings.
    counts : numpy.ndarray
        From `operators.findings.tally`.
    recorded_at : str
        ``YYYYMMDDHHMMSS``; equal arguments give equal images, with equal UIDs.

    Returns
    -------
    tuple of highdicom.sc.SCImage
        In one series, instance numbers from 1; empty where nothing was found.

    References
    ----------
    DICOM PS3.3 A.8.1, Secondary Capture Image IOD; C.7.6.1, General Image;
    C.12.4, General Reference.
    """
    volume = report.segmentation.volume
    empty = without_patient()
    # What rules speak of is shown first, so they decide what a page shows.
    digest = rules_digest(report)
    images = []
    for number, page in enumerate(key_pages(report, key_slices(report, counts)), start=1):
        identity = identify(report.segmentation, "KEY_IMAGE", recorded_at, number, also=digest)
        image = hd.sc.SCImage(
            pixel_array=np.asarray(page.image),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "P"),
            study_instance_uid=str(volume.headers[0].StudyInstanceUID),
            series_instance_uid=identity.series_instance_uid,
            series_number=identity.series_number,
            sop_instance_uid=identity.sop_instance_uid,
            instance_number=number,
            manufacturer=MANUFACTURER,
            patient_id=empty.PatientID,
            patient_name=empty.PatientName,
        )
        _set_orientation(image, volume)
        image.BurnedInAnnotation = "YES"
        image.ConversionType = "WSD"
        _set_source(image, volume, sorted({one.k for one in page.slices}))
        stamp(image, identity, report.segmentation, recorded_at)
        image.DateOfSecondaryCapture = image.ContentDate
        image.TimeOfSecondaryCapture = image.ContentTime
        images.append(image)
    return tuple(images)


def _set_orientation(image: Dataset, volume: Volume) -> None:
    """Directions of the whole picture: all tiles are slices of one volume, shown alike."""
    view = view_of(volume)
    # Empty where the source doesn't say (type 2C): never a guess.
    image.Laterality = None  # type 2C
    image.PatientOrientation = [view.right, view.bottom] if all(view.edges) else None


def _set_source(image: Dataset, volume: Volume, shown: list[int]) -> None:
    """Which images are drawn, and whether they had lost something before."""
    image.SourceImageSequence = [_reference(volume.headers[k]) for k in shown]
    header = volume.headers[shown[0]]
    if header.get("LossyImageCompression") == "01":
        for keyword in _LOSSY:
            if header.get(keyword):
                image[keyword] = copy.deepcopy(header[keyword])


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    item.PurposeOfReferenceCodeSequence = [hd.sr.CodedConcept.from_code(purpose)]
    return item
