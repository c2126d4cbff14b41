"""A file of marks opened with suspicion: which kind it is, and what a reader of it may refuse.

ModelRefusal
├── MarksUnusable      RL-1720   no SR, RTSTRUCT or SEG that can be read
├── NoMarks            RL-1721   nothing in it can be a prompt
├── ChoiceNotThere     RL-1722   no such structure or segment
├── ChoiceNeeded       RL-1723   several, and none was named
├── TooManyMarks       RL-1724   against a limit
├── ImageNotInStudy    RL-1725   no series of the folder holds the image
├── OffTheSlices       RL-1726   no slice of the series lies there
├── OutsideTheImage    RL-1727   beyond the image
├── OtherFrame         RL-1728   another frame of reference
├── OtherImageFrame    RL-1729   another frame of the image, or none that is named
├── OnWholeSlide       RL-1730   coordinates of a whole slide, not of one tile
├── VolumeAmbiguous    RL-1731   several volumes share the frame of reference
└── OtherPatient       RL-1732   marks of one patient, images of another

Sentences repeat no text of the file: names of structures are a person's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from operators.errors import FileRefusal, ModelRefusal, Refusal
from operators.models.medsam.region import PATIENT_AND_STUDY, Region
from operators.study.layout import open_layout

REPORTS = frozenset({EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage})


class MarksUnusable(ModelRefusal):
    """The file can't give a prompt."""

    code = "RL-1720"

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the file of --from won't do: {why}. Give a DICOM SR with measurements (TID "
            "1500), an RTSTRUCT or a binary SEG."
        )


class NoMarks(ModelRefusal):
    """Nothing in it can be a prompt."""

    code = "RL-1721"

    def __init__(self, what: str, uid: str, why: str) -> None:
        super().__init__(f"{what} {uid} holds nothing that can be a prompt: {why}.")


class ChoiceNotThere(ModelRefusal):
    """No structure or segment is the one that was named."""

    code = "RL-1722"

    def __init__(self, option: str, named: str, uid: str, numbers: Sequence[int]) -> None:
        super().__init__(
            f"{option} {named[:64]}: there is none in {uid}. Its numbers are {_listed(numbers)}."
        )


class ChoiceNeeded(ModelRefusal):
    """Several structures, and none was named."""

    code = "RL-1723"

    def __init__(self, option: str, uid: str, numbers: Sequence[int]) -> None:
        super().__init__(
            f"{uid} holds {len(numbers)} of them: name one with {option} (numbers "
            f"{_listed(numbers)})."
        )


class TooManyMarks(ModelRefusal):
    """More than is read."""

    code = "RL-1724"

    def __init__(self, what: str, found: int, limit: int) -> None:
        super().__init__(
            f"{found} {what} are more than the {limit} that are read. Split the file, or "
            "draw boxes."
        )


class ImageNotInStudy(ModelRefusal):
    """The mark is on an image that is not there."""

    code = "RL-1725"

    def __init__(self, sop_uid: str) -> None:
        super().__init__(
            f"no series that is used holds image {sop_uid[:64]}, which the mark is on. Give the "
            "folder of the study that was marked, or the right --series."
        )


class OffTheSlices(ModelRefusal):
    """A plane that no slice of the series is."""

    code = "RL-1726"

    def __init__(self, distance_mm: float, limit_mm: float) -> None:
        super().__init__(
            f"the mark lies {distance_mm:.2f} mm off the nearest slice of the series (limit "
            f"{limit_mm:.2f} mm, half the distance of its slices). It was drawn on another plane "
            "or series: name that with --series."
        )


class OutsideTheImage(ModelRefusal):
    """The drawing lies beyond the image."""

    code = "RL-1727"

    def __init__(self, sop_uid: str, rows: int, columns: int) -> None:
        super().__init__(
            f"the mark on image {sop_uid} lies outside it or is smaller than a pixel: the image is "
            f"{columns} pixels wide and {rows} high. Draw it again there."
        )


class OtherFrame(ModelRefusal):
    """Coordinates that mean nothing in this series."""

    code = "RL-1728"

    def __init__(self, found: str, frame_of_reference_uid: str) -> None:
        super().__init__(
            f"the mark is in frame of reference {found[:64] or '(none)'}, the series in "
            f"{frame_of_reference_uid or '(none, a 2D image)'}. Give the series that was marked "
            "with --series."
        )


