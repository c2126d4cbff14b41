"""Frames cut out of one-bit pixel data, against numpy and against highdicom's own packing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.pixels.utils import pack_bits

from app.viewer.bit_frames import PackedFrames


def unpacked(frame: bytes, rows: int, columns: int) -> np.ndarray:
    """As a viewer unpacks a frame that begins with a byte."""
    bits = np.unpackbits(np.frombuffer(frame, np.uint8), bitorder="little")
    assert not bits[rows * columns :].any()  # filled with 0
    return bits[: rows * columns].reshape(rows, columns)


@settings(deadline=None)
@given(
    rows=st.integers(1, 19),
    columns=st.integers(1, 19),
    count=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_frame_comes_out_as_it_went_in(
    rows: int, columns: int, count: int, seed: int
) -> None:
    masks = np.random.default_rng(seed).integers(0, 2, (count, rows, columns), dtype=np.uint8)
    packed = pack_bits(masks)  # pydicom's: frames without a gap, even length
    frames = PackedFrames(packed, rows * columns, count)

    for number, mask in enumerate(masks, start=1):
        assert np.array_equal(unpacked(frames.frame(number), rows, columns), mask)


@pytest.mark.parametrize("number", [0, 4, -1])
def test_a_frame_that_is_not_there_is_not_made_up(number: int) -> None:
    with pytest.raises(IndexError):
        PackedFrames(bytes(8), 21, 3).frame(number)
