"""Single frames of a BINARY SEG that Orthanc can't cut out.

One bit a pixel, frames follow each other without a gap (PS3.5 8.1.1), so a frame
may begin within a byte. Orthanc refuses `/frames/n` with 400 where Columns is no
multiple of 8 (seen with 1.10.1), as in many MR series, and OHIF then says
"Loading SEG..." for ever. The whole of the pixel data it does give; the frame is
cut out of that here and sent as if it stood alone, beginning with a byte.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

FRAMES = re.compile(r"(?P<instance>.+/instances/[^/]+)/frames/(?P<numbers>\d+(,\d+)*)")
NATIVE = "1.2.840.10008.1.2.1"
BOUNDARY = "radloop-bit-frames"
CONTENT_TYPE = f'multipart/related; type="application/octet-stream"; boundary={BOUNDARY}'
KEPT_SECONDS = 60.0
ROWS, COLUMNS, BITS_ALLOCATED, NUMBER_OF_FRAMES = "00280010", "00280011", "00280100", "00280008"


@dataclass(frozen=True)
class PackedFrames:
    """The pixel data of a one-bit image.

    Attributes
    ----------
    packed : bytes
        All frames, first pixel in the lowest bit, no gap between frames.
    pixels : int
        Of one frame: rows times columns.
    count : int
        Number of frames.
    """

    packed: bytes
    pixels: int
    count: int

    def frame(self, number: int) -> bytes:
        """One frame, counted from 1, beginning with a byte; the last byte is filled with 0.

        Raises
        ------
        IndexError
            No such frame.
        """
        if not 1 <= number <= self.count:
            raise IndexError(number)
        first = (number - 1) * self.pixels
        window = self.packed[first // 8 : (first + self.pixels + 7) // 8]
        bits = np.unpackbits(np.frombuffer(window, np.uint8), bitorder="little")
        own = bits[first % 8 : first % 8 + self.pixels]
        return np.packbits(own, bitorder="little").tobytes()


class BitFrameReader:
    """Gets the pixel data once for the many frames that are asked for in a row.

    Parameters
    ----------
    client : httpx.AsyncClient
        With the credentials for Orthanc.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._lock = asyncio.Lock()
        self._kept: tuple[str, float, PackedFrames | None] = ("", 0.0, None)

    async def multipart(self, url: str) -> bytes | None:
        """The answer to a request for frames.

        Parameters
        ----------
        url : str
            ``…/instances/UID/frames/1,2``, without a query.

        Returns
        -------
        bytes or None
            A body of `CONTENT_TYPE`; None where this is no one-bit image, or no such frame.
        """
        asked = FRAMES.fullmatch(url)
        if asked is None:
            return None
        async with self._lock:
            of_instance, since, frames = self._kept
            if of_instance != asked["instance"] or time.monotonic() - since > KEPT_SECONDS:
                frames = await self._load(asked["instance"])
                self._kept = (asked["instance"], time.monotonic(), frames)
        if frames is None:
            return None
        try:
            bodies = [frames.frame(int(number)) for number in asked["numbers"].split(",")]
        except IndexError:
            return None
        head = f"Content-Type: application/octet-stream; transfer-syntax={NATIVE}\r\n\r\n"
        parts = (f"--{BOUNDARY}\r\n{head}".encode() + body + b"\r\n" for body in bodies)
        return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()

    async def _load(self, instance: str) -> PackedFrames | None:
        described = await self._client.get(
            f"{instance}/metadata", headers={"Accept": "application/dicom+json"}
        )
        if described.status_code != 200:
            return None
        header = described.json()[0]
        if _number(header, BITS_ALLOCATED) != 1:
            return None
        pixels = _number(header, ROWS) * _number(header, COLUMNS)
        count = _number(header, NUMBER_OF_FRAMES)
        answer = await self._client.get(
            f"{instance}/bulk/7fe00010",
            headers={"Accept": "multipart/related; type=application/octet-stream"},
        )
        packed = _only_part(answer) if answer.status_code == 200 else None
        needed = (pixels * count + 7) // 8
        if packed is None or not needed <= len(packed) <= needed + 1:  # filled to an even length
            return None
        return PackedFrames(packed, pixels, count)


def _number(header: dict[str, Any], tag: str) -> int:
    return int(header.get(tag, {}).get("Value", [0])[0])


def _only_part(answer: httpx.Response) -> bytes | None:
    """Body of a multipart answer that has one part."""
    boundary = re.search(r'boundary="?([^";]+)', answer.headers.get("content-type", ""))
    if boundary is None:
        return None
    mark = b"--" + boundary[1].encode()
    start = answer.content.find(b"\r\n\r\n", answer.content.find(mark))
    end = answer.content.rfind(b"\r\n" + mark)
    return answer.content[start + 4 : end] if 0 <= start < end else None
