"""What 2D images say of lengths, header by header; every expected number is worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from operators.job import Plane
from operators.study.image_type import image_type_of, planar_type
from operators.volume.scale import NOTHING, area_mm2, read_scale

CR, US = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.6.1"
SC, SLIDE = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.77.1.6"


def header(sop_class: str, **values) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = sop_class
    dataset.Rows, dataset.Columns = 100, 200
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def region(x0=10, y0=20, x1=109, y1=89, *, delta=0.02, units=3, spatial=1) -> Dataset:
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType = spatial, 1
    item.RegionLocationMinX0, item.RegionLocationMinY0 = x0, y0
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x1, y1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaX, item.PhysicalDeltaY = delta, 2 * delta
    return item


def square(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((100, 200), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def area(dataset: Dataset, mask: np.ndarray, frame: int | None = None) -> float | None:
    known = read_scale(dataset, frame)
    return area_mm2(Plane("", frame, known.scales, known.holds), mask)


@pytest.mark.parametrize(
    ("values", "mm2", "holds"),
    [
        ({"ImagerPixelSpacing": [0.1, 0.2]}, 2.0, "at the detector"),
        ({"ImagerPixelSpacing": [0.1, 0.2], "PixelSpacing": [0.1, 0.2]}, 2.0, "at the detector"),
        ({"ImagerPixelSpacing": [0.1, 0.2], "PixelSpacing": [0.05, 0.1]}, 0.5, "calibrated"),
        (
            {"PixelSpacing": [0.05, 0.1], "PixelSpacingCalibrationType": "FIDUCIAL"},
            0.5,
            "calibrated",
        ),
        ({"PixelSpacing": [0.05, 0.1]}, 0.5, "does not say"),
        ({}, None, ""),
        ({"PixelSpacing": [0.0, 0.0]}, None, ""),
        ({"PixelSpacing": [0.0, 0.0], "ImagerPixelSpacing": [0.1, 0.1]}, None, ""),
        ({"PixelSpacing": [-0.1, 0.1]}, None, ""),
        ({"ImagerPixelSpacing": 0.1}, None, ""),
        ({"ImagerPixelSpacing": [500.0, 500.0]}, None, ""),
    ],
)
def test_a_projection_is_measured_only_by_a_spacing_that_is_one(values, mm2, holds):
    dataset = header(CR, **values)

    assert area(dataset, square(0, 0, 10, 10)) == (None if mm2 is None else pytest.approx(mm2))
    assert holds in read_scale(dataset, None).holds


@pytest.mark.parametrize(
    ("mask", "mm2"),
    [
        # 0.02 cm by 0.04 cm: 0.2 mm by 0.4 mm.
        (square(10, 20, 20, 30), 100 * 0.2 * 0.4),
        (square(100, 80, 110, 90), 100 * 0.2 * 0.4),  # to the last pixel of the region
        (square(9, 20, 20, 30), None),
        (square(100, 80, 111, 90), None),
        (square(150, 20, 160, 30), None),
    ],
)
def test_an_ultrasound_is_measured_in_its_region_and_nowhere_else(mask, mm2):
    found = area(header(US, SequenceOfUltrasoundRegions=[region()]), mask)

    assert found == (None if mm2 is None else pytest.approx(mm2))


@pytest.mark.parametrize(
    "regions",
    [
        [region(units=4)],  # seconds
        [region(spatial=3)],  # spectral
        [region(delta=0.0)],
        [region(x1=595, y1=414)],  # of an image that was larger than this
        [region(), region(30, 20, 109, 89, delta=0.03)],  # two that disagree
    ],
)
def test_regions_that_can_t_be_trusted_give_no_length(regions):
    assert area(header(US, SequenceOfUltrasoundRegions=regions), square(40, 30, 50, 40)) is None


def test_a_pixel_spacing_does_not_stand_in_for_a_region():
    assert read_scale(header(US, PixelSpacing=[0.1, 0.1]), None) == NOTHING


def test_a_slide_has_its_spacing_in_the_functional_groups():
    measures, group = Dataset(), Dataset()
    measures.PixelSpacing = [0.0005, 0.0005]
    group.PixelMeasuresSequence = [measures]
    dataset = header(SLIDE, SharedFunctionalGroupsSequence=[group])

    assert area(dataset, square(0, 0, 100, 100), frame=1) == pytest.approx(0.0025)
    assert read_scale(header(SLIDE, PixelSpacing=[1, 1]), 1) == NOTHING


@pytest.mark.parametrize(
    ("modality", "word"),
    [
        ("CR", "xray"),
        ("DX", "xray"),
        ("MG", "xray"),
        ("CT", "ct"),
        ("MR", "mri"),
        ("US", "ultrasound"),
        ("SM", "pathology"),
        ("XC", "pathology"),
        ("PT", None),
    ],
)
def test_the_roadmap_s_word_follows_from_the_modality(modality, word):
    assert image_type_of(modality) == word


def test_a_secondary_capture_is_an_x_ray_only_where_its_modality_says_so():
    assert planar_type(header(SC, Modality="DX")) == "xray"
    assert planar_type(header(SC, Modality="CT")) is None
    assert planar_type(header(SC, Modality="OT")) is None
    assert planar_type(header("1.2.840.10008.5.1.4.1.1.2", Modality="US")) is None
