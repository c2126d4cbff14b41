"""A folder of files, or one file, in; studies and named refusals out; headers only.

Nothing that a file holds can stop the others: whatever is wrong with one is a
`Refused` with a reason. File names mean nothing; studies and series are what
StudyInstanceUID and SeriesInstanceUID say.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from pydicom import config
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import UID, MediaStorageDirectoryStorage
from pydicom.valuerep import VR, PersonName

from operators.errors import FileRefusal, Refusal
from operators.job import Instance, Refused, Series, Study
from operators.study.charset import charset_warnings
from operators.study.identity import check_one_patient, find_duplicates, spelled_alike
from operators.study.layout import Layout, open_layout
from operators.study.refusals import (
    FrameTooLarge,
    InvalidUid,
    InvalidValue,
    MediaDirectory,
    MissingPixels,
    NotARegularFile,
    Unparsable,
    UnreadableFile,
    WrongPixelLength,
)

# pydicom's warnings repeat the value that they complain about, names included.
config.settings.reading_validation_mode = config.IGNORE

FRAME_LIMIT_BYTES = 256 << 20  # a mammogram of 4000 x 5000 pixels has 40 MB

_IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_NOT_A_UID = "is not digits and dots as PS3.5 section 9.1 asks"
# Elements that a later operator reads or copies: tried here, so that none fails there.
_KEYWORDS_READ_LATER = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("RescaleIntercept", "RescaleSlope"),
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
    *("StudyDescription", "SeriesDescription", "SeriesNumber", "Modality", "Manufacturer"),
    *("BodyPartExamined", "ImageType", "InstanceNumber", "AcquisitionNumber"),
    *("FrameOfReferenceUID", "RescaleType", "Units", "SUVType", "LossyImageCompression"),
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
)
_KINDS: dict[str, tuple[type, ...]] = {
    VR.DS: (int, float),
    VR.IS: (int, float),
    VR.US: (int,),
    VR.US_SS: (int,),
    VR.UI: (str,),
}
_Seen = tuple[int, str | None, bytes, bytes]  # tag, VR, character set, value
_READ_LATER = {tag_for_keyword(keyword) for keyword in _KEYWORDS_READ_LATER}


@dataclass(frozen=True)
class Drop:
    """What a folder or a file holds.

    Attributes
    ----------
    studies : tuple of Study
        Ordered by Study Instance UID.
    refused : tuple of Refused
        Files by their path inside the folder, studies by their UID.
    """

    studies: tuple[Study, ...]
    refused: tuple[Refused, ...]


@dataclass(frozen=True)
class _Read:
    instance: Instance
    warnings: tuple[str, ...]


def read_drop(source: Path) -> Drop:
    """Read the headers of all files below a folder, or of one file.

    Parameters
    ----------
    source : Path
        Files of any name and kind, in folders of any depth; links that lead out of
        it are refused. Or one file: then nothing beside it is looked at.

    Returns
    -------
    Drop
        Never raises for what a file holds. A conflict of contents or mixed patients
        takes a whole study into `refused`.

    Raises
    ------
    FileNotFoundError
        There is no such folder or file.
    """
    root = source.resolve(strict=True)
    if root.is_dir():
        found, around = _files(root), root
    else:
        found, around = iter([(root, True)]), root.parent
    reads: list[_Read] = []
    refused: list[Refused] = []
    sound: set[_Seen] = set()
    for path, plain in found:
        try:
            target = path if plain else _inside(path, root)
            with open_layout(target) as layout:
                reads.append(_read_instance(path, layout, sound))
        except FileRefusal as refusal:
            refused.append(Refused(_shown(path.relative_to(around)), refusal.reason))
    kept, conflicts = find_duplicates(read.instance for read in reads)
    remarks = _remarks_by_study(reads)
    studies = []
    for study_uid, instances in _grouped(kept, "StudyInstanceUID"):
        try:
            if study_uid in conflicts:
                raise conflicts[study_uid]
            check_one_patient(study_uid, instances)
            studies.append(_study(study_uid, instances, remarks[study_uid]))
        except Refusal as refusal:
            refused.append(Refused(study_uid, refusal.reason))
    return Drop(tuple(studies), tuple(refused))


def _files(root: Path) -> Iterator[tuple[Path, bool]]:
    """Everything below a folder that is no folder, by name; links are not entered.

    With each path, whether it is no link and so lies where it says.
    """
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            yield folder, False  # refused by name like any other thing that can't be opened
            continue
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            else:
                yield Path(entry.path), not entry.is_symlink()


def _shown(path: Path) -> str:
    """A file's name as it may stand in a terminal: whoever made it chose the characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in path.as_posix())


def _inside(path: Path, root: Path) -> Path:
    """Where a link leads.

    Raises
    ------
    FileRefusal
        Out of the folder, nowhere, or to no file.
    """
    try:
        target = path.resolve(strict=True)
    except OSError as error:
        raise UnreadableFile(error.strerror or type(error).__name__) from error
    except RuntimeError as error:
        raise UnreadableFile("a link that leads to itself") from error
    if not target.is_relative_to(root):
        raise NotARegularFile("a link that leads out of the folder")
    if target.is_dir():
        raise NotARegularFile("a link to a folder, or a folder that can't be opened")
    return target


