"""Size of a compressed image as its codestream tells it, before anything is decoded.

A decoder reserves what the codestream asks for, not what Rows and Columns say: a
kilobyte can ask for gigabytes. So the two are compared first.
"""

from __future__ import annotations

from pydicom.uid import (
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

_SOC_SIZ = b"\xff\x4f\xff\x51"
_SOI = b"\xff\xd8"
# Start of frame, all processes, and JPEG-LS; without DHT (C4), JPG (C8) and DAC (CC).
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})


def codestream_size(encoded: bytes, transfer_syntax: str) -> tuple[int, int] | None:
    """Rows and columns of the first frame.

    Parameters
    ----------
    encoded : bytes
        Value of encapsulated pixel data, offset table and item tags included.
    transfer_syntax : str
        Transfer Syntax UID.

    Returns
    -------
    tuple of int, or None
        (0, 0) where a JPEG or JPEG 2000 codestream holds no size; None where the
        transfer syntax has no codestream (native, RLE).

    References
    ----------
    ISO/IEC 15444-1 A.5.1 (SIZ); ISO/IEC 10918-1 B.2.2 and 14495-1 C.2.2 (SOF).
    """
    if transfer_syntax in JPEG2000TransferSyntaxes:
        return _jpeg_2000(encoded)
    if transfer_syntax in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes):
        return _jpeg(encoded)
    return None


def _jpeg_2000(encoded: bytes) -> tuple[int, int]:
    start = encoded.find(_SOC_SIZ)
    if start < 0:
        return 0, 0
    # Xsiz, Ysiz, XOsiz, YOsiz: the image is what lies between the offset and the far corner.
    x, y, x0, y0 = (
        int.from_bytes(encoded[start + n : start + n + 4], "big") for n in (8, 12, 16, 20)
    )
    return y - y0, x - x0


def _jpeg(encoded: bytes) -> tuple[int, int]:
    start = encoded.find(_SOI)
    position = start + len(_SOI)
    # A start of frame takes 9 bytes up to its width: where fewer are left, there is none.
    last = len(encoded) - 9 if start >= 0 else -1
    while position <= last and encoded[position] == 0xFF:
        marker, length = encoded[position + 1], encoded[position + 2 : position + 4]
        if marker in _START_OF_FRAME:
            size = encoded[position + 5 : position + 9]
            return int.from_bytes(size[:2], "big"), int.from_bytes(size[2:], "big")
        # Fill bytes before a marker carry no length.
        position += 1 if marker == 0xFF else 2 + int.from_bytes(length, "big")
    return 0, 0
