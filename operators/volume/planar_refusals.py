"""Why a 2D image can't be used: RL-1801 to RL-1819.

ModelRefusal: what was asked for is not there, said to the person who asked
├── ImageNotThere      RL-1801   no image has that number or UID
├── ImageAmbiguous     RL-1802   several images, and none was named
├── FrameNeeded        RL-1803   several frames, and none was named
├── FrameNotThere      RL-1804   no such frame
├── FrameOfStack       RL-1805   a frame of a stack of slices
└── ImageNeeded        RL-1806   a stack, and no slice was named
VolumeRefusal: the image itself
├── PlanarTooLarge     RL-1810   more pixels than may be decoded
├── PlanarUnsupported  RL-1811   a kind of pixels that is not read
└── PlanarUndecodable  RL-1812   pixels are not what the header promises
"""

from __future__ import annotations

from collections.abc import Sequence

from operators.errors import ModelRefusal, VolumeRefusal

_SHOWN = 8


class ImageNotThere(ModelRefusal):
    """No image of the series is the one that was named."""

    code = "RL-1801"

    def __init__(self, series_uid: str, named: str, there: Sequence[str]) -> None:
        super().__init__(
            f"series {series_uid}: no image is {named[:64]}. There are: {_listed(there)}."
        )


class ImageAmbiguous(ModelRefusal):
    """A series holds several 2D images and none was named."""

    code = "RL-1802"

    def __init__(self, series_uid: str, there: Sequence[str]) -> None:
        super().__init__(
            f"series {series_uid}: {len(there)} images could be meant. Name one by its SOP "
            f"Instance UID with --slice: {_listed(there)}."
        )


class FrameNeeded(ModelRefusal):
    """Frames are times or tiles: which one is a person's choice."""

    code = "RL-1803"

    def __init__(self, sop_uid: str, frames: int) -> None:
        super().__init__(f"image {sop_uid} has {frames} frames. Name one with --frame 1…{frames}.")


class FrameNotThere(ModelRefusal):
    """The image has no such frame."""

    code = "RL-1804"

    def __init__(self, sop_uid: str, frame: int, frames: int) -> None:
        super().__init__(
            f"image {sop_uid} has no frame {frame}: its frames are numbered 1 to {frames}."
        )


class FrameOfStack(ModelRefusal):
    """A frame was named, and the series is a stack of slices."""

    code = "RL-1805"

    def __init__(self, series_uid: str) -> None:
        super().__init__(
            f"series {series_uid} is a stack of slices, one file each, and has no frames. Leave "
            "--frame out and name the image with --slice."
        )


class ImageNeeded(ModelRefusal):
    """A series is a stack of slices and no slice was named."""

    code = "RL-1806"

    def __init__(self, series_uid: str, there: str) -> None:
        super().__init__(
            f"series {series_uid} is a stack of slices ({there}). Say with --slice which of them "
            "the prompt is on."
        )


class PlanarTooLarge(VolumeRefusal):
    """More pixels than are decoded."""

    code = "RL-1810"

    def __init__(self, sop_uid: str, rows: int, columns: int, limit: int) -> None:
        super().__init__(
            f"image {sop_uid}: a frame of {columns} x {rows} pixels (limit {limit} pixels). "
            "Send a smaller level or a part of it."
        )


class PlanarUnsupported(VolumeRefusal):
    """Pixels of a kind that is not read."""

    code = "RL-1811"

    def __init__(self, sop_uid: str, fault: str) -> None:
        super().__init__(f"image {sop_uid}: {fault}. Ask the source for another encoding of it.")


class PlanarUndecodable(VolumeRefusal):
    """The pixels are not what the header promises."""

    code = "RL-1812"

    def __init__(self, sop_uid: str, fault: str) -> None:
        super().__init__(
            f"image {sop_uid}: its pixels can't be decoded ({fault}). Send it again, uncompressed "
            "if it comes from an archive that can."
        )


def _listed(there: Sequence[str]) -> str:
    more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    return ", ".join(there[:_SHOWN]) + more
