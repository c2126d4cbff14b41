"""The RTSTRUCT against rasterisers of others, our own reader of marks, and dciodvfy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from skimage.draw import polygon2mask
from skimage.measure import points_in_poly

from operators.evidence.rtstruct import NoPlaceInPatient, OffTheSourceSlices
from operators.evidence.write import write_evidence, write_job, write_structure_set
from operators.findings.measure import measure
from operators.job import ExtraEvidence, Plane, Report, Segmentation, StudyJob, Volume
from operators.models.medsam.mark_file import MarkFile, read_regions
from operators.models.medsam.place import place
from tests.operators.scene import RECORDED_AT, make_segmentation, segment, two_glands
from tests.series import Ball, axis_directions, centred_grid, oblique
from tests.validators import dciodvfy_errors

SHAPE = (5, 33, 27)
SPACING_ZYX_MM = (2.5, 0.7, 1.3)  # rows 0.7 mm apart, columns 1.3 mm
RIGHT_HANDED = [axes for axes in axis_directions() if np.linalg.det(axes) > 0]
GRIDS = {
    # One for each direction that slices can be stacked along, and each way to flip them.
    **{f"axes-{n:02}": axes for n, axes in enumerate(RIGHT_HANDED[::3])},
    "oblique": oblique(25, -15),
    "steep": oblique(100, 35),
}


def holed(number: int) -> np.ndarray:
    """A mask with holes, an island in a hole, pieces that touch by a corner, single pixels."""
    mask = np.zeros(SHAPE, bool)
    mask[1, 3:20, 4:22] = True
    mask[1, 6:15, 7:17] = False
    mask[1, 9:12, 10:13] = True
    mask[1, 17, 19] = False
    mask[1, 20, 22] = True
    mask[2] = np.random.default_rng(number).random(SHAPE[1:]) < 0.5
    mask[4, 0, 0] = mask[4, -1, -1] = True
    return mask


def phantom(folder: Path, directions: np.ndarray) -> Segmentation:
    """Two structures with holes and many pieces on a grid with uneven spacings."""
    grid = centred_grid(SHAPE, SPACING_ZYX_MM, directions, centre_lps_mm=(12.5, -28.7, 153.4))
    segments = [segment(2, "parotid", "left"), segment(5, "larynx"), segment(7, "mandible")]
    segmentation = make_segmentation(folder, [], SHAPE, grid, segments)
    labels = np.where(holed(1), 2, np.where(holed(2), 7, 0)).astype(np.uint8)
    return replace(segmentation, labels=labels)


def written(report: Report, folder: Path) -> Dataset:
    """The structure set as pydicom reads it from the file."""
    (evidence,) = write_structure_set(report, folder, RECORDED_AT)
    return pydicom.dcmread(evidence.path)


def in_pixels(contour: Dataset, headers: dict[str, Dataset]) -> tuple[str, np.ndarray]:
    """Image and corners (column, row), 0 at the centre of the first pixel; by headers alone."""
    (image,) = contour.ContourImageSequence
    header = headers[image.ReferencedSOPInstanceUID]
    assert image.ReferencedSOPClassUID == header.SOPClassUID
    points = np.array(contour.ContourData, float).reshape(-1, 3)
    assert len(points) == contour.NumberOfContourPoints
    offset = points - np.array(header.ImagePositionPatient, float)
    along_row, along_column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
    assert np.abs(offset @ np.cross(along_row, along_column)).max() < 2e-3  # in its plane
    row_mm, column_mm = map(float, header.PixelSpacing)
    pixels = np.column_stack([offset @ along_row / column_mm, offset @ along_column / row_mm])
    return str(header.SOPInstanceUID), pixels


def rasterised(structures: Dataset, number: int, volume: Volume, rule: str) -> np.ndarray:
    """Mask of an ROI: contours filled by scikit-image, each by itself, put together by a rule."""
    headers = {str(header.SOPInstanceUID): header for header in volume.headers}
    order = list(headers)
    rows, columns = np.indices(volume.array.shape[1:])
    mask = np.zeros(volume.array.shape, bool)
    (roi,) = [item for item in structures.ROIContourSequence if item.ReferencedROINumber == number]
    for contour in roi.ContourSequence:
        assert contour.ContourGeometricType == "CLOSED_PLANAR"
        uid, pixels = in_pixels(contour, headers)
        if rule == "polygon2mask":
            filled = polygon2mask(mask.shape[1:], pixels[:, ::-1])
        else:
            centres = np.column_stack([columns.ravel(), rows.ravel()])
            filled = points_in_poly(centres, pixels).reshape(mask.shape[1:])
        k = order.index(uid)
        mask[k] = mask[k] ^ filled if rule == "xor" else mask[k] | filled
    return mask


@pytest.mark.parametrize("directions", GRIDS.values(), ids=GRIDS.keys())
def test_contours_filled_again_give_every_voxel_back(
    tmp_path: Path, directions: np.ndarray
) -> None:
    segmentation = phantom(tmp_path / "in", directions)

    structures = written(measure(segmentation), tmp_path / "out")

    assert [roi.ROIName for roi in structures.StructureSetROISequence] == [
        "parotid_left",
        "mandible",
    ]
    for number, label in ((1, 2), (2, 7)):
        for rule in ("xor", "union", "polygon2mask"):
            found = rasterised(structures, number, segmentation.volume, rule)
            assert np.array_equal(found, segmentation.labels == label), rule


def test_borders_of_a_ball_are_right_to_half_a_pixel(tmp_path: Path) -> None:
    shape, spacing = (20, 60, 50), (1.5, 0.6, 0.9)
    ball = Ball((10.0, -40.0, 70.0), 11.0, 20)
    grid = centred_grid(shape, spacing, oblique(20, 10), (10.3, -40.2, 70.4))
    report = measure(make_segmentation(tmp_path, [ball], shape, grid, [segment(2, "mandible")]))

    structures = written(report, tmp_path / "out")

    (roi,) = structures.ROIContourSequence
    for contour in roi.ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        # Middles of the sides: half a pixel from the nearest centres, inside and outside.
        middles = (points + np.roll(points, -1, axis=0)) / 2
        off_plane = (middles[0] - ball.centre_lps_mm) @ oblique(20, 10)[:, 2]
        radius_mm = np.sqrt(ball.radius_mm**2 - off_plane**2)
        centre = np.array(ball.centre_lps_mm) + off_plane * oblique(20, 10)[:, 2]
        in_row, in_column = ((middles - centre) @ oblique(20, 10)[:, :2]).T
        distance_mm = np.abs(np.hypot(in_row, in_column) - radius_mm)
        # A side may be many pixels long where the circle runs along it.
        assert np.median(distance_mm) < 0.5 * min(spacing[1:])
        assert distance_mm.max() < 0.5 * np.hypot(*spacing[1:]) + 0.01


def test_our_own_reader_of_marks_finds_the_same_mask(tmp_path: Path) -> None:
    segmentation = phantom(tmp_path / "in", oblique(25, -15))
    (evidence,) = write_structure_set(measure(segmentation), tmp_path / "out", RECORDED_AT)

    (region,) = read_regions(MarkFile(evidence.path, "parotid_left"))
    placed = place([segmentation.volume], region)

    assert not placed.remarks  # each image that is named is there
    # A single pixel alone on its slice is prompted by its box.
    found = {k: prompt.mask for k, prompt in placed.slices.items() if prompt.mask is not None}
    for k in (1, 2):
        assert np.array_equal(found[k], segmentation.labels[k] == 2)


def test_the_structure_set_says_what_planning_systems_ask_for(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    volume = report.segmentation.volume
    structures = written(report, tmp_path / "out")
    seg = pydicom.dcmread(write_evidence(report, tmp_path / "out", RECORDED_AT)[0].path)

    (frame,) = structures.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (series,) = study.RTReferencedSeriesSequence
    assert frame.FrameOfReferenceUID == volume.frame_of_reference_uid
    assert study.ReferencedSOPInstanceUID == volume.headers[0].StudyInstanceUID
    assert series.SeriesInstanceUID == volume.series_instance_uid
    assert [image.ReferencedSOPInstanceUID for image in series.ContourImageSequence] == list(
        volume.source_sop_uids
    )
    for roi, contours, observed, in_seg in zip(
        structures.StructureSetROISequence,
        structures.ROIContourSequence,
        structures.RTROIObservationsSequence,
        seg.SegmentSequence,
        strict=True,
    ):
        assert roi.ROINumber == contours.ReferencedROINumber == observed.ReferencedROINumber
        assert roi.ReferencedFrameOfReferenceUID == volume.frame_of_reference_uid
        assert roi.ROIGenerationAlgorithm == "AUTOMATIC"
        assert (roi.TrackingID, roi.TrackingUID) == (in_seg.TrackingID, in_seg.TrackingUID)
        (source,) = roi.DefinitionSourceSequence
        assert source.ReferencedSOPInstanceUID == seg.SOPInstanceUID
        assert source.ReferencedSegmentNumber == in_seg.SegmentNumber == roi.ROINumber
        assert observed.RTROIInterpretedType == "ORGAN"
        (code,) = observed.RTROIIdentificationCodeSequence
        (type_in_seg,) = in_seg.SegmentedPropertyTypeCodeSequence
        assert code == type_in_seg  # with its side
    assert structures.ROIContourSequence[0].ROIDisplayColor == [230, 80, 60]
    assert structures.PatientName == "Phantom^Analytic"
    assert structures.ApprovalStatus == "UNAPPROVED"
    assert (structures.Modality, structures.Manufacturer) == ("RTSTRUCT", "radloop")


def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    for name, report in (
        ("glands", two_glands(tmp_path / "a")),
        ("holes", measure(phantom(tmp_path / "b", oblique(25, -15)))),
    ):
        (evidence,) = write_structure_set(report, tmp_path / name, RECORDED_AT)
        assert not dciodvfy_errors(evidence.path)


def test_a_contour_longer_than_an_explicit_length_is_written_whole(tmp_path: Path) -> None:
    shape = (2, 80, 80)
    grid = centred_grid(shape, (2.5, 0.7, 1.3))
    segmentation = make_segmentation(tmp_path / "in", [], shape, grid, [segment(2, "mandible")])
    labels = np.zeros(shape, np.uint8)
    labels[0, 2:-2, 2:-2] = 2
    labels[0, 3:-3:2, 3:-3:2] = 0  # a sieve
    report = measure(replace(segmentation, labels=labels))

    structures = written(report, tmp_path / "out")

    (contour,) = structures.ROIContourSequence[0].ContourSequence
    digits = len("\\".join(str(value) for value in contour.ContourData))
    assert digits > 65534  # what a length of 16 bits can say
    assert np.array_equal(rasterised(structures, 1, report.segmentation.volume, "xor"), labels == 2)


def test_in_plane_shift_of_a_resampled_volume_is_undone(tmp_path: Path) -> None:
    segmentation = phantom(tmp_path / "in", oblique(25, -15))
    # The same patient on a grid that is cut off by two columns and one row.
    moved = segmentation.volume.lps_from_index.copy()
    moved[:3, 3] += moved[:3, :3] @ (2, 1, 0)
    labels = np.zeros_like(segmentation.labels)
    labels[:, :-1, :-2] = segmentation.labels[:, 1:, 2:]
    cut = replace(
        segmentation,
        labels=labels,
        volume=replace(segmentation.volume, lps_from_index=moved),
    )

    structures = written(measure(cut), tmp_path / "out")

    expected = np.zeros_like(segmentation.labels)
    expected[:, 1:, 2:] = segmentation.labels[:, 1:, 2:]
    found = rasterised(structures, 1, segmentation.volume, "xor")
    assert np.array_equal(found, expected == 2)


def test_a_volume_on_other_planes_than_its_images_is_refused_but_keeps_seg_and_sr(
    tmp_path: Path,
) -> None:
    report = two_glands(tmp_path / "in")
    volume = report.segmentation.volume
    turned = np.eye(4)
    turned[:3, :3] = oblique(0, 1)  # 1 degree
    off = replace(volume, lps_from_index=turned @ volume.lps_from_index)
    report = replace(report, segmentation=replace(report.segmentation, volume=off))
    job = StudyJob(tmp_path, tmp_path / "out", RECORDED_AT, reports=(report,))

    with pytest.raises(OffTheSourceSlices, match=r"limit 0\.1 mm"):
        write_structure_set(report, tmp_path / "none", RECORDED_AT)
    done = write_job(job, {"rtstruct"}, {"test_bundle"})

    assert [item.kind for item in done.evidence] == ["SEG", "SR"]
    assert [refused.reason[:7] for refused in done.refused] == ["RL-0561"]


def test_a_2d_image_has_no_contours_in_the_patient(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    volume = replace(report.segmentation.volume, plane=Plane("xray", None, (), ""))
    flat = replace(report, segmentation=replace(report.segmentation, volume=volume))

    with pytest.raises(NoPlaceInPatient):
        write_structure_set(flat, tmp_path / "out", RECORDED_AT)


def test_only_bundles_that_are_named_get_one_and_nothing_found_gets_none(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    nothing = measure(
        replace(report.segmentation, labels=np.zeros_like(report.segmentation.labels))
    )

    def kinds(report: Report, extra: set[ExtraEvidence], names: set[str]) -> list[str]:
        job = StudyJob(tmp_path, tmp_path / "out", RECORDED_AT, reports=(report,))
        return [item.kind for item in write_job(job, extra, names).evidence]

    assert kinds(report, {"rtstruct"}, {"test_bundle"}) == ["SEG", "SR", "RTSTRUCT"]
    assert kinds(report, {"rtstruct"}, {"other"}) == ["SEG", "SR"]
    assert kinds(report, set(), {"test_bundle"}) == ["SEG", "SR"]
    assert kinds(nothing, {"rtstruct"}, {"test_bundle"}) == ["SR"]


def test_a_second_run_writes_the_same_bytes_and_no_uid_is_shared(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")

    first, second = (
        write_structure_set(report, tmp_path / name, RECORDED_AT)[0] for name in ("a", "b")
    )
    seg, sr = write_evidence(report, tmp_path / "a", RECORDED_AT)

    assert first.path.read_bytes() == second.path.read_bytes()
    assert len({seg.series_instance_uid, sr.series_instance_uid, first.series_instance_uid}) == 3
    assert len({seg.path, sr.path, first.path}) == 3
