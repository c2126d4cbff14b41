"""Key images: the right slice, the right side, valid, and nothing of the patient's identity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from operators.evidence.drawing import HEADER_PX, INK, draw_edges, printable
from operators.evidence.grey import LUNG_HU, SOFT_TISSUE_HU, SUV, window_of
from operators.evidence.key_image import build_key_images
from operators.evidence.key_slices import (
    FILL_SHARE,
    MAX_PAGES,
    SINGLE_PX,
    TILES_PER_PAGE,
    key_pages,
    key_slices,
    key_tile,
)
from operators.evidence.write import write_evidence
from operators.findings.measure import measure
from operators.findings.tally import tally
from operators.job import Plane, Report
from tests.operators.report import counted, make_report
from tests.operators.scene import RECORDED_AT, make_segmentation, segment, two_glands
from tests.series import Ball, Box, centred_grid, oblique
from tests.validators import dciodvfy_errors

SIDE_MM = 180.0
LEFT_BALL = Ball(centre_lps_mm=(50.0, -20.0, 30.0), radius_mm=16.0, hu=20)
"""In the patient's left, front and upper part."""
BODY = Box(centre_lps_mm=(0.0, 0.0, 0.0), size_lps_mm=(150.0, 130.0, 110.0), hu=-5)
AXIAL = np.eye(3)
CORONAL = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
SAGITTAL = np.array([[0, 0, -1.0], [1.0, 0, 0], [0, -1.0, 0]])
ACQUIRED = {
    "axial": (AXIAL, "RLAP", (1, -1)),
    "axial, rows mirrored": (AXIAL * [-1, 1, 1], "RLAP", (1, -1)),
    "axial, columns mirrored": (AXIAL * [1, -1, 1], "RLAP", (1, -1)),
    "axial, from above": (AXIAL * [-1, 1, -1], "RLAP", (1, -1)),
    "axial, lying on its side": (AXIAL[:, [1, 0, 2]], "RLAP", (1, -1)),
    "coronal": (CORONAL, "RLHF", (1, -1)),
    "coronal, from behind": (CORONAL * [-1, 1, -1], "RLHF", (1, -1)),
    "sagittal": (SAGITTAL, "APHF", (-1, -1)),
    "sagittal, mirrored": (SAGITTAL * [-1, 1, 1], "APHF", (-1, -1)),
    "turned by 20 degrees": (oblique(20, 0), ("RA", "LP", "AL", "PR"), (1, -1)),
}
"""Directions of i, j, k; letters left, right, top, bottom; to which side of the middle of the
picture (right, down) the ball lies."""


def ball_in_body(folder: Path, directions: np.ndarray) -> Report:
    shape_ijk = np.ceil(np.full(3, SIDE_MM) / (1.1, 1.4, 4.0)).astype(int)
    shape = (int(shape_ijk[2]), int(shape_ijk[1]), int(shape_ijk[0]))
    grid = centred_grid(shape, (4.0, 1.4, 1.1), directions)
    made = make_segmentation(
        folder, [BODY, LEFT_BALL], shape, grid, [segment(2, "parotid", "left")]
    )
    return measure(made)


@pytest.mark.parametrize("acquired", ACQUIRED)
def test_the_ball_is_on_its_side_and_the_letters_beside_it_say_so(
    tmp_path: Path, acquired: str
) -> None:
    directions, letters, (right, down) = ACQUIRED[acquired]
    report = ball_in_body(tmp_path, directions)
    (shown,) = key_slices(report, counted(report))

    tile = np.asarray(key_tile(report, shown, [], SINGLE_PX))[HEADER_PX:].astype(int)

    colour = np.array(report.findings[0].segment.colour_rgb)
    grey = (20 - SOFT_TISSUE_HU[0]) / (SOFT_TISSUE_HU[1] - SOFT_TISSUE_HU[0]) * 255
    filled = np.abs(tile - (FILL_SHARE * colour + (1 - FILL_SHARE) * grey)).max(axis=2) <= 6
    y, x = np.argwhere(filled).mean(axis=0) - SINGLE_PX / 2
    assert np.sign([x, y]).tolist() == [right, down]
    # Round on the screen, whatever the spacing: both extents are the ball's diameter.
    extent = np.ptp(np.argwhere(filled), axis=0)
    assert extent[0] == pytest.approx(extent[1], rel=0.08)
    expected = Image.new("RGB", (SINGLE_PX, SINGLE_PX))
    draw_edges(expected, list(letters))
    ink = (np.asarray(expected) == INK).all(axis=2)
    assert ink.sum() > 300
    assert (tile[ink] == INK).all()