def _read_instance(path: Path, layout: Layout, sound: set[_Seen]) -> _Read:
    """Header of an open file, with everything checked that later steps rely on.

    Raises
    ------
    FileRefusal
        UIDs, numbers or the amount of pixel data are wrong.
    """
    try:
        header = layout.read_header()
        warnings = charset_warnings(header)
        _check_identifiers(header, layout.transfer_syntax)
        _check_values(header, sound)
        _check_pixel_length(header, layout)
    except FileRefusal:
        raise
    except Exception as error:
        raise Unparsable(f"the elements can't be decoded ({type(error).__name__})") from error
    if layout.inferred:
        warnings += ("no transfer syntax is declared; it was inferred from the first element",)
    return _Read(Instance(path, header, layout.place), warnings)


def _check_identifiers(header: Dataset, transfer_syntax: str) -> None:
    meta_class = header.file_meta.get("MediaStorageSOPClassUID", "")
    if MediaStorageDirectoryStorage in (meta_class, header.get("SOPClassUID", "")):
        raise MediaDirectory
    for keyword in _IDENTIFIERS:
        if keyword not in header:
            raise InvalidUid(keyword, "is absent")
        uid = header[keyword].value
        if not uid:
            raise InvalidUid(keyword, "is empty")
        if not isinstance(uid, UID) or len(uid) > 64:
            raise InvalidUid(keyword, f"has {len(uid)} characters or values (limit 64 and 1)")
        if not uid.is_valid:
            raise InvalidUid(keyword, _NOT_A_UID)
    if not UID(transfer_syntax).is_valid:
        raise InvalidUid("TransferSyntaxUID", _NOT_A_UID)
    if not UID(str(header.get("FrameOfReferenceUID") or "1")).is_valid:
        raise InvalidUid("FrameOfReferenceUID", _NOT_A_UID)


def _check_values(header: Dataset, sound: set[_Seen]) -> None:
    """Decode what later operators read; what was sound in another slice is sound here."""
    charset = _raw_value(header.get_item("SpecificCharacterSet"))
    for raw in list(header.values()):
        tag = int(raw.tag)  # a BaseTag compares by a slow method
        if tag not in _READ_LATER:
            continue
        seen = (tag, raw.VR, charset, _raw_value(raw))
        if seen not in sound:
            _check_value(header, tag)
            sound.add(seen)


def _raw_value(element: object) -> bytes:
    """Bytes of an element that is not yet decoded."""
    value = getattr(element, "value", b"")
    return value if isinstance(value, bytes) else repr(value).encode()


def _check_value(header: Dataset, tag: int) -> None:
    """What later operators take for a number, a UID or text is one, whatever VR the file says."""
    keyword, expected = keyword_for_tag(tag), dictionary_VR(tag)
    try:
        value = header[tag].value
    except Exception as error:  # any class, see _read_instance
        raise InvalidValue(keyword, expected) from error
    values = [] if value is None else list(value) if isinstance(value, MultiValue) else [value]
    kinds: tuple[type, ...] = _KINDS.get(expected, (str, PersonName))
    single = expected in _KINDS and dictionary_VM(tag) == "1"
    if not all(isinstance(value, kinds) for value in values) or (single and len(values) > 1):
        raise InvalidValue(keyword, expected)
    # "nan" and "inf" pydicom takes for numbers, DS does not.
    if not all(isfinite(value) for value in values if isinstance(value, float)):
        raise InvalidValue(keyword, expected)


def _check_pixel_length(header: Dataset, layout: Layout) -> None:
    """Native pixel data are as long as the header says, padded to an even length at most."""
    pixels = layout.pixels
    if pixels is None:
        # A file that is cut between two elements is well-formed, and ends early.
        if header.SOPClassUID.name.endswith("Image Storage"):
            raise MissingPixels(header.SOPClassUID.name)
        return
    expected = get_expected_length(header)
    if pixels.fragments is not None:
        frames = int(header.get("NumberOfFrames", 1) or 1)
        if pixels.fragments < frames:
            raise WrongPixelLength("fragments", pixels.fragments, frames)
        # Compressed, a kilobyte may stand for gigabytes.
        if expected // max(frames, 1) > FRAME_LIMIT_BYTES:
            raise FrameTooLarge(expected // max(frames, 1), FRAME_LIMIT_BYTES)
        return
    if not expected <= pixels.length <= expected + expected % 2 or expected == 0:
        raise WrongPixelLength("bytes", pixels.length, expected)


def _grouped(instances: list[Instance], keyword: str) -> list[tuple[str, list[Instance]]]:
    groups: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        groups[str(instance.header[keyword].value)].append(instance)
    return sorted(groups.items())


def _remarks_by_study(reads: list[_Read]) -> dict[str, Counter[str]]:
    remarks: dict[str, Counter[str]] = defaultdict(Counter)
    for read in reads:
        remarks[str(read.instance.header.StudyInstanceUID)].update(read.warnings)
    return remarks


def _study(study_uid: str, instances: list[Instance], remarks: Counter[str]) -> Study:
    warnings = [f"{text} ({count} instances)" for text, count in sorted(remarks.items())]
    # Decoding a name is slow: once per different bytes.
    by_name = {_raw_value(i.header.get_item("PatientName")): i.header for i in instances}
    spellings = {spelled_alike(header) for header in by_name.values()}
    if len(spellings) > 1:
        warnings.append(f"PatientName is written in {len(spellings)} different ways")
    series = tuple(
        Series(series_uid, str(members[0].header.get("Modality", "") or ""), tuple(members))
        for series_uid, members in _grouped(instances, "SeriesInstanceUID")
    )
    return Study(study_uid, series, tuple(warnings))
