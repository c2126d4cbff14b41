"""Remarks on the text of a header: what its character set leaves in doubt.

pydicom decodes on access (PS3.5 section 6.1) and replaces what it can't decode.
Bytes are never changed here; a doubt becomes a warning, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR

# Single-byte sets in which any byte is a letter, so that UTF-8 passes unnoticed.
_SINGLE_BYTE = frozenset(python_encoding) & {f"ISO_IR {n}" for n in range(100, 192)}


def _foreign_text(header: Dataset) -> Iterator[bytes]:
    """Top-level text values, not yet decoded, with bytes beyond ASCII."""
    for element in header.values():
        value = element.value
        if not isinstance(element, RawDataElement) or not value or value.isascii():
            continue
        vr = element.VR
        if vr is None and dictionary_has_tag(element.tag):
            vr = dictionary_VR(element.tag)
        if vr in CUSTOMIZABLE_CHARSET_VR:
            yield value


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def charset_warnings(header: Dataset) -> tuple[str, ...]:
    """What is doubtful about the text of a header that was just read.

    Parameters
    ----------
    header : pydicom.dataset.Dataset
        Not yet accessed: decoded elements are not looked at.

    Returns
    -------
    tuple of str
        Sentences without any of the text.
    """
    foreign = list(_foreign_text(header))
    declared = header.get("SpecificCharacterSet", None) or ""
    names = [declared] if isinstance(declared, str) else [str(name) for name in declared]
    unknown = [name for name in names if name and name not in python_encoding]
    if unknown:
        return ("SpecificCharacterSet names a set that DICOM does not have; text may be wrong",)
    if not foreign:
        return ()
    if not any(names):
        return (
            "text holds bytes beyond ASCII, but no SpecificCharacterSet is declared; "
            "it is shown as Latin-1 and may be wrong",
        )
    if set(names) <= _SINGLE_BYTE and any(map(_is_utf8, foreign)):
        return (f"text declared {names[0]} looks like UTF-8; it is shown as declared",)
    return ()
