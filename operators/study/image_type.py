"""The roadmap's five image types, and which Modality and which objects are meant by each.

The one home of that mapping. A 2D image is known by both: its SOP class says that it is
one picture (or one picture a frame), its Modality of what.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalIntraOralXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    VLMicroscopicImageStorage,
    VLPhotographicImageStorage,
    VLSlideCoordinatesMicroscopicImageStorage,
    VLWholeSlideMicroscopyImageStorage,
)

from operators.job import Series

ImageType = Literal["xray", "ct", "mri", "ultrasound", "pathology"]
IMAGE_TYPES: tuple[ImageType, ...] = get_args(ImageType)
# Modality (0008,0060) of PS3.3 C.7.3.1.1.1 that each of the roadmap's words covers.
MODALITIES: dict[ImageType, frozenset[str]] = {
    "xray": frozenset({"CR", "DX", "RG", "RF", "XA", "MG", "PX", "IO"}),
    "ct": frozenset({"CT"}),
    "mri": frozenset({"MR"}),
    "ultrasound": frozenset({"US", "IVUS"}),
    # A photograph (XC) has no word of its own in the roadmap: a specimen is what it shows there.
    "pathology": frozenset({"SM", "GM", "XC"}),
}
PLANAR_TYPES: frozenset[ImageType] = frozenset({"xray", "ultrasound", "pathology"})

WHOLE_SLIDE = VLWholeSlideMicroscopyImageStorage
PROJECTIONS = frozenset(
    {
        ComputedRadiographyImageStorage,
        DigitalXRayImageStorageForPresentation,
        DigitalXRayImageStorageForProcessing,
        DigitalMammographyXRayImageStorageForPresentation,
        DigitalMammographyXRayImageStorageForProcessing,
        DigitalIntraOralXRayImageStorageForPresentation,
    }
)
ULTRASOUND = frozenset(
    {
        UltrasoundImageStorage,
        UltrasoundMultiFrameImageStorage,
        # Both retired, and still in archives.
        "1.2.840.10008.5.1.4.1.1.6",
        "1.2.840.10008.5.1.4.1.1.3",
    }
)
_PLANAR_CLASSES = frozenset(
    {
        *PROJECTIONS,
        *ULTRASOUND,
        WHOLE_SLIDE,
        VLPhotographicImageStorage,
        VLMicroscopicImageStorage,
        VLSlideCoordinatesMicroscopicImageStorage,
        SecondaryCaptureImageStorage,
        MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
    }
)


def image_type_of(modality: str) -> ImageType | None:
    """The roadmap's word for a Modality; None where it has none.

    >>> image_type_of("DX"), image_type_of("PT")
    ('xray', None)
    """
    return next((kind for kind, values in MODALITIES.items() if modality in values), None)


def planar_type(header: Dataset) -> ImageType | None:
    """What kind of 2D image an object is; None where it is none.

    A secondary capture with Modality CT is a picture of something else: None. One that
    says DX is what many archives make of a scanned or converted radiograph.
    """
    if header.SOPClassUID not in _PLANAR_CLASSES:
        return None
    kind = image_type_of(str(header.get("Modality") or "").strip().upper())
    return kind if kind in PLANAR_TYPES else None


def planar_type_of_series(series: Series) -> ImageType | None:
    """The kind of 2D image that all objects of a series are; None where they are not."""
    kinds = {planar_type(image.header) for image in series.instances}
    return kinds.pop() if len(kinds) == 1 else None
