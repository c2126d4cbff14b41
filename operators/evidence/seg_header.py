"""What every SEG shares: highdicom's header, our equipment, UIDs that a second run repeats."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from operators.evidence.common import (
    DEVICE_SERIAL_NUMBER,
    LONG_STRING,
    MANUFACTURER,
    MODEL_NAME,
    SOFTWARE_VERSION,
    Identity,
)
from operators.evidence.uids import derive_uid


def binary_seg(
    source: Dataset,
    pixels: np.ndarray,
    described: Sequence[hd.seg.SegmentDescription],
    identity: Identity,
    model: str,
) -> hd.seg.Segmentation:
    """A BINARY SEG of one source image.

    Parameters
    ----------
    source : Dataset
        Without a patient: `stamp` puts that in.
    pixels : numpy.ndarray
        As highdicom takes them.
    described : sequence of highdicom.seg.SegmentDescription
        Its segments, numbered from 1.
    identity : Identity
        Of the SEG.
    model : str
        Name of what found them.
    """
    dataset = hd.seg.Segmentation(
        source_images=[source],
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=identity.series_instance_uid,
        series_number=identity.series_number,
        sop_instance_uid=identity.sop_instance_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=SOFTWARE_VERSION,
        device_serial_number=DEVICE_SERIAL_NUMBER,
        content_label="AI_SEGMENTATION",
        content_description=f"{model}: {len(described)} structures"[:LONG_STRING],
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    # highdicom's UID is random, and no two runs were equal.
    dimensions = derive_uid("dimensions", identity.sop_instance_uid)
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    return dataset
