"""A 2D image in, a volume of one slice out: X-ray, ultrasound, slide tile, photograph.

Frames are times or tiles, never depth, so exactly one is taken, and a person says which.
The volume has no place in the patient: its affine is NaN, its frame of reference empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from operators.job import Instance, Plane, QualityFlag, Series, Volume
from operators.study.image_type import planar_type
from operators.volume.planar_pixels import frame_count, read_grey
from operators.volume.planar_refusals import (
    FrameNeeded,
    FrameNotThere,
    ImageAmbiguous,
    ImageNotThere,
)
from operators.volume.scale import Known, read_scale


@dataclass(frozen=True)
class PlanarChoice:
    """Which picture of a series is meant.

    Attributes
    ----------
    image : str
        InstanceNumber or SOP Instance UID; "" where the series holds one image.
    frame : int or None
        From 1; None where the image has one.
    marked_frame : int or None
        The frame that a mark is on, taken where `frame` is None. Of a stack of slices it
        chooses nothing.
    """

    image: str = ""
    frame: int | None = None
    marked_frame: int | None = None


def build_planar(series: Series, choice: PlanarChoice, bundle: str = "") -> Volume:
    """One frame of one 2D image as a volume of one slice.

    Parameters
    ----------
    series : Series
        All objects are 2D images (`planar_type_of_series`).
    choice : PlanarChoice
        Which of them.
    bundle : str
        Written into the volume.

    Returns
    -------
    Volume
        shape (1, rows, columns), float32, 0 to 255, bright as a reader sees it.

    Raises
    ------
    ModelRefusal
        The image or the frame can't be told.
    VolumeRefusal
        Its pixels can't be had.
    """
    instance = choose_image(series, choice.image)
    header = instance.header
    frame = _choose_frame(instance, choice.marked_frame if choice.frame is None else choice.frame)
    grey, padding = read_grey(instance, 0 if frame is None else frame - 1)
    known = read_scale(header, frame)
    kind = planar_type(header)
    return Volume(
        array=grey[np.newaxis],
        lps_from_index=np.full((4, 4), np.nan),
        unit="arbitrary",
        frame_of_reference_uid="",
        headers=(header,),
        series_instance_uid=series.series_instance_uid,
        bundle=bundle,
        part="" if frame is None else f"frame {frame}",
        quality=_remarks(header, known),
        padding=None if padding is None else padding[np.newaxis],
        plane=Plane(kind or "", frame, known.scales, known.holds),
    )


def choose_image(series: Series, named: str) -> Instance:
    """The image with that InstanceNumber or UID, or the only one.

    Raises
    ------
    ImageNotThere, ImageAmbiguous
    """
    found = [image for image in series.instances if named in ("", *_names(image.header))]
    if len(found) == 1:
        return found[0]
    uid = series.series_instance_uid
    if not found:
        raise ImageNotThere(uid, named, [_described(image.header) for image in series.instances])
    raise ImageAmbiguous(uid, [_described(image.header) for image in found])


def _names(header: Dataset) -> tuple[str, ...]:
    number = header.get("InstanceNumber")
    numbered = (str(int(number)),) if isinstance(number, int) else ()
    return (str(header.SOPInstanceUID), *numbered)


def _described(header: Dataset) -> str:
    """An image among others: what it is called, and how large (the level of a slide)."""
    number = header.get("InstanceNumber")
    numbered = f"number {number}, " if isinstance(number, int) else ""
    size = f"{header.get('Columns')} x {header.get('Rows')}"
    if header.get("TotalPixelMatrixColumns"):
        size = f"{header.TotalPixelMatrixColumns} x {header.get('TotalPixelMatrixRows')} in {size}"
    return f"{header.SOPInstanceUID} ({numbered}{size}, {frame_count(header)} frames)"


def _choose_frame(instance: Instance, frame: int | None) -> int | None:
    frames = frame_count(instance.header)
    if frame is None:
        if frames > 1:
            raise FrameNeeded(instance.sop_instance_uid, frames)
        return 1 if "NumberOfFrames" in instance.header else None
    if not 1 <= frame <= frames:
        raise FrameNotThere(instance.sop_instance_uid, frame, frames)
    return frame if "NumberOfFrames" in instance.header else None


def _remarks(header: Dataset, known: Known) -> tuple[QualityFlag, ...]:
    """What a reader must know of lengths, text in the pixels and compression."""
    said = (
        f"Lengths hold {known.holds}."
        if known.holds
        else ("The size of a pixel is not known: areas are in pixels, and no length is given.")
    )
    flags = [QualityFlag("scale" if known.holds else "no-scale", said)]
    burned_in = str(header.get("BurnedInAnnotation") or "")
    if burned_in != "NO":
        text = (
            "says that text is burned into the pixels"
            if burned_in == "YES"
            else ("does not say whether text is burned into the pixels")
        )
        flags.append(QualityFlag("burned-in-annotation", f"The header {text}: names may be."))
    if header.get("LossyImageCompression") == "01":
        flags.append(QualityFlag("lossy", "The source was compressed with loss."))
    return tuple(flags)
