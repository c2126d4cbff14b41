"""Whether two files of one SOP Instance UID are one instance, decoded.

How it is encoded does not count: file meta, transfer syntax, group lengths, lengths of
sequences and items, padding, and a lossless compression of the pixels. Every element
and every pixel does. Never a value in an answer: tags only.
"""

from __future__ import annotations

import filecmp
import io
import zlib
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from app.intake.peek import DEFLATED, META_START

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset, FileDataset

MAX_BYTES = 512 << 20  # of a file, and of what inflates from it
NAMED = 4  # tags in an answer
PADDING = 0xFFFCFFFC
CHARACTER_SET = 0x00080005
PIXEL_DATA = 0x7FE00010
PHOTOMETRIC = 0x00280004  # RGB as reversible components is RGB once decoded (PS3.3 C.7.6.3.1.2)
# Float, double and integer pixels; offset tables (PS3.3 C.7.6.3, C.7.6.24).
PIXELS = frozenset({0x7FE00001, 0x7FE00002, 0x7FE00003, 0x7FE00008, 0x7FE00009, PIXEL_DATA})
PLANAR = 0x00280006  # decoded pixels have one order (PS3.3 C.7.6.3.1.3)
WORDS = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}  # bytes; PS3.5 6.2

# Who the patient is (PS3.3 C.7.1.1, C.2.2); weight and size belong to the study and do not.
IDENTITY = frozenset(
    {
        0x00100010,  # Patient's Name
        0x00100020,  # Patient ID
        0x00100021,  # Issuer of Patient ID
        0x00100022,  # Type of Patient ID
        0x00100024,  # Issuer of Patient ID Qualifiers Sequence
        0x00100030,  # Patient's Birth Date
        0x00100032,  # Patient's Birth Time
        0x00100040,  # Patient's Sex
        0x00101000,  # Other Patient IDs
        0x00101001,  # Other Patient Names
        0x00101002,  # Other Patient IDs Sequence
        0x00101005,  # Patient's Birth Name
        0x00101060,  # Patient's Mother's Birth Name
    }
)
# What follows from a correction: age, the name's character set, the record of what it was.
WITH_IDENTITY = frozenset({0x00101010, CHARACTER_SET, 0x04000561})

Relation = Literal["same", "identity", "other"]


class TooLargeError(ValueError):
    """More bytes than are compared."""


@dataclass(frozen=True)
class Comparison:
    """What two files of one UID are to each other.

    Attributes
    ----------
    relation : str
        ``same`` instance; the same but for the patient's ``identity``; ``other``.
    why : str
        In what they differ, without values; empty for the same.
    """

    relation: Relation
    why: str = ""


def compare(first: Path, second: Path) -> Comparison:
    """Compare two stored instances; what can't be read or decoded is another content."""
    try:
        one, two = _read(first), _read(second)
        tags = _differing(one, two) - PIXELS - {PLANAR}
        if not _same_pixels(one, two):
            return Comparison("other", "the pixels differ")
    except TooLargeError:
        if filecmp.cmp(first, second, shallow=False):
            return Comparison("same")
        return Comparison("other", f"over {MAX_BYTES >> 20} MB, so not compared decoded")
    except Exception as error:  # noqa: BLE001  (bytes can break a parser or a decoder in any way)
        return Comparison("other", f"can't be compared decoded ({type(error).__name__})")
    if not tags:
        return Comparison("same")
    names = [f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in sorted(tags)]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    is_identity = tags <= IDENTITY | WITH_IDENTITY and bool(tags & IDENTITY)
    return Comparison(
        "identity" if is_identity else "other", f"they differ in {', '.join(names[:NAMED])}{more}"
    )


def _read(path: Path) -> FileDataset:
    from pydicom import dcmread
    from pydicom.dataset import FileDataset
    from pydicom.filereader import read_dataset, read_file_meta_info

    if path.stat().st_size > MAX_BYTES:
        raise TooLargeError
    meta = read_file_meta_info(path)
    if str(meta.TransferSyntaxUID) != DEFLATED:
        return dcmread(path)
    with path.open("rb") as file:  # pydicom would inflate a bomb to its end
        file.seek(META_START + int(meta.FileMetaInformationGroupLength))
        body = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise TooLargeError
    dataset = read_dataset(io.BytesIO(body), is_implicit_VR=False, is_little_endian=True)
    return FileDataset(io.BytesIO(), dataset, file_meta=meta, is_implicit_VR=False)


