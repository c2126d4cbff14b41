"""Real 2D images as grey pictures, against dcmtk; and what is refused before it is decoded."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import JPEGBaseline8Bit

from operators.errors import Refusal
from operators.job import Series
from operators.study.image_type import planar_type_of_series
from operators.study.read import read_drop
from operators.volume.planar import PlanarChoice, build_planar
from operators.volume.planar_pixels import PIXEL_LIMIT
from operators.volume.planar_refusals import (
    FrameNeeded,
    FrameNotThere,
    ImageAmbiguous,
    ImageNotThere,
    PlanarTooLarge,
    PlanarUndecodable,
    PlanarUnsupported,
)

pytestmark = pytest.mark.data
OWN = "xray-us-pathology"
ODD = "odd-series/pydicom"
# File, frame, kind, what turns its pixels into native ones for dcm2pnm.
PICTURES = {
    "CR-like secondary capture": (f"{OWN}/xray/nih_chest_pa.dcm", None, "xray", None),
    "DX, MONOCHROME1": ("highdicom/dx_image.dcm", None, "xray", None),
    "CR, rescale and window": (f"{ODD}/dicomdir/77654033/CR1/6154", None, "xray", None),
    "US, palette, frame 2": (f"{OWN}/us/OBXXXX1A_rle_2frame.dcm", 2, "ultrasound", "dcmdrle"),
    "US, RGB": (f"{OWN}/us/examples_rgb_color.dcm", None, "ultrasound", None),
    "US, YBR_FULL_422, frame 30": (
        f"{OWN}/us/examples_ybr_color.dcm",
        30,
        "ultrasound",
        "dcmdjpeg",
    ),
    "US, palette": (f"{ODD}/examples_palette.dcm", None, "ultrasound", None),
    "US, big endian": (f"{ODD}/ExplVR_BigEnd.dcm", None, "ultrasound", None),
    "US, lossless JPEG": (
        f"{ODD}/JPGLosslessP14SV1_1s_1f_8b.dcm",
        None,
        "ultrasound",
        "dcmdjpeg",
    ),
    "SM, JPEG, tile 16": (f"{OWN}/pathology/he_region_1024_sm.dcm", 16, "pathology", "dcmdjpeg"),
    "SM, JPEG-LS, tile 25": ("highdicom/sm_image_jpegls_nobot.dcm", 25, "pathology", "dcmdjpls"),
    "VOI LUT": (f"{ODD}/vlut_04.dcm", None, None, None),
    "Modality LUT": (f"{ODD}/mlut_18.dcm", None, None, None),
}

LOSSY_JPEG = {"US, YBR_FULL_422, frame 30", "SM, JPEG, tile 16"}


def series_of(folder: Path, *files: Path) -> Series:
    folder.mkdir(exist_ok=True)
    for n, file in enumerate(files):
        shutil.copy(file, folder / f"{n}.dcm")
    drop = read_drop(folder)
    assert drop.refused == ()
    return drop.studies[0].series[0]


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: dcmtk)")
    return found


def by_dcmtk(file: Path, frame: int | None, to_native: str | None, folder: Path) -> np.ndarray:
    """The frame as dcmtk shows it, colours to grey by Pillow's own weights (BT.601)."""
    out, native = folder / "picture.ppm", folder / "native"
    if to_native is not None:
        subprocess.run([program(to_native), file, native], check=True, capture_output=True)
        file = native
    window = ["+Wi", "1"] if "WindowCenter" in dcmread(file, stop_before_pixels=True) else ["+Wm"]
    command = [program("dcm2pnm"), "--write-raw-pnm", "+F", str(frame or 1), *window, file, out]
    subprocess.run(command, check=True, capture_output=True)
    return np.asarray(Image.open(out).convert("L"), float)


@pytest.mark.parametrize("name", PICTURES)
def test_a_real_image_is_as_bright_as_dcmtk_shows_it(data_dir, tmp_path, name):
    path, frame, kind, to_native = PICTURES[name]
    series = series_of(tmp_path / "in", data_dir / path)

    volume = build_planar(series, PlanarChoice(frame=frame))

    assert planar_type_of_series(series) == kind
    grey = volume.array[0]
    shown = by_dcmtk(data_dir / path, frame, to_native, tmp_path)
    # dcmtk rounds to whole grey levels, and once more where colours become grey; its decoder
    # of lossy JPEG doubles the colours' resolution in another way than libjpeg-turbo.
    largest, mean = (25.0, 1.5) if name in LOSSY_JPEG else (1.51, 0.8)
    assert grey.shape == shown.shape
    assert np.abs(grey - shown).max() <= largest
    assert np.abs(grey - shown).mean() <= mean


