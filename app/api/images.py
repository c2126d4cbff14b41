"""What was uploaded: one series of DICOM images, or one picture; everything else is refused.

Headers only. Whether a bundle can use the series is for the worker to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.api.refusals import ImageUnusable
from app.compare.picture import PictureUnusable, check_picture
from operators.job import Series
from operators.study.image_type import image_type_of
from operators.study.read import read_drop

_PICTURE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_TIFF_STARTS = (b"II*\0", b"MM\0*")
_DICOM_MARK = slice(128, 132)


@dataclass(frozen=True)
class Uploaded:
    """An upload that can be looked at.

    Attributes
    ----------
    files : tuple of Path
        In the order of the parts.
    series : Series or None
        The DICOM series; None for a picture.
    """

    files: tuple[Path, ...]
    series: Series | None


def inspect(files: Sequence[Path], image_type: str) -> Uploaded:
    """Say what an upload is.

    Parameters
    ----------
    files : sequence of Path
        One per part, alone in their folder.
    image_type : str
        One of `IMAGE_TYPES`, as the caller says.

    Raises
    ------
    ImageUnusable
        No image, pictures mixed with DICOM, a broken file, several series, or a series
        of another modality than the caller says.
    """
    if not files:
        raise ImageUnusable("image", "no part of the body is named image. Send at least one.")
    pictures = [_is_picture(path) for path in files]
    if any(pictures):
        if len(files) > 1:
            why = f"{len(files)} parts, one a PNG, JPEG or TIFF. Send one picture, or DICOM only."
            raise ImageUnusable("image", why)
        try:
            check_picture(files[0])
        except PictureUnusable as refusal:
            raise ImageUnusable("image part 1", refusal.reason) from refusal
        return Uploaded(tuple(files), None)
    return Uploaded(tuple(files), _one_series(files, image_type))


def _is_picture(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_DICOM_MARK.stop)
    if head.startswith(_PICTURE_STARTS):
        return True
    # A slide may be both: a TIFF in whose first bytes a DICOM file begins.
    return head.startswith(_TIFF_STARTS) and head[_DICOM_MARK] != b"DICM"


def _one_series(files: Sequence[Path], image_type: str) -> Series:
    drop = read_drop(files[0].parent)
    numbers = {path.name: number for number, path in enumerate(files, start=1)}
    for refused in drop.refused:
        # Left out of a volume, a slice would change it: the whole upload is refused.
        number = numbers.get(refused.what)
        raise ImageUnusable(f"image part {number}" if number else "image", refused.reason)
    found = [series for study in drop.studies for series in study.series]
    if len(found) != 1:
        raise ImageUnusable("image", f"{len(found)} series. Send the slices of one series.")
    (series,) = found
    if image_type_of(series.modality) != image_type:
        shown = series.modality if series.modality.isalpha() and len(series.modality) < 4 else "?"
        why = f"image_type says {image_type}, the DICOM header says Modality {shown}. Correct one."
        raise ImageUnusable("image_type", why)
    return series
