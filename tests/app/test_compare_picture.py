"""Pixels drawn anew: right values, bounded size, nothing else inside."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset

from app.compare import picture
from app.compare.picture import (
    LONGEST_SIDE,
    PictureUnusable,
    check_picture,
    grey_picture,
    key_image,
    key_image_png,
    picture_png,
)
from operators.errors import VolumeRefusal
from operators.job import Series
from operators.study.read import read_drop
from tests.series import centred_grid, oblique, write_ct_series

SECRET = b"PLANTED^NAME"


def series(folder: Path, array: np.ndarray, edit=None, directions=None) -> Series:
    affine = centred_grid(array.shape, (3.0, 1.0, 1.0), directions)
    write_ct_series(folder, array, affine, shuffle_seed=3, edit=edit)
    drop = read_drop(folder)
    assert not drop.refused
    return drop.studies[0].series[0]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("directions", [None, oblique(20, 110)])
def test_the_middle_slice_is_the_middle_in_space(tmp_path: Path, directions) -> None:
    array = np.arange(9)[:, None, None] * np.ones((9, 4, 4)) * 100
    chosen = key_image(series(tmp_path, array, directions=directions))
    assert np.unique(np.frombuffer(_pixel_data(chosen.path), "<i2")) == [400]


def _pixel_data(path: Path) -> bytes:
    import pydicom

    return bytes(pydicom.dcmread(path).PixelData)


@pytest.mark.parametrize("inverted", [False, True])
def test_window_rescale_and_monochrome1(tmp_path: Path, inverted: bool) -> None:
    ramp = np.tile(np.arange(0, 100), (3, 10, 1))

    def edit(dataset: Dataset, _: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = "10", "-500"
        dataset.WindowCenter, dataset.WindowWidth = ["0", "40"], ["401", "80"]
        if inverted:
            dataset.PhotometricInterpretation = "MONOCHROME1"

    shown = pixels(key_image_png(key_image(series(tmp_path, ramp, edit))))

    # PS3.3 C.11.2.1.2.1 with c = 0, w = 401; then the inversion of C.7.6.3.1.2.
    value = ramp[0] * 10 - 500
    expected = np.clip((value + 0.5) / 400 + 0.5, 0, 1) * 255
    assert np.allclose(shown, 255 - expected if inverted else expected, atol=1)


@pytest.mark.parametrize(
    ("centre", "width"), [("", ""), ("40", "0"), ("x", "y"), ("1e400", "1"), (None, "80")]
)
def test_a_window_that_is_none_gives_way_to_the_values(tmp_path: Path, centre, width) -> None:
    def edit(dataset: Dataset, _: int) -> None:
        dataset.add_new(0x00281050, "LO", centre)
        dataset.add_new(0x00281051, "LO", width)

    ramp = np.tile(np.arange(0, 100), (3, 10, 1))
    shown = pixels(key_image_png(key_image(series(tmp_path, ramp, edit))))
    assert shown.min() == 0 and shown.max() == 255


def test_padding_is_black_and_does_not_set_the_window(tmp_path: Path) -> None:
    array = np.tile(np.arange(0, 100), (3, 10, 1))
    array[:, :, :30] = -2000

    def edit(dataset: Dataset, _: int) -> None:
        dataset.add_new(0x00280120, "SS", -2000)

    shown = pixels(key_image_png(key_image(series(tmp_path, array, edit))))
    assert (shown[:, :30] == 0).all() and int(shown[0, 65]) == pytest.approx(127, abs=6)


def test_colour_is_not_drawn(tmp_path: Path) -> None:
    def edit(dataset: Dataset, _: int) -> None:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
        dataset.PlanarConfiguration = 0
        dataset.PixelData = bytes(96)

    with pytest.raises(VolumeRefusal):
        key_image_png(key_image(series(tmp_path, np.zeros((3, 4, 4)), edit)))


def test_the_longest_side_is_bounded(tmp_path: Path) -> None:
    wide = series(tmp_path, np.zeros((3, 10, 2500)))
    assert max(pixels(key_image_png(key_image(wide))).shape) == LONGEST_SIDE


def with_secrets(folder: Path, form: str) -> Path:
    """A picture that carries a text in every place that Pillow can write one to."""
    from PIL import PngImagePlugin

    image = Image.fromarray(np.arange(2500, dtype=np.uint8).reshape(50, 50)).convert("RGB")
    path = folder / f"picture.{form}"
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    if form == "png":
        info = PngImagePlugin.PngInfo()
        info.add_text("Name", SECRET.decode())
        info.add_itxt("Name", SECRET.decode())
        image.save(path, pnginfo=info, exif=exif, icc_profile=SECRET * 20)
    else:
        image.save(path, exif=exif, comment=SECRET, icc_profile=SECRET * 20)
    path.write_bytes(path.read_bytes() + SECRET)
    return path


@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_metadata_and_what_follows_the_end_stay(tmp_path: Path, form: str) -> None:
    path = with_secrets(tmp_path, form)
    assert SECRET in path.read_bytes()
    drawn = picture_png(path)
    assert SECRET not in drawn and SECRET not in zlib.decompress(_idat(drawn))
    assert Image.open(io.BytesIO(drawn)).info == {}


def _idat(png: bytes) -> bytes:
    at, data = 8, b""
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += length + 12
    return data


def test_what_transparency_hides_stays_hidden(tmp_path: Path) -> None:
    hidden = np.zeros((20, 20, 4), np.uint8)
    hidden[5:10, 5:10, :3] = 255  # white letters under alpha 0
    hidden[15, 15] = (255, 0, 0, 255)
    Image.fromarray(hidden).save(tmp_path / "x.png")
    shown = pixels(picture_png(tmp_path / "x.png"))
    assert not shown[5:10, 5:10].any() and tuple(shown[15, 15]) == (255, 0, 0)


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    deep = np.tile(np.linspace(0, 4000, 200), (50, 1)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "x.png")
    shown = pixels(picture_png(tmp_path / "x.png"))
    assert shown.dtype == np.uint8 and shown.min() == 0 and shown.max() == 255


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
@pytest.mark.parametrize("white_is_zero", [True, False])
def test_a_tiff_whose_zero_is_white_is_turned_over(
    tmp_path: Path, kind: type, white_is_zero: bool
) -> None:
    ramp = np.tile(np.linspace(0, 250, 200), (50, 1)).astype(kind)
    tags = {262: 0 if white_is_zero else 1}
    Image.fromarray(ramp).save(tmp_path / "x.tif", tiffinfo=tags)

    for shown in (pixels(picture_png(tmp_path / "x.tif")), grey_picture(tmp_path / "x.tif")):
        dark, bright = (shown[0, -1], shown[0, 0]) if white_is_zero else (shown[0, 0], shown[0, -1])
        assert dark < 20 and bright > 230


def test_a_tiff_with_values_that_are_no_numbers_is_refused(tmp_path: Path) -> None:
    values = np.zeros((20, 20), np.float32)
    values[3, 4] = np.nan
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(PictureUnusable, match="no numbers"):
        grey_picture(tmp_path / "x.tif")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9999)))
    )
    (tmp_path / "x.png").write_bytes(bomb + chunk(b"IEND", b""))
    with pytest.raises(PictureUnusable, match=r"limit|sound"):
        check_picture(tmp_path / "x.png")


def test_the_pixel_limit_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "PIXEL_LIMIT", 99)
    Image.new("L", (10, 10)).save(tmp_path / "x.png")
    with pytest.raises(PictureUnusable, match=r"10 x 10 pixels \(limit 99\)"):
        check_picture(tmp_path / "x.png")


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, 3000), noise=st.binary(max_size=8), form=st.sampled_from(["png", "jpeg"]))
def test_a_damaged_picture_is_drawn_or_refused(
    tmp_path_factory: pytest.TempPathFactory, cut: int, noise: bytes, form: str
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = with_secrets(folder, form)
    whole = path.read_bytes()
    at = cut % len(whole)
    for damaged in (whole[:at], whole[:at] + noise + whole[at + len(noise) :]):
        path.write_bytes(damaged)
        try:
            assert SECRET not in picture_png(path)
        except PictureUnusable as refusal:
            assert "PLANTED" not in str(refusal)
