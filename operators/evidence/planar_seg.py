"""The SEG of a 2D image: one frame per segment, on the pixels of its source, in no space.

A projection, an ultrasound frame or a tile has no place in the patient that we may claim,
so there is no Frame of Reference, position or spacing; the Derivation Image macro says
which pixels of which frame the segments lie on (PS3.3 A.51, C.7.6.16.2.6).
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from operators.evidence.common import Identity, first_reference
from operators.evidence.seg_header import binary_seg
from operators.job import Segmentation, Volume


def build_planar_seg(
    segmentation: Segmentation,
    identity: Identity,
    described: Sequence[hd.seg.SegmentDescription],
    masks: Sequence[np.ndarray],
) -> hd.seg.Segmentation:
    """Build the SEG, without what `stamp` adds.

    Parameters
    ----------
    segmentation : Segmentation
        Of a volume with a plane.
    identity : Identity
        Which object it is.
    described : sequence of SegmentDescription
        Of the segments that were found, numbered from 1.
    masks : sequence of numpy.ndarray, shape (rows, columns), bool
        One each, none empty; they may overlap.
    """
    volume = segmentation.volume
    pixels = np.stack(masks, axis=-1)[np.newaxis].astype(np.uint8)
    dataset = binary_seg(_source(volume), pixels, described, identity, segmentation.model.name)
    # Type 2C where no position says how the image lies (PS3.3 C.7.6.1); the source may know.
    dataset.PatientOrientation = volume.headers[0].get("PatientOrientation") or None
    _refer_to_source(dataset, volume)
    return dataset


def _source(volume: Volume) -> Dataset:
    """The source as a plain image of one frame: highdicom asks frames for their places."""
    image, header = first_reference(volume), volume.headers[0]
    image.SOPClassUID = SecondaryCaptureImageStorage
    if header.get("LossyImageCompression") == "01":
        for what in ("", "Ratio", "Method"):
            if f"LossyImageCompression{what}" in header:
                image[f"LossyImageCompression{what}"] = header[f"LossyImageCompression{what}"]
    return image


def _refer_to_source(dataset: Dataset, volume: Volume) -> None:
    """Every reference bears the source's class, and those to its pixels the frame, from 1."""
    groups = [*dataset.SharedFunctionalGroupsSequence, *dataset.PerFrameFunctionalGroupsSequence]
    derived = (item for group in groups for item in group.get("DerivationImageSequence") or [])
    pixels = [source for item in derived for source in item.SourceImageSequence]
    pixels += dataset.SourceImageSequence
    instances = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    for reference in (*pixels, *instances):
        reference.ReferencedSOPClassUID = volume.headers[0].SOPClassUID
    if volume.plane is not None and volume.plane.frame is not None:
        for reference in pixels:
            reference.ReferencedFrameNumber = volume.plane.frame