def _differing(one: Dataset, two: Dataset) -> set[int]:
    """Tags of the elements that only one has, or whose values are not the same."""
    ones, others = _counting(one), _counting(two)
    same_text = _text(one) == _text(two)
    return ones ^ others | {
        tag for tag in ones & others if not _same_element(one, two, tag, same_text)
    }


def _counting(dataset: Dataset) -> set[int]:
    tags = list(dataset.keys())  # iterating itself would convert every value
    return {int(tag) for tag in tags if tag.element != 0 and tag != PADDING}


def _text(dataset: Dataset) -> Any:
    """How the data set's text is encoded; an item may have inherited it."""
    return dataset.original_character_set


def _same_element(one: Dataset, two: Dataset, tag: int, same_text: bool) -> bool:
    from pydicom.dataelem import RawDataElement

    a, b = one.get_item(tag), two.get_item(tag)
    if isinstance(a, RawDataElement) and isinstance(b, RawDataElement) and same_text:
        same_form = a.VR == b.VR and a[5:7] == b[5:7]  # VR explicit or not, byte order
        if same_form and a.value == b.value:
            return True
    if tag in PIXELS:
        return False
    little = tuple(getattr(raw, "is_little_endian", True) for raw in (a, b))
    a, b = one[tag], two[tag]
    if a.VR != b.VR:  # the sender of one did not know it
        a, b = _known_as(a, b.VR, one, little[0]), _known_as(b, a.VR, two, little[1])
    if a.VR == "SQ" and b.VR == "SQ":
        items = len(a.value) == len(b.value)
        return items and not any(_differing(*pair) for pair in zip(a.value, b.value, strict=True))
    if tag == PHOTOMETRIC and {str(a.value), str(b.value)} == {"RGB", "YBR_RCT"}:
        return True
    return bool(_plain(a, little[0]) == _plain(b, little[1]))


def _known_as(element: DataElement, vr: str, within: Dataset, little: bool) -> DataElement:
    """An element of unknown VR, as of the VR that the other has (PS3.5 6.2.2)."""
    from pydicom.dataelem import RawDataElement, convert_raw_data_element

    if element.VR != "UN" or not isinstance(element.value, bytes):
        return element
    raw = RawDataElement(element.tag, vr, len(element.value), element.value, 0, True, little)
    return convert_raw_data_element(raw, encoding=within.original_character_set, ds=within)


def _plain(element: DataElement, little: bool) -> Any:
    """The value without its padding, bytes in little endian."""
    value = element.value
    if isinstance(value, bytes):
        width = WORDS.get(element.VR, 1)
        if little or width == 1:
            return value
        return b"".join(value[k : k + width][::-1] for k in range(0, len(value), width))
    if isinstance(value, str):
        return value.rstrip(" \0")
    return b"" if value is None or not str(value) or value == [] else value


def _same_pixels(one: FileDataset, two: FileDataset) -> bool:
    """Frame by frame, as stored values: dtype, shape and every sample."""
    import numpy as np
    from pydicom.pixels import iter_pixels
    from pydicom.uid import ExplicitVRBigEndian

    held = PIXELS & {int(tag) for tag in (*one.keys(), *two.keys())}
    syntaxes = [dataset.file_meta.TransferSyntaxUID for dataset in (one, two)]
    native = not any(uid.is_compressed or uid == ExplicitVRBigEndian for uid in syntaxes)
    if all(
        tag in one and tag in two and one.get_item(tag).value == two.get_item(tag).value
        for tag in held
    ) and (native or syntaxes[0] == syntaxes[1]):
        return True
    if not {PIXEL_DATA, 0x7FE00008, 0x7FE00009} & {int(tag) for tag in one.keys() & two.keys()}:
        return False
    frames = zip_longest(iter_pixels(one, raw=True), iter_pixels(two, raw=True))
    return all(
        a is not None
        and b is not None
        and (a.dtype.newbyteorder("="), a.shape) == (b.dtype.newbyteorder("="), b.shape)
        and bool(np.array_equal(a, b))
        for a, b in frames
    )
