"""Which images may leave the house."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

from app.compare.guard import why_image_stays, why_picture_stays, why_series_stays
from operators.job import Instance, Series


def image(modality: str = "CT", sop_class: str = CTImageStorage, **more: object) -> Dataset:
    header = Dataset()
    header.Modality, header.SOPClassUID = modality, sop_class
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.ImagePositionPatient = [0, 0, 0]
    for keyword, value in more.items():
        setattr(header, keyword, value)
    return header


@pytest.mark.parametrize(
    "header",
    [
        image(),
        image("MR", MRImageStorage),
        image(BurnedInAnnotation="NO"),
        image(BurnedInAnnotation="no "),
        image("US", UltrasoundImageStorage, BurnedInAnnotation="NO"),
        image("OT", SecondaryCaptureImageStorage, BurnedInAnnotation="NO"),
        image("DX", DigitalXRayImageStorageForPresentation, BurnedInAnnotation="NO"),
        image(ImageType=["DERIVED", "SECONDARY"], BurnedInAnnotation="NO"),
    ],
)
def test_may_leave(header: Dataset) -> None:
    assert why_image_stays(header) is None


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (image(BurnedInAnnotation="YES"), "burned_in"),
        (image(BurnedInAnnotation="UNKNOWN"), "burned_in"),
        (image(BurnedInAnnotation=["NO", "YES"]), "burned_in"),
        (image(RecognizableVisualFeatures="YES"), "recognizable"),
        (image(BurnedInAnnotation="NO", RecognizableVisualFeatures="YES"), "recognizable"),
        (image("US", UltrasoundImageStorage), "may_be_burned_in"),
        (image("DX", DigitalXRayImageStorageForPresentation), "may_be_burned_in"),
        (image("CT", SecondaryCaptureImageStorage), "may_be_burned_in"),
        (image("CT", EnhancedCTImageStorage), "may_be_burned_in"),
        (image("OT", CTImageStorage), "may_be_burned_in"),
        (image("MR", CTImageStorage), "may_be_burned_in"),
        (image(ImageType=["DERIVED", "PRIMARY"]), "may_be_burned_in"),
        (image(ImageType=["ORIGINAL", "SECONDARY"]), "may_be_burned_in"),
        (image(ImageType="ORIGINAL"), "may_be_burned_in"),
        (image(ImageType=None), "may_be_burned_in"),
        (image(ConversionType="WSD"), "may_be_burned_in"),
        (image(ImagePositionPatient=None), "may_be_burned_in"),
        (Dataset(), "may_be_burned_in"),
    ],
)
def test_stays(header: Dataset, code: str) -> None:
    why = why_image_stays(header)
    assert why is not None and why.code == code and why.text


def test_one_slice_that_stays_keeps_the_series(tmp_path) -> None:
    instances = [Instance(tmp_path, image()) for _ in range(5)]
    assert why_series_stays(Series("1.2", "CT", tuple(instances))) is None
    instances[3] = Instance(tmp_path, image(BurnedInAnnotation="YES"))
    why = why_series_stays(Series("1.2", "CT", tuple(instances)))
    assert why is not None and why.code == "burned_in"


def test_a_picture_needs_its_senders_word() -> None:
    assert why_picture_stays(True) is None
    assert why_picture_stays(False) is not None
