"""Which frame, which volume and which plane a mark of a file is on, or why that can't be told."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from app.graph import Asked
from operators.evidence.write import write_evidence
from operators.job import Plane, Volume
from operators.models.medsam.mark_file import (
    MarkFile,
    OffTheSlices,
    OnWholeSlide,
    OtherFrame,
    OtherImageFrame,
    OtherPatient,
    VolumeAmbiguous,
    read_regions,
)
from operators.models.medsam.place import place
from operators.models.medsam.region import Region
from operators.volume.planar import PlanarChoice, build_planar
from tests.operators.marks import (
    LENGTH,
    coordinates,
    group,
    number,
    write_report,
    write_structures,
)
from tests.operators.scene import RECORDED_AT, make_segmentation, segment, two_glands
from tests.operators.test_volume_planar import series_of
from tests.series import Ball, centred_grid, oblique, stable_uid

SHAPE_ZYX = (9, 60, 70)
GRID = centred_grid(SHAPE_ZYX, (3.0, 0.8, 1.6), oblique(25, -15), (10.0, -20.0, 30.0))
K = 4
RECTANGLE = [(20, 14), (41, 14), (41, 33), (20, 33), (20, 14)]


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    ball = Ball((10.0, -20.0, 30.0), 9.0, 20)
    segments = [segment(2, "parotid", "left")]
    return make_segmentation(tmp_path / "in", [ball], SHAPE_ZYX, GRID, segments).volume


def lps(points_px, k: float = K) -> np.ndarray:
    """Pixel edges (x, y) of slice k in LPS mm."""
    points = np.array(points_px, float)
    index = np.column_stack([points - 0.5, np.full(len(points), k), np.ones(len(points))])
    return index @ GRID[:3].T


def circle(radius_px: float, x: float = 30, y: float = 25) -> np.ndarray:
    """Pixel edges of a circle of 60 corners."""
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return np.column_stack([x + radius_px * np.cos(angles), y + radius_px * np.sin(angles)])


def structure(path: Path, volume: Volume, contours, **changed: str) -> Region:
    """The one structure of an RTSTRUCT with these contours."""
    write_structures(path, replace(volume, **changed), contours)
    (region,) = read_regions(MarkFile(path))
    return region


def cine(volume: Volume, frames: int, frame: int | None, **header: object) -> Volume:
    """A 2D image of so many frames, of which one is used."""
    image = deepcopy(volume.headers[K])
    image.NumberOfFrames = frames
    for keyword, value in header.items():
        setattr(image, keyword, value)
    return replace(
        volume,
        array=volume.array[K : K + 1],
        lps_from_index=np.full((4, 4), np.nan),
        frame_of_reference_uid="",
        headers=(image,),
        plane=Plane("ultrasound", frame, (), ""),
    )


def marked_frames(path: Path, volume: Volume, *frames: int, origin: str = "") -> Path:
    """A report with one rectangle on these frames of slice K's image."""
    mark = coordinates(volume, K, "POLYLINE", RECTANGLE)
    if frames:
        (reference,) = mark.ContentSequence[0].ReferencedSOPSequence
        reference.ReferencedFrameNumber = list(frames)
    if origin:
        mark.PixelOriginInterpretation = origin
    return write_report(path, volume, [group("a", [number(LENGTH, mark)])])


def test_a_mark_is_used_on_the_frames_that_it_names_and_on_no_other(tmp_path, volume):
    second, several, none = (
        read_regions(MarkFile(marked_frames(tmp_path / f"{frames}", volume, *frames)))[0]
        for frames in ((2,), (2, 17), ())
    )

    for region, frame in [(second, 2), (several, 2), (several, 17)]:
        (prompt,) = place([cine(volume, 30, frame)], region).slices.values()
        assert prompt.box == (20, 14, 41, 33)
    with pytest.raises(OtherImageFrame, match=r"on frame 2 of image .* 30 frames, and frame 17"):
        place([cine(volume, 30, 17)], second)
    with pytest.raises(OtherImageFrame, match=r"frame 2, 17 of .* frame 3 is used"):
        place([cine(volume, 30, 3)], several)
    with pytest.raises(OtherImageFrame, match=r"no frame that is named .* --box and --frame"):
        place([cine(volume, 30, 1)], none)
    for one in (cine(volume, 1, 1), cine(volume, 1, None), volume):
        assert place([one], none).slices
        with pytest.raises(OtherImageFrame, match=r"which has 1 frame[,.]"):
            place([one], second)


