"""Marks of files on the slices that they mean; truth is geometry, grids are tilted and uneven."""

from __future__ import annotations

from dataclasses import replace
from math import cos, pi, sin
from pathlib import Path

import numpy as np
import pydicom
import pytest

from operators.job import Volume
from operators.models.medsam.drawn import SHORT_OF_LONG
from operators.models.medsam.mark_file import (
    ChoiceNeeded,
    ChoiceNotThere,
    ImageNotInStudy,
    MarkFile,
    MarksUnusable,
    NoMarks,
    OffTheSlices,
    OtherFrame,
    OutsideTheImage,
    TooManyMarks,
    read_regions,
)
from operators.models.medsam.place import Placed, place
from tests.operators.marks import (
    LENGTH,
    LONG,
    SHORT,
    coordinates,
    group,
    number,
    write_report,
    write_structures,
)
from tests.operators.scene import RECORDED_AT, make_segmentation, segment, two_glands
from tests.series import Ball, centred_grid, oblique

SHAPE_ZYX = (9, 60, 70)
GRID = centred_grid(SHAPE_ZYX, (3.0, 0.8, 1.6), oblique(25, -15), (10.0, -20.0, 30.0))
K = 4


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


def placed(path: Path, volume: Volume, choice: str | None = None) -> list[Placed]:
    return [place([volume], region) for region in read_regions(MarkFile(path, choice))]


def test_a_length_a_circle_an_ellipse_and_a_bidirectional_have_the_boxes_of_their_shapes(
    tmp_path, volume
):
    """Pixels are 1.6 mm wide and 0.8 mm high, so a circle is twice as many rows as columns."""
    middle, (wide, high) = (30.0, 26.0), (1.6, 0.8)
    turned = [(cos(pi / 4), sin(pi / 4)), (-sin(pi / 4), cos(pi / 4))]

    def at(x_mm: float, y_mm: float) -> tuple[float, float]:
        return middle[0] + x_mm / wide, middle[1] + y_mm / high

    def axis(direction, half_mm):
        return [at(*(s * half_mm * v for v in direction)) for s in (-1, 1)]

    path = write_report(
        tmp_path / "report.dcm",
        volume,
        [
            group("a", [number(LENGTH, coordinates(volume, K, "POLYLINE", axis((1, 0), 12)))]),
            group("b", [number(LENGTH, coordinates(volume, K, "CIRCLE", [at(0, 0), at(0, 8)]))]),
            group(
                "c",
                [
                    number(
                        LENGTH,
                        coordinates(volume, K, "ELLIPSE", axis(turned[0], 12) + axis(turned[1], 6)),
                    )
                ],
            ),
            group(
                "d",
                [
                    number(LONG, coordinates(volume, K, "POLYLINE", axis(turned[0], 12))),
                    number(SHORT, coordinates(volume, K, "POLYLINE", axis(turned[1], 6))),
                ],
            ),
        ],
    )
    reach = (12**2 / 2 + 6**2 / 2) ** 0.5
    halves_mm = [(12, 12 * SHORT_OF_LONG), (8, 8), (reach, reach), (reach, reach)]

    for found, (half_x, half_y) in zip(placed(path, volume), halves_mm, strict=True):
        ((k, prompt),) = found.slices.items()
        expected = (*at(-half_x, -half_y), *at(half_x, half_y))
        assert k == K and prompt.mask is None
        assert prompt.box == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("in_patient", [False, True])
def test_a_rectangle_is_a_box_and_a_drawn_outline_a_mask(tmp_path, volume, in_patient):
    corners = [(20, 14), (41, 14), (41, 33), (20, 33), (20, 14)]
    angles = np.linspace(0, 2 * pi, 41)
    drawn = [(30 + 9 * cos(a), 25 + 12 * sin(a)) for a in angles[:-1]]
    drawn.append(drawn[0])

    def mark(points):
        data = lps(points) if in_patient else points
        return [
            number(LENGTH, coordinates(volume, K, "POLYGON" if in_patient else "POLYLINE", data))
        ]

    path = write_report(
        tmp_path / "report.dcm",
        volume,
        [group("Cornerstone3DTools@^0.1.0:RectangleROI", mark(corners)), group("b", mark(drawn))],
    )
    rectangle, outline = placed(path, volume)

    assert rectangle.slices[K].box == pytest.approx((20, 14, 41, 33), abs=0.01)
    assert rectangle.slices[K].mask is None
    j, i = np.mgrid[: SHAPE_ZYX[1], : SHAPE_ZYX[2]] + 0.5
    inside = ((i - 30) / 9) ** 2 + ((j - 25) / 12) ** 2
    mask = outline.slices[K].mask
    assert mask[inside < 0.85].all() and not mask[inside > 1.05].any()
    assert outline.slices[K].box == pytest.approx((19, 11, 41, 39), abs=1)