def test_the_slice_is_the_one_through_the_ball_s_middle(tmp_path: Path) -> None:
    report = ball_in_body(tmp_path, AXIAL)
    volume = report.segmentation.volume

    (shown,) = key_slices(report, counted(report))
    (image,) = build_key_images(report, counted(report), RECORDED_AT)

    z = (volume.lps_from_index @ (0, 0, shown.k, 1))[2]
    assert abs(z - LEFT_BALL.centre_lps_mm[2]) <= 2.0
    (source,) = image.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == volume.source_sop_uids[shown.k]
    assert image.PatientOrientation == ["L", "P"]


@pytest.mark.parametrize("extra", [("key_images",), ("pdf",), ("key_images", "pdf")])
def test_dciodvfy_finds_no_error(tmp_path: Path, extra: tuple) -> None:
    report = two_glands(tmp_path / "in")

    evidence = write_evidence(report, tmp_path / "out", RECORDED_AT, extra)

    kinds = [item.kind for item in evidence]
    assert kinds == ["SEG", "SR", *[{"key_images": "KEY_IMAGE", "pdf": "PDF"}[e] for e in extra]]
    for item in evidence[2:]:
        assert not dciodvfy_errors(item.path)


def test_what_is_written_reads_back_as_it_was_drawn(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    (page,) = key_pages(report, key_slices(report, tally(report.segmentation)))

    evidence = write_evidence(report, tmp_path / "out", RECORDED_AT, ("key_images",))

    image = pydicom.dcmread(evidence[-1].path)
    assert (image.pixel_array == np.asarray(page.image)).all()
    assert image.BurnedInAnnotation == "YES"
    assert (image.Modality, image.SeriesNumber) == ("OT", 10001)
    assert image.SeriesDescription == "AI key images test_bundle 1.2.3"
    assert image.ContributingEquipmentSequence[-1].ContributionDescription.startswith(
        "weights_sha256 0123456789abcdef"
    )


NAMES = ["Yamada^Tarou=山田^太郎=やまだ^たろう", "Παπαδόπουλος^Νίκος", "Nobody^Known", ""]


def test_a_name_in_any_script_is_in_the_header_and_nowhere_else(tmp_path: Path) -> None:
    drawn, documents = set(), set()
    for number, name in enumerate(NAMES):

        def rename(dataset: Dataset, _k: int, name: str = name) -> None:
            dataset.PatientName = name
            dataset.PatientID = f"{name[:3]}-7"

        report = two_glands(tmp_path / str(number), edit=rename)
        evidence = write_evidence(
            report, tmp_path / f"{number}-out", RECORDED_AT, ("key_images", "pdf")
        )
        image, document = (pydicom.dcmread(item.path) for item in evidence[-2:])
        assert str(image.PatientName) == str(document.PatientName) == name
        assert image.SpecificCharacterSet == document.SpecificCharacterSet == "ISO_IR 192"
        drawn.add(image.PixelData)
        documents.add(document.EncapsulatedDocument)

    assert len(drawn) == len(documents) == 1


def test_the_same_record_gives_the_same_files(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")

    once, again = (
        {
            e.path.name: e.path.read_bytes()
            for e in write_evidence(report, folder, RECORDED_AT, all_)
        }
        for folder, all_ in ((tmp_path / n, ("key_images", "pdf")) for n in "ab")
    )

    assert once == again
    assert len(once) == 4


@pytest.mark.parametrize("found", [1, 2, 4, 12, 13, 48, 104])
def test_structures_are_spread_over_few_pages_and_the_rest_is_counted(found: int) -> None:
    report = make_report(found, 3)
    slices = key_slices(report, counted(report))

    pages = key_pages(report, slices)
    images = build_key_images(report, counted(report), RECORDED_AT)

    shown = [one for page in pages for one in page.slices]
    assert shown == slices[: MAX_PAGES * TILES_PER_PAGE]
    assert len(pages) == min(MAX_PAGES, -(-found // TILES_PER_PAGE))
    assert max(len(page.slices) for page in pages) - min(len(page.slices) for page in pages) <= 1
    assert len({image.SOPInstanceUID for image in images}) == len(pages)
    assert len({image.SeriesInstanceUID for image in images}) == 1
    assert [image.InstanceNumber for image in images] == list(range(1, len(pages) + 1))


def test_nothing_found_gives_no_key_image_and_a_pdf_that_says_so(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    nothing = measure(
        replace(report.segmentation, labels=np.zeros_like(report.segmentation.labels))
    )

    evidence = write_evidence(nothing, tmp_path / "out", RECORDED_AT, ("key_images", "pdf"))

    assert [item.kind for item in evidence] == ["SR", "PDF"]


def test_a_2d_image_whose_side_is_unknown_bears_no_letter() -> None:
    report = make_report(1, plane=Plane("xray", None, (), ""))

    (image,) = build_key_images(report, counted(report), RECORDED_AT)
    (page,) = key_pages(report, key_slices(report, counted(report)))

    assert image.PatientOrientation in (None, "", [])
    tile = np.asarray(page.image)[-SINGLE_PX - 44 : -44]
    assert not (tile == INK).all(axis=2).any()


def test_a_lossy_source_stays_marked_as_lossy(tmp_path: Path) -> None:
    def lossy(dataset: Dataset, _k: int) -> None:
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionRatio = "8.5"
        dataset.LossyImageCompressionMethod = "ISO_10918_1"

    report = two_glands(tmp_path / "in", edit=lossy)

    (image,) = build_key_images(report, tally(report.segmentation), RECORDED_AT)

    assert image.LossyImageCompression == "01"
    assert image.LossyImageCompressionRatio == 8.5


def test_windows_come_from_the_unit_and_the_tissue() -> None:
    values, header = np.linspace(0, 500, 100).reshape(10, 10), Dataset()

    assert window_of(values, "HU", header, mean=30.0) == SOFT_TISSUE_HU
    assert window_of(values, "HU", header, mean=-820.0) == LUNG_HU
    assert window_of(values, "SUVbw", header) == SUV
    assert window_of(values, "arbitrary", header) == pytest.approx((5.0, 495.0))
    header.WindowCenter, header.WindowWidth = 300, 101
    assert window_of(values, "arbitrary", header) == (249.5, 349.5)
    header.WindowCenter = 9000  # a window on nothing that is there would be a black picture
    assert window_of(values, "arbitrary", header) == pytest.approx((5.0, 495.0))


def test_letters_that_the_typeface_lacks_are_told_apart_from_the_text() -> None:
    assert printable("Ωμέγα ≥ 2 µm²") == "Ωμέγα ≥ 2 µm²"
    assert printable("肝臓", "liver") == "liver"
    assert printable("a肝b") == "a?b"


def test_highdicom_reads_the_colours_back_as_rgb(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    evidence = write_evidence(report, tmp_path / "out", RECORDED_AT, ("key_images",))

    frames = hd.Image.from_file(evidence[-1].path).get_frame(1)

    colour = np.array(report.findings[0].segment.colour_rgb)
    assert (np.asarray(frames) == colour).all(axis=2).sum() > 100