class OtherImageFrame(ModelRefusal):
    """The image has several frames, and the mark is not on the one that is used."""

    code = "RL-1729"

    def __init__(self, sop_uid: str, marked: Sequence[int], used: int | None, frames: int) -> None:
        named = f"frame {_listed(marked)}" if marked else "no frame that is named"
        taken = f", and frame {used} is used" if used is not None else ""
        step = (
            "Name the frame of the mark with --frame."
            if marked
            else "Draw a box with --box and --frame instead."
        )
        super().__init__(
            f"the mark is on {named} of image {sop_uid}, which has {frames} frame"
            f"{'s' if frames != 1 else ''}{taken}. {step}"
        )


class OnWholeSlide(ModelRefusal):
    """Pixel Origin Interpretation is not FRAME (PS3.3 C.18.6.1.1)."""

    code = "RL-1730"

    def __init__(self, sop_uid: str, origin: str) -> None:
        said = f"{origin[:16]}" if origin else "absent"
        super().__init__(
            f"image {sop_uid} is a tile of a slide, and the mark counts its pixels over the whole "
            f"slide (Pixel Origin Interpretation is {said}, not FRAME). Draw a box on the tile "
            "with --box and --frame."
        )


class VolumeAmbiguous(ModelRefusal):
    """The marks fit several volumes, and name the images of none before the others."""

    code = "RL-1731"

    def __init__(self, there: Sequence[tuple[str, str]]) -> None:
        listed = ", ".join(uid + (f" ({part})" if part else "") for uid, part in there[:8])
        more = f" and {len(there) - 8} more" if len(there) > 8 else ""
        super().__init__(
            f"the marks fit {len(there)} volumes of one frame of reference, and don't say by "
            f"their images which is meant: series {listed}{more}. Name the series with --series, "
            "or give a folder that holds only the images that were marked."
        )


class OtherPatient(ModelRefusal):
    """The file of the marks is of another patient than the images."""

    code = "RL-1732"

    def __init__(self, series_uid: str, differs: str) -> None:
        super().__init__(
            f"the marks and series {series_uid} are of two patients: their {differs} differs. "
            "Give the file that was made of these images; where it is one patient, have the "
            "identity put right in one of the two."
        )


@dataclass(frozen=True)
class MarkFile:
    """What was asked for with a file.

    Attributes
    ----------
    path : Path
        SR, RTSTRUCT or SEG.
    choice : str or None
        Name or number of a structure (RTSTRUCT), number of a segment (SEG); of an SR
        the tracking UID of one measurement.
    label : str or None
        What the structure shall be called; None: what the file calls it.
    """

    path: Path
    choice: str | None = None
    label: str | None = None


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, sorted(numbers)[:16]))
    return shown + (" …" if len(numbers) > 16 else "") if shown else "none"


def read_regions(asked: MarkFile) -> tuple[Region, ...]:
    """All structures that a file asks for.

    Parameters
    ----------
    asked : MarkFile
        The file, and which part of it.

    Raises
    ------
    ModelRefusal
        One of this module; the file can't be read, or nothing in it can be a prompt.
    """
    from operators.models.medsam.contour_marks import read_structure_set
    from operators.models.medsam.mask_marks import read_segmentation
    from operators.models.medsam.report_marks import read_report

    readers: dict[UID, Callable[[Dataset, MarkFile], tuple[Region, ...]]] = {
        **dict.fromkeys(REPORTS, read_report),
        RTStructureSetStorage: read_structure_set,
        SegmentationStorage: read_segmentation,
    }
    try:
        # Walked first: no depth, length or number of elements is believed before.
        with open_layout(asked.path) as layout:
            dataset = layout.read_header()
        dataset.decode()
        kind, uid = UID(str(dataset.SOPClassUID)), str(dataset.SOPInstanceUID)
    except FileRefusal as refusal:
        raise MarksUnusable(str(refusal).rstrip(".")) from refusal
    except Exception as error:
        raise MarksUnusable(f"its elements can't be decoded ({type(error).__name__})") from error
    if kind not in readers:
        raise MarksUnusable(f"it is {_in_words(kind)}")
    try:
        marked_in = Dataset()
        for keyword in PATIENT_AND_STUDY:
            setattr(marked_in, keyword, str(dataset.get(keyword, "") or ""))
        return tuple(replace(r, marked_in=marked_in) for r in readers[kind](dataset, asked))
    except Refusal:
        raise
    # pydicom raises whatever a broken value happens to trip over.
    except Exception as error:
        raise MarksUnusable(f"{uid}: a value is broken ({type(error).__name__})") from error


def _in_words(kind: UID) -> str:
    return f"a {kind.name}" if kind.name != str(kind) else "of a kind that is not known"