def test_a_point_is_a_point_and_a_finding_is_the_label(tmp_path, volume):
    path = write_report(
        tmp_path / "report.dcm",
        volume,
        [
            group("a", [number(LENGTH, coordinates(volume, K, "POINT", [(30.5, 22.25)]))], "Node"),
            group("Old tool:Length", [number(LENGTH, coordinates(volume, 2, "POINT", [(9, 8)]))]),
            group("no place", [number(LENGTH)]),
        ],
    )
    regions = read_regions(MarkFile(path))

    assert [region.label for region in regions] == ["Node", "Length 2"]
    (prompt,) = place([volume], regions[0]).slices.values()
    assert prompt.points == ((30.5, 22.25, True),) and prompt.box is None
    (chosen,) = read_regions(MarkFile(path, dict(regions[1].origin)["prompt_tracking_uid"], "X"))
    assert chosen.label == "X" and chosen.marks[0].points.tolist() == [[9, 8]]


def test_what_a_report_can_not_say_is_refused(tmp_path, volume):
    def report(name, points, graphic="POLYLINE", k=K):
        mark = [number(LENGTH, coordinates(volume, k, graphic, points))]
        return write_report(tmp_path / name, volume, [group("a", mark)])

    with pytest.raises(NoMarks, match="1 measurement groups"):
        read_regions(MarkFile(write_report(tmp_path / "a", volume, [group("a", [number(LENGTH)])])))
    with pytest.raises(OutsideTheImage, match="70 pixels wide and 60 high"):
        placed(report("b", [(200, 20), (230, 20)]), volume)
    with pytest.raises(ChoiceNotThere, match=r"--structure 1\.2\.3"):
        read_regions(MarkFile(report("c", [(20, 20), (40, 20)]), "1.2.3"))
    with pytest.raises(OffTheSlices, match=r"12\.00 mm off the nearest slice"):
        placed(report("d", lps([(20, 14), (41, 14), (41, 33), (20, 14)], 12), "POLYGON"), volume)
    with pytest.raises(TooManyMarks, match="101 measurements are more than the 100"):
        mark = [number(LENGTH, coordinates(volume, K, "POINT", [(9, 8)]))]
        many = [group(f"g{n}", mark) for n in range(101)]
        read_regions(MarkFile(write_report(tmp_path / "e", volume, many)))
    other = replace(volume, headers=volume.headers[:K], array=volume.array[:K])
    with pytest.raises(ImageNotInStudy, match=volume.source_sop_uids[K]):
        placed(report("f", [(20, 20), (40, 20)]), other)
    elsewhere = replace(volume, frame_of_reference_uid="1.2.9")
    with pytest.raises(OtherFrame, match=r"1\.2\.9"):
        placed(tmp_path / "d", elsewhere)


def test_a_broken_or_hostile_file_is_one_refusal(tmp_path, volume):
    """Not DICOM, cut, an image, coordinates that are no numbers, a chain of 60 containers."""
    (tmp_path / "text").write_text("no DICOM")
    mark = [number(LENGTH, coordinates(volume, K, "POLYLINE", [(20, 20), (40, 20)]))]
    good = write_report(tmp_path / "good", volume, [group("a", mark)])
    (tmp_path / "cut").write_bytes(good.read_bytes()[:-40])
    image = next((tmp_path / "in").iterdir())
    for path, said in [
        (tmp_path / "none", "No such file"),
        (tmp_path / "text", "not a DICOM file"),
        (tmp_path / "cut", "bytes"),
        (image, "it is a CT Image Storage"),
    ]:
        with pytest.raises(MarksUnusable, match=said):
            read_regions(MarkFile(path))

    dataset = pydicom.dcmread(good)
    deep = dataset.ContentSequence[-1]
    for _ in range(60):
        child = pydicom.Dataset()
        child.ValueType = "CONTAINER"
        deep.ContentSequence = [*(deep.get("ContentSequence") or []), child]
        deep = child
    dataset.save_as(tmp_path / "deep")
    with pytest.raises(MarksUnusable, match="nested"):
        read_regions(MarkFile(tmp_path / "deep"))

    dataset = pydicom.dcmread(good)
    for item in dataset.iterall():
        if item.keyword == "GraphicData":
            item.value = [float("nan"), 1.0, 2.0, 3.0]
    dataset.save_as(tmp_path / "nan")
    with pytest.raises(NoMarks):
        read_regions(MarkFile(tmp_path / "nan"))