def test_a_palette_in_segments_is_read_as_pydicom_reads_it(data_dir, tmp_path):
    """dcmtk has no segmented palettes; the ALOKA's is a grey ramp with some colours."""
    file = data_dir / OWN / "us" / "gdcm-US-ALOKA-16.dcm"
    volume = build_planar(series_of(tmp_path / "in", file), PlanarChoice())

    assert volume.array.max() > 200
    assert len(volume.plane.scales) == 2


@pytest.mark.parametrize("name", ["RG1_J2KI", "RG3_J2KI"])
def test_monochrome1_is_turned_so_that_bone_is_bright(data_dir, tmp_path, name):
    file = data_dir / OWN / "xray" / f"{name}.dcm"
    volume = build_planar(series_of(tmp_path / "in", file), PlanarChoice())

    stored = dcmread(file).pixel_array.ravel()[::97].astype(float)
    assert np.corrcoef(stored, volume.array.ravel()[::97])[0, 1] < -0.99
    assert volume.plane.scales == ()
    assert np.isnan(volume.voxel_ml)
    assert np.isnan(volume.spacing_zyx_mm).all()


def test_a_frame_must_be_named_and_be_there(data_dir, tmp_path):
    series = series_of(tmp_path / "in", data_dir / OWN / "us" / "examples_ybr_color.dcm")

    with pytest.raises(FrameNeeded, match="30 frames"):
        build_planar(series, PlanarChoice())
    for frame in (0, 31, -1):
        with pytest.raises(FrameNotThere, match="1 to 30"):
            build_planar(series, PlanarChoice(frame=frame))


def another(file: Path, out: Path, edit) -> Path:
    dataset = dcmread(file)
    edit(dataset)
    dataset.save_as(out)
    return out


def test_of_several_images_one_must_be_named(data_dir, tmp_path):
    file = data_dir / "highdicom" / "dx_image.dcm"

    def renumber(dataset):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
        dataset.InstanceNumber = 7

    series = series_of(tmp_path / "in", file, another(file, tmp_path / "b.dcm", renumber))

    with pytest.raises(ImageAmbiguous, match=r"1\.2\.3\.4 \(number 7, 211 x 169, 1 frames\)"):
        build_planar(series, PlanarChoice())
    with pytest.raises(ImageNotThere, match="no image is 8"):
        build_planar(series, PlanarChoice("8"))
    for named in ("7", "1.2.3.4"):
        assert build_planar(series, PlanarChoice(named)).source_sop_uids == ("1.2.3.4",)


@pytest.mark.parametrize(
    ("edit", "refusal"),
    [
        ({"Rows": 20000, "Columns": 20000}, PlanarTooLarge),
        ({"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}, PlanarUnsupported),
        ({"PhotometricInterpretation": "CMYK"}, PlanarUnsupported),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, PlanarUnsupported),
        ({"SamplesPerPixel": 3}, PlanarUnsupported),
        ({"Rows": 168}, PlanarUndecodable),
    ],
)
def test_what_is_not_read_is_refused_by_name(data_dir, tmp_path, edit, refusal):
    """Changed in memory: the drop's own checks would refuse some of these files before."""
    file = data_dir / "highdicom" / "dx_image.dcm"
    series = series_of(tmp_path / "in", file)
    if refusal is PlanarUndecodable:  # a JPEG of 768 rows under a header of 168
        series = series_of(tmp_path / "jpeg", data_dir / ODD / "JPGLosslessP14SV1_1s_1f_8b.dcm")
    for keyword, value in edit.items():
        setattr(series.instances[0].header, keyword, value)

    with pytest.raises(refusal):
        build_planar(series, PlanarChoice())
    assert PIXEL_LIMIT < 20000 * 20000


def test_broken_fragments_are_a_refusal_and_no_traceback(data_dir, tmp_path):
    file = data_dir / OWN / "us" / "examples_ybr_color.dcm"

    def cut(dataset):
        assert dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
        dataset.PixelData = dataset.PixelData[:2000] + b"\0" * 40000

    damaged = tmp_path / "in"
    damaged.mkdir()
    another(file, damaged / "a.dcm", cut)
    drop = read_drop(damaged)

    if drop.studies:
        with pytest.raises(Refusal):
            build_planar(drop.studies[0].series[0], PlanarChoice(frame=30))
    else:
        assert drop.refused
