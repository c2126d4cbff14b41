"""A look at the first elements of a stored instance: its study, and whether it is ours.

Reads a bounded prefix, so that a length field of 4 GB or a bomb behind the
deflated transfer syntax costs no more memory than `MAX_PREFIX`. Values other
than UIDs and codes are never looked at.
"""

from __future__ import annotations

import io
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PREFIXES = (1 << 16, 1 << 24)  # bytes; nearly every header ends in the first
UID = re.compile(r"[0-9.]{1,64}")
META_START = 128 + 4 + 12  # preamble, prefix, group length element (PS3.10 7.1)
MODALITY = 0x00080060
MANUFACTURER = 0x00080070
STUDY_INSTANCE_UID = 0x0020000D
DEFLATED = "1.2.840.10008.1.2.1.99"
OUR_MANUFACTURER = "radloop"  # (0008,0070) of everything that the evidence writer makes
RESULT_MODALITIES = frozenset(
    {"SEG", "SR", "RTSTRUCT", "KO", "OT", "DOC"}
)  # OT: key images; DOC: PDF


class UnreadableError(ValueError):
    """No Study Instance UID can be read; the message says where it stopped, without values."""


@dataclass(frozen=True)
class Peek:
    """What decides where an instance belongs.

    Attributes
    ----------
    study_instance_uid : str
        (0020,000D).
    sop_class_uid, sop_instance_uid, transfer_syntax_uid : str
        From the file meta.
    ours : bool
        A result or rejection that radloop made: kept, but never analysed again.
    """

    study_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    ours: bool


def peek(path: Path) -> Peek:
    """Read the study of one stored instance.

    Raises
    ------
    UnreadableError
        Not DICOM, or without a Study Instance UID.
    OSError
        The file can't be read.
    """
    size = path.stat().st_size
    for prefix in PREFIXES:
        whole = prefix >= size
        # A peer's bytes can break a parser in any way; whatever it is, the instance stays kept.
        try:
            found = _peek(path, prefix, whole)
        except (UnreadableError, OSError):
            raise
        except Exception as error:
            if whole or prefix == PREFIXES[-1]:
                raise UnreadableError(f"header can't be read ({type(error).__name__})") from error
            continue
        if found is not None:
            return found
        if whole:
            raise UnreadableError("no Study Instance UID (0020,000D)")
    raise UnreadableError(f"no Study Instance UID (0020,000D) in the first {PREFIXES[-1]} bytes")


def read_prefix(
    path: Path, prefix: int, last_tag: int, *, whole: bool
) -> tuple[Dataset | None, Dataset]:
    """The first elements of a stored instance, none of them converted, and its file meta.

    Parameters
    ----------
    path : Path
        The file.
    prefix : int
        Bytes of the data set that are read; of a deflated one, bytes that come of it.
    last_tag : int
        Elements beyond it are not read.
    whole : bool
        The prefix is the whole file.

    Returns
    -------
    tuple of (Dataset or None, Dataset)
        None where more bytes are needed: the last value may be cut off.
    """
    from pydicom.filereader import read_dataset, read_file_meta_info
    from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

    meta = read_file_meta_info(path)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    with path.open("rb") as file:
        file.seek(META_START + int(meta.FileMetaInformationGroupLength))
        body = file.read(prefix)
    if syntax == DEFLATED:
        body = zlib.decompressobj(-zlib.MAX_WBITS).decompress(body, prefix)
        whole = whole and len(body) < prefix
    stopped = False

    def beyond(tag: int, vr: str | None, length: int) -> bool:
        del vr, length
        nonlocal stopped
        stopped = tag > last_tag
        return stopped

    header = read_dataset(
        io.BytesIO(body),
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
        stop_when=beyond,
    )
    return header if stopped or whole else None, meta


def _peek(path: Path, prefix: int, whole: bool) -> Peek | None:
    header, meta = read_prefix(path, prefix, STUDY_INSTANCE_UID, whole=whole)
    if header is None:
        return None
    study = _text(header, STUDY_INSTANCE_UID)
    if not study:
        return None
    raw: Any = header.get_item(STUDY_INSTANCE_UID)
    if len(raw.value) != raw.length:  # at the end of a file pydicom takes what there is
        raise UnreadableError("file ends within the Study Instance UID (0020,000D)")
    if not UID.fullmatch(study):
        raise UnreadableError("Study Instance UID (0020,000D) is not a UID")
    return Peek(
        study_instance_uid=study,
        sop_class_uid=str(meta.get("MediaStorageSOPClassUID", "")),
        sop_instance_uid=str(meta.get("MediaStorageSOPInstanceUID", "")),
        transfer_syntax_uid=str(meta.get("TransferSyntaxUID", "")),
        ours=_text(header, MANUFACTURER) == OUR_MANUFACTURER
        and _text(header, MODALITY) in RESULT_MODALITIES,
    )


def _text(header: Dataset, tag: int) -> str:
    """The raw bytes of an element as text: not converted, so nothing warns with its value."""
    value = header.get_item(tag).value if tag in header else None
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else ""