def test_contours_are_placed_by_plane_and_two_on_a_slice_make_a_ring(tmp_path, volume):
    angles = np.linspace(0, 2 * pi, 60, endpoint=False)

    def circle(radius_px):
        return [(30 + radius_px * cos(a), 25 + radius_px * sin(a)) for a in angles]

    path = write_structures(
        tmp_path / "rs",
        volume,
        [lps(circle(15), 3.2), lps(circle(7), 3.2), lps(circle(12), 5)],
        ("Mass", "Other"),
    )
    with pytest.raises(ChoiceNeeded, match="--structure"):
        read_regions(MarkFile(path))
    with pytest.raises(ChoiceNotThere, match="Its numbers are 1, 2"):
        read_regions(MarkFile(path, "Nothing"))
    (found,) = placed(path, volume, "Mass")

    assert list(found.slices) == [3, 5]
    ring = found.slices[3].mask
    assert ring[25, 20] and not ring[25, 30] and not ring[25, 50]
    assert ring.sum() == pytest.approx(pi * (15**2 - 7**2), rel=0.03)
    assert found.slices[5].mask.sum() == pytest.approx(pi * 12**2, rel=0.03)


@pytest.mark.data
@pytest.mark.parametrize("kind", ["CT", "MR_T1"])
def test_contours_whose_images_are_gone_lie_where_their_mask_lies(data_dir, kind):
    """None of the images that the structure set names is there; the NIfTI mask is the truth."""
    import nibabel

    from operators.study.read import read_drop
    from operators.volume.build import build_volumes

    folder = data_dir / "sts-ct-mr-pet-dicom" / "STS_041"
    (real,) = build_volumes(read_drop(folder / kind).studies[0].series[0])
    (found,) = placed(folder / f"RS_{kind}.dcm", real)

    image = nibabel.load(folder / f"mask_{kind}.nii.gz")
    # NIfTI is RAS; on these axial grids index runs alike but for the signs.
    lps_from_nifti = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    truth = np.asarray(image.dataobj) > 0
    index = np.argwhere(truth)
    at = (
        np.column_stack([index, np.ones(len(index))])
        @ (np.linalg.inv(real.lps_from_index) @ lps_from_nifti)[:3].T
    )
    expected = np.zeros(real.array.shape, bool)
    expected[tuple(np.rint(at).astype(int).T[::-1])] = True
    ours = np.zeros_like(expected)
    for k, prompt in found.slices.items():
        ours[k] = prompt.mask
    assert 2 * (ours & expected).sum() / (ours.sum() + expected.sum()) > 0.98
    (flag,) = found.remarks
    assert flag.name == "placed-by-geometry" and flag.text.startswith("0 of the ")


def test_a_segment_of_a_seg_is_its_mask_again_on_a_tilted_grid(tmp_path):
    from operators.evidence.write import write_evidence

    report = two_glands(tmp_path / "in")
    seg, _ = write_evidence(report, tmp_path / "out", RECORDED_AT)
    volume, labels = report.segmentation.volume, report.segmentation.labels

    with pytest.raises(ChoiceNeeded, match="--segment"):
        read_regions(MarkFile(seg.path))
    (region,) = read_regions(MarkFile(seg.path, "2"))
    found = place([volume], region)

    ours = np.zeros_like(labels, dtype=bool)
    for k, prompt in found.slices.items():
        ours[k] = prompt.mask
    assert region.label == "Mandible" and region.whole
    assert np.array_equal(ours, labels == 7)
    with pytest.raises(OtherFrame):
        place([replace(volume, frame_of_reference_uid="1.2.9")], region)