def test_coordinates_of_a_whole_slide_are_not_those_of_a_tile(tmp_path, volume):
    def tile(height: int) -> Volume:
        return cine(volume, 30, 2, TotalPixelMatrixRows=height, TotalPixelMatrixColumns=70)

    for origin, named in [("VOLUME", "VOLUME"), ("", "absent")]:
        path = marked_frames(tmp_path / f"o{origin}", volume, 2, origin=origin)
        (region,) = read_regions(MarkFile(path))
        with pytest.raises(OnWholeSlide, match=f"Interpretation is {named}, not FRAME"):
            place([tile(1800)], region)
        assert place([tile(60)], region).slices  # the one tile is the slide
    path = marked_frames(tmp_path / "frame", volume, 2, origin="FRAME")
    assert place([tile(1800)], read_regions(MarkFile(path))[0]).slices


@pytest.mark.data
def test_the_frame_of_the_mark_is_taken_where_a_person_names_none(data_dir, tmp_path):
    cine = data_dir / "xray-us-pathology" / "us" / "OBXXXX1A_rle_2frame.dcm"
    series = series_of(tmp_path / "in", cine)
    header = series.instances[0].header
    source = replace(build_planar(series, PlanarChoice(frame=1)), headers=(header,) * (K + 1))
    regions = read_regions(MarkFile(marked_frames(tmp_path / "sr", source, 2)))

    by_mark = build_planar(series, Asked("medsam_lite", None, regions).choice)
    by_person = build_planar(series, Asked("medsam_lite", None, regions, frame=1).choice)

    assert by_mark.plane.frame == 2
    assert by_person.plane.frame == 1
    assert place([by_mark], regions[0]).slices
    with pytest.raises(OtherImageFrame):
        place([by_person], regions[0])


def test_coordinates_without_a_frame_of_reference_mean_nothing_on_any_image(tmp_path, volume):
    """Two that are empty are not one: neither a 2D image nor a stack takes them."""
    region = structure(tmp_path / "rs", volume, [lps(circle(9))], frame_of_reference_uid="")

    for images in (cine(volume, 1, None), replace(volume, frame_of_reference_uid="")):
        with pytest.raises(OtherFrame, match=r"reference \(none\), the series in \(none"):
            place([images], region)
    with pytest.raises(OtherFrame, match=volume.frame_of_reference_uid):
        place([volume], region)


def test_contours_of_several_planes_on_one_slice_are_its_nearest_plane(tmp_path, volume):
    """Slices are 3 mm apart. Even-odd belongs to one plane: two planes would cut holes."""
    apart = structure(
        tmp_path / "apart", volume, [lps(circle(12), K - 0.2), lps(circle(9), K + 0.1)]
    )
    ring = structure(
        tmp_path / "ring", volume, [lps(circle(12), K + 0.2), lps(circle(7), K + 0.2 + 0.001)]
    )

    placed = place([volume], apart)
    assert placed.slices[K].mask.sum() == pytest.approx(np.pi * 9**2, rel=0.03)
    (flag,) = placed.remarks
    assert flag.name == "contours-between-slices" and flag.text.startswith("1 of 2 contours")
    placed = place([volume], ring)
    assert placed.slices[K].mask.sum() == pytest.approx(np.pi * (12**2 - 7**2), rel=0.03)
    assert not placed.remarks


@pytest.mark.parametrize("step_mm", [1.0, 1.2, 1.5])
def test_contours_closer_than_the_slices_keep_the_shape(tmp_path, volume, step_mm):
    """A cone over five slices, 12 mm to both sides of its widest plane, and half a slice more."""
    heights = np.arange(-7.5, 7.51, step_mm)
    cone = [lps(circle(12 - abs(mm) / 2), K + mm / 3) for mm in heights]

    placed = place([volume], structure(tmp_path / "rs", volume, cone))

    assert set(range(K - 2, K + 3)) <= set(placed.slices)
    for k in range(K - 2, K + 3):
        # The nearest plane is at most half a step away.
        low, high = (12 - abs(3 * (k - K)) / 2 + s * step_mm / 4 for s in (-1, 1))
        area = placed.slices[k].mask.sum()
        assert np.pi * low**2 * 0.96 < area < np.pi * high**2 * 1.04


def test_half_the_distance_of_the_slices_is_near_enough_and_more_is_not(tmp_path, volume):
    """Under the first slice; rounding of the file's decimals must not decide at 1.50 mm."""
    at, rounded, off = (
        structure(tmp_path / f"{k}", volume, [lps(circle(9), k)]) for k in (-0.5, -0.503, -0.6)
    )

    assert place([volume], at).slices
    assert place([volume], rounded).slices
    with pytest.raises(OffTheSlices, match=r"1\.80 mm off .*\(limit 1\.50"):
        place([volume], off)


def phases(volume: Volume) -> tuple[Volume, Volume]:
    """Two volumes on one grid, in one frame of reference, of one series; images of their own."""

    def named(part: str) -> Volume:
        headers = []
        for k, header in enumerate(volume.headers):
            image = deepcopy(header)
            image.SOPInstanceUID = stable_uid(part, str(k))
            headers.append(image)
        return replace(volume, headers=tuple(headers), part=part)

    return named("acquisition 1"), named("acquisition 2")


