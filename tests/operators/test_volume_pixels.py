"""From bytes to values: types, signs, padding, compression, memory."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import as_pixel_options, get_decoder
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
)

from operators.job import Instance, PixelPlace, Volume
from operators.study import layout
from operators.study.read import read_drop
from operators.study.walk import walk
from operators.volume.build import build_volumes
from operators.volume.codestream import codestream_size
from operators.volume.pixels import Rescale, fits_int16, read_stored, write_values
from operators.volume.refusals import (
    MultiframeImage,
    NotAnImageStack,
    UndecodablePixels,
    UnsupportedPixels,
)
from tests.series import Ball, centred_grid, render, write_ct_series

SHAPE = (4, 40, 36)
AFFINE = centred_grid(SHAPE, (2.5, 0.8, 1.1))
DCMCONV = shutil.which("dcmconv")
ARRAY = render([Ball((1.0, 2.0, -1.0), 5.0, 1500)], SHAPE, AFFINE)


def volume_of(folder: Path, edit=None, array=ARRAY) -> Volume:
    write_ct_series(folder, array, AFFINE, edit=edit)
    drop = read_drop(folder)
    assert drop.refused == ()
    (volume,) = build_volumes(drop.studies[0].series[0])
    return volume


def setting(**elements):
    def edit(dataset: Dataset, _: int) -> None:
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)

    return edit


@given(
    stored=st.lists(st.integers(0, 65535), min_size=1, max_size=8),
    slope=st.sampled_from([1.0, -1.0, 2.0]),
    intercept=st.integers(-70000, 70000),
)
def test_int16_is_chosen_only_where_it_is_exact(stored, slope, intercept):
    pixels = np.array([stored], np.uint16)
    rescale = Rescale(slope, float(intercept))
    true = [value * slope + intercept for value in stored]

    fits = fits_int16(pixels, rescale, None)
    out = np.empty(pixels.shape, np.int16 if fits else np.float32)
    write_values(pixels, rescale, None, -1024, out)

    assert fits == all(-32768 <= value <= 32767 for value in true)
    assert out[0].tolist() == true


def test_values_beyond_int16_in_a_late_slice_lose_nothing(tmp_path):
    def large_last(dataset: Dataset, k: int) -> None:
        dataset.SOPClassUID, dataset.Modality = MRImageStorage, "MR"
        dataset.PixelRepresentation = 0
        del dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType
        dataset.PixelData = np.full(SHAPE[1:], 60000 if k == 3 else k, "<u2").tobytes()

    volume = volume_of(tmp_path, large_last)

    assert volume.unit == "arbitrary"
    assert volume.array.dtype == np.float32
    assert volume.array[:, 0, 0].tolist() == [0, 1, 2, 60000]


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_plain_pixels_are_read_as_pydicom_decodes_them(data):
    """Any number of bits, any sign, anything in the bits that are not used, any length."""
    allocated = data.draw(st.sampled_from([8, 16, 32]))
    rows, columns = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    size = rows * columns * allocated // 8
    content = data.draw(st.binary(min_size=size, max_size=size)) + bytes(size % 2)
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, "1.2.3"
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns = rows, columns
    header.BitsAllocated, header.PixelRepresentation = allocated, data.draw(st.sampled_from([0, 1]))
    header.BitsStored = data.draw(st.integers(1, allocated))
    header.HighBit = header.BitsStored - 1
    options = as_pixel_options(header, pixel_keyword="PixelData")
    expected, _ = get_decoder(ExplicitVRLittleEndian).as_array(content, raw=True, **options)
    room = data.draw(st.sampled_from([None, np.zeros((rows, columns), np.int16)]))

    with TemporaryDirectory() as folder:
        path = Path(folder) / "pixels"
        path.write_bytes(content)
        found = path.stat()
        version = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        place = PixelPlace("PixelData", 0, len(content), version)
        stored = read_stored(Instance(path, header, place), "1.2.3", room)

    assert stored.dtype == expected.dtype
    assert np.array_equal(stored, expected)
    if room is not None and allocated == 16:
        assert np.shares_memory(stored, room)


def test_every_file_is_walked_once(tmp_path, monkeypatch):
    walked = []
    monkeypatch.setattr(layout, "walk", lambda *args, **how: walked.append(1) or walk(*args, **how))

    volume_of(tmp_path)

    assert len(walked) == SHAPE[0]


def test_a_file_that_changed_after_it_was_read_is_walked_again(tmp_path):
    write_ct_series(tmp_path, ARRAY, AFFINE)
    series = read_drop(tmp_path).studies[0].series[0]
    # Other offsets, other values: what was found before holds no more.
    write_ct_series(tmp_path, ARRAY + 7, AFFINE, edit=setting(ImageComments="x" * 500))

    (volume,) = build_volumes(series)

    assert np.array_equal(volume.array, ARRAY + 7)


def test_a_file_that_was_cut_after_it_was_read_is_refused(tmp_path):
    paths = write_ct_series(tmp_path, ARRAY, AFFINE)
    series = read_drop(tmp_path).studies[0].series[0]
    paths[2].write_bytes(paths[2].read_bytes()[:-10])

    with pytest.raises(UndecodablePixels, match="RL-01"):
        build_volumes(series)


def compressed(transfer_syntax: str):
    def edit(dataset: Dataset, _: int) -> None:
        # The encoders want unsigned pixels of the bits that are used.
        dataset.PixelRepresentation = 0
        dataset.RescaleIntercept = "-1024"
        dataset.BitsStored, dataset.HighBit = 12, 11
        signed = np.frombuffer(dataset.PixelData, "<i2")
        dataset.PixelData = (signed + 1024).astype("<u2").tobytes()
        dataset.compress(transfer_syntax, generate_instance_uid=False)

    return edit


@pytest.mark.parametrize("transfer_syntax", [JPEG2000Lossless, RLELossless])
def test_lossless_compression_changes_no_voxel(tmp_path, transfer_syntax):
    assert np.array_equal(volume_of(tmp_path, compressed(transfer_syntax)).array, ARRAY)


@pytest.mark.skipif(DCMCONV is None, reason="dcmconv (Debian package dcmtk) is missing")
@pytest.mark.parametrize("option", ["+ti", "+tb", "+td"], ids=["implicit", "big", "deflated"])
def test_encoding_changes_no_voxel_and_no_padding(tmp_path, option):
    array = ARRAY.copy()
    array[:, :3] = -2000
    for path in write_ct_series(tmp_path, array, AFFINE, edit=padded_with(-2000)):
        subprocess.run([DCMCONV, option, path, path], check=True)

    (volume,) = build_volumes(read_drop(tmp_path).studies[0].series[0])

    assert volume.padding is not None
    assert np.array_equal(volume.padding, array == -2000)
    assert np.array_equal(volume.array, np.where(array == -2000, -1024, array))


def padded_with(value: int, vr: str = "SS", limit: int | None = None):
    def edit(dataset: Dataset, _: int) -> None:
        dataset.add_new(0x00280120, vr, value)
        if limit is not None:
            dataset.add_new(0x00280121, vr, limit)

    return edit


def test_padding_value_in_the_wrong_sign_is_understood(tmp_path):
    array = ARRAY.copy()
    array[1] = -2000

    volume = volume_of(tmp_path, padded_with(65536 - 2000, "US"), array)

    assert volume.padding is not None
    assert volume.padding[1].all() and not volume.padding[0].any()
    assert (volume.array[1] == -1024).all()


def test_padding_range_includes_both_ends(tmp_path):
    array = ARRAY.copy()
    array[0, 0, :4] = [-2001, -2000, -1900, -1899]

    volume = volume_of(tmp_path, padded_with(-2000, limit=-1900), array)

    assert volume.padding[0, 0, :4].tolist() == [False, True, True, False]


def test_padding_far_below_int16_does_not_cost_the_integer_type(tmp_path):
    array = ARRAY.copy()
    array[:, 0] = -32768

    def shifted(dataset: Dataset, k: int) -> None:
        padded_with(-32768)(dataset, k)
        dataset.RescaleIntercept = "-1024"

    volume = volume_of(tmp_path, shifted, array)

    assert volume.array.dtype == np.int16
    assert (volume.array[:, 0] == -1024).all()
    assert (volume.array[:, 1:] == ARRAY[:, 1:] - 1024).all()


def test_without_padding_there_is_no_mask(tmp_path):
    assert volume_of(tmp_path, padded_with(-2000)).padding is None


PET = {"SOPClassUID": PositronEmissionTomographyImageStorage, "Modality": "PT"}


@pytest.mark.parametrize(
    ("elements", "unit", "flags"),
    [
        ({}, "HU", []),
        ({"RescaleType": "US"}, "arbitrary", ["not-hounsfield"]),
        ({"RescaleSlope": None}, "arbitrary", ["not-hounsfield"]),
        ({"SOPClassUID": MRImageStorage, "Modality": "MR"}, "arbitrary", []),
        ({**PET, "Units": "GML"}, "SUVbw", []),
        ({**PET, "Units": "GML", "SUVType": "LBM"}, "arbitrary", ["not-suv"]),
        ({**PET, "Units": "BQML"}, "arbitrary", ["not-suv"]),
        ({"LossyImageCompression": "01"}, "HU", ["lossy"]),
    ],
)
def test_unit_is_what_the_header_proves(tmp_path, elements, unit, flags):
    volume = volume_of(tmp_path, setting(**elements))

    assert volume.unit == unit
    assert [flag.name for flag in volume.quality] == flags


def test_slices_that_disagree_on_the_unit_have_none(tmp_path):
    def one_says_otherwise(dataset: Dataset, k: int) -> None:
        dataset.RescaleType = "US" if k == 2 else "HU"

    volume = volume_of(tmp_path, one_says_otherwise)

    assert volume.unit == "arbitrary"
    assert [flag.name for flag in volume.quality] == ["mixed-units"]


@pytest.mark.parametrize(
    ("elements", "refusal", "said"),
    [
        ({"RescaleSlope": "0"}, UnsupportedPixels, "RescaleSlope 0"),
        ({"RescaleSlope": "1e300"}, UnsupportedPixels, r"RescaleSlope 1e\+300"),
        ({"BitsStored": 12}, UnsupportedPixels, "HighBit is not BitsStored - 1"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, UnsupportedPixels, "colours"),
        ({"ModalityLUTSequence": [Dataset()]}, UnsupportedPixels, "Modality LUT"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, NotAnImageStack, "Secondary Capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1"}, MultiframeImage, "Enhanced CT"),
    ],
)
def test_what_is_not_one_value_per_voxel_is_refused_by_name(tmp_path, elements, refusal, said):
    with pytest.raises(refusal, match=said):
        volume_of(tmp_path, setting(**elements))


def test_float_pixels_in_a_ct_are_refused_by_name(tmp_path):
    def as_float(dataset: Dataset, k: int) -> None:
        if k == 2:
            dataset.FloatPixelData = np.zeros(SHAPE[1:], "<f4").tobytes()
            dataset.BitsAllocated = 32
            del dataset.PixelData

    with pytest.raises(UndecodablePixels, match="no integer pixel data"):
        volume_of(tmp_path, as_float)


def test_a_codestream_larger_than_its_header_is_refused_before_it_is_decoded(tmp_path):
    def too_large(dataset: Dataset, k: int) -> None:
        compressed(JPEG2000Lossless)(dataset, k)
        start = dataset.PixelData.find(b"\xff\x4f\xff\x51")
        dataset.PixelData = (
            dataset.PixelData[: start + 8]
            + (60000).to_bytes(4, "big") * 2
            + dataset.PixelData[start + 16 :]
        )

    with pytest.raises(
        UndecodablePixels, match="codestream holds 60000 x 60000 pixels, not 40 x 36"
    ):
        volume_of(tmp_path, too_large)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("JPEG-LL.dcm", (1024, 256)),
        ("JPGExtended.dcm", (1024, 256)),
        ("MR_small_jpeg_ls_lossless.dcm", (64, 64)),
        ("MR_small_jp2klossless.dcm", (64, 64)),
        ("GDCMJ2K_TextGBR.dcm", (400, 400)),
        ("HTJ2K_08_RGB.dcm", (480, 640)),
        ("SC_rgb_jpeg_dcmtk.dcm", (100, 100)),
        ("MR_small_RLE.dcm", None),
        ("MR_small.dcm", None),
    ],
)
def test_size_in_a_codestream_is_that_of_the_image(data_dir, name, size):
    from pydicom import dcmread

    dataset = dcmread(data_dir / "odd-series" / "pydicom" / name)

    assert codestream_size(dataset.PixelData, dataset.file_meta.TransferSyntaxUID) == size


@given(st.binary(max_size=200))
def test_no_bytes_hang_or_crash_the_codestream_reader(data):
    for syntax in (JPEG2000Lossless, JPEGLSLossless):
        codestream_size(b"\xff\xd8" + data, syntax)
        codestream_size(b"\xff\x4f\xff\x51" + data, syntax)


@pytest.mark.data
def test_one_image_in_six_encodings_has_the_same_values(data_dir):
    names = ("", "_implicit", "_bigendian", "_RLE", "_jp2klossless", "_jpeg_ls_lossless")
    arrays = []
    for name in names:
        path = data_dir / "odd-series" / "pydicom" / f"MR_small{name}.dcm"
        arrays.append(read_stored(one_instance(path), "1.2.3"))

    assert all(np.array_equal(arrays[0], array) for array in arrays[1:])


def one_instance(path: Path):
    with layout.open_layout(path) as opened:
        return Instance(path, opened.read_header())


def test_volume_keeps_what_its_readers_need(tmp_path):
    volume = volume_of(tmp_path)

    assert volume.frame_of_reference_uid == volume.headers[0].FrameOfReferenceUID
    assert volume.headers[0].SOPClassUID == CTImageStorage
    assert len(set(volume.source_sop_uids)) == SHAPE[0]
    assert volume.array.flags.c_contiguous