def test_contours_go_to_the_phase_whose_images_they_name_or_to_none(tmp_path, volume):
    region = structure(tmp_path / "rs", volume, [lps(circle(9), k) for k in (3, 4)])
    first, second = phases(volume)
    mostly_second = (first.source_sop_uids[3], *second.source_sop_uids[3:5])

    for volumes in ([first, second], [second, first]):
        placed = place(volumes, replace(region, images=second.source_sop_uids[3:5]))
        assert placed.volume is second and not placed.remarks
        placed = place(volumes, replace(region, images=mostly_second))
        assert placed.volume is second and placed.remarks[0].text.startswith("2 of the 3 images")
        for said_nothing in ((), ("1.2.3",), (first.source_sop_uids[3], second.source_sop_uids[3])):
            with pytest.raises(VolumeAmbiguous, match=r"2 volumes .*acquisition 1.*acquisition 2"):
                place(sorted(volumes, key=lambda v: v.part), replace(region, images=said_nothing))


def test_of_two_parts_in_different_places_the_one_that_is_marked_is_taken(tmp_path, volume):
    region = structure(tmp_path / "rs", volume, [lps(circle(9), k) for k in (3, 4)])
    lower, upper = phases(volume)
    moved = volume.lps_from_index.copy()
    moved[:3, 3] += 100 * moved[:3, 2]
    elsewhere = replace(lower, lps_from_index=moved)

    assert place([elsewhere, upper], region).volume is upper
    with pytest.raises(OffTheSlices):
        place([elsewhere], region)


def test_a_segment_goes_to_the_phase_that_it_was_derived_from(tmp_path):
    report = two_glands(tmp_path / "glands")
    seg, _ = write_evidence(report, tmp_path / "out", RECORDED_AT)
    (region,) = read_regions(MarkFile(seg.path, "2"))
    volume, labels = report.segmentation.volume, report.segmentation.labels
    other, another = phases(volume)

    # The frames of the segment name the slices that it is on, and no others.
    on = np.flatnonzero((labels == 7).any(axis=(1, 2)))
    assert set(region.images) == {volume.source_sop_uids[k] for k in on}
    placed = place([other, volume], region)
    assert placed.volume is volume and not placed.remarks
    with pytest.raises(VolumeAmbiguous):
        place([other, another], region)
    (flag,) = place([other], region).remarks
    assert flag.text.startswith(f"0 of the {len(on)} images")


SECRET = "PAT-4711"


def of(volume: Volume, patient: str, issuer: str = "", study: str = "1.2.3") -> Volume:
    """The volume as a patient's; empty values are absent."""
    headers = tuple(deepcopy(header) for header in volume.headers)
    values = {"PatientID": patient, "IssuerOfPatientID": issuer, "StudyInstanceUID": study}
    for header in headers:
        for keyword, value in values.items():
            setattr(header, keyword, value)
    return replace(volume, headers=headers)


@pytest.mark.parametrize("in_patient", [False, True])
def test_marks_of_another_patient_are_refused_and_neither_is_named(tmp_path, volume, in_patient):
    marked = of(volume, SECRET, "HOSPITAL-A")
    where = lps(RECTANGLE) if in_patient else RECTANGLE
    mark = coordinates(marked, K, "POLYGON" if in_patient else "POLYLINE", where)
    path = write_report(tmp_path / "sr", marked, [group("a", [number(LENGTH, mark)])])
    report = dcmread(path)
    report.IssuerOfPatientID = "HOSPITAL-A"
    report.save_as(path)
    (region,) = read_regions(MarkFile(path))

    for patient, issuer, differs in [
        ("PAT-4712", "HOSPITAL-A", "PatientID"),
        ("PAT-4712", "", "PatientID"),
        (SECRET, "HOSPITAL-B", "IssuerOfPatientID"),
    ]:
        with pytest.raises(OtherPatient, match=f"their {differs} differs") as refused:
            place([of(volume, patient, issuer)], region)
        assert not any(s in str(refused.value) for s in ("PAT-", "HOSPITAL"))
    for patient, issuer in [(SECRET, "HOSPITAL-A"), (SECRET, ""), ("", "HOSPITAL-B")]:
        assert not place([of(volume, patient, issuer)], region).remarks
    assert SECRET not in repr(region) and "HOSPITAL" not in repr(region)


def test_marks_of_another_study_are_used_and_it_is_said(tmp_path, volume):
    marked = of(volume, SECRET, study="1.2.4")
    region = structure(tmp_path / "rs", marked, [lps(circle(9))])

    assert not place([marked], region).remarks
    (flag,) = place([of(volume, SECRET, study="1.2.5")], region).remarks
    assert flag.name == "marked-in-other-study" and "(1.2.4)" in flag.text
