"""Planes, boxes, classes and several series through the whole graph, from DICOM to DICOM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from highdicom import sr
from pydicom import dcmread

from app.graph import analyse
from operators.evidence.result import write_result
from operators.models.card import CardInvalid, load_card, load_cards
from operators.models.warm import WarmModels
from tests import shapes
from tests.series import centred_grid, oblique, write_ct_series
from tests.validators import (
    dciodvfy_errors,
    pixelmed_sr_errors,
    result_errors,
    segments_by_dcmqi,
)

POINT = {"threshold": 0.6, "sensitivity": 0.9, "specificity": 0.8, "data": "a set", "n": 99}
SHAPE_ZYX = (10, 26, 22)
AFFINE = centred_grid(SHAPE_ZYX, (2.5, 0.8, 1.3), oblique(23, -14))


@pytest.fixture
def models(tmp_path):
    """A store with the one bundle that the test names."""

    def of(make, **arguments) -> WarmModels:
        make(tmp_path / "store" / make.__name__, **arguments)
        return WarmModels(load_cards([tmp_path / "store"]))

    return of


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(3).normal(150, 200, SHAPE_ZYX).round().astype(np.int16)


def run(models: WarmModels, tmp_path: Path):
    (tmp_path / "out").mkdir()
    done = analyse(tmp_path / "in", tmp_path / "out", "20260102030405", models=models)
    result = write_result(done)
    assert not result_errors(json.loads(json.dumps(result)))
    return done, result


def series(tmp_path: Path, array: np.ndarray, affine=AFFINE, name="series", **attributes):
    def edit(header, _k):
        for keyword, value in attributes.items():
            setattr(header, keyword, value)

    write_ct_series(
        tmp_path / "in" / name, array, affine, body_part="PHANTOM", series=name, edit=edit
    )


def test_overlapping_segments_are_written_and_measured_each_for_itself(tmp_path, models, noise):
    series(tmp_path, noise)

    done, result = run(models(shapes.planes), tmp_path)

    assert not done.refused
    seg_file, sr_file = (item.path for item in done.evidence)
    points = segments_by_dcmqi(seg_file, tmp_path / "dcmqi")
    for number, cut in enumerate(shapes.CUTS, start=1):
        assert len(points[number]) == (noise > cut).sum()
        finding = result["results"][0]["findings"][number - 1]
        assert finding["voxels"] == (noise > cut).sum()
        assert finding["mean"] == pytest.approx(noise[noise > cut].mean())
    seg = dcmread(seg_file)
    assert seg.SegmentsOverlap == "YES"
    assert not dciodvfy_errors(seg_file) and not pixelmed_sr_errors(sr_file)


def test_a_box_is_a_region_on_the_slice_through_its_middle(tmp_path, models):
    array = np.full(SHAPE_ZYX, -900, np.int16)
    array[2:7, 10:18, 6:9] = 500
    series(tmp_path, array)

    done, result = run(models(shapes.detector), tmp_path)

    (reading,) = result["readings"]
    (box,) = reading["boxes"]
    assert (box["label"], box["severity"], box["confidence"]) == ("Nodule", "NOT_ASSESSED", None)
    np.testing.assert_allclose(
        box["centre_lps_mm"], (AFFINE @ (7.0, 13.5, 4.0, 1.0))[:3], atol=1e-3
    )
    (item,) = done.evidence
    report = sr.srread(item.path)
    (group,) = report.content.get_planar_roi_measurement_groups()
    region = group.roi
    expected = [(6, 10), (9, 10), (9, 18), (6, 18), (6, 10)]
    points = np.array(region.value)
    assert {tuple(p) for p in points.round(2)} == {tuple(map(float, p)) for p in expected}
    slices = dict(enumerate(done.volumes[0].source_sop_uids))
    source = region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert source == slices[4]
    assert "no probability" in item.path.read_bytes().decode("latin1")
    assert not pixelmed_sr_errors(item.path) and not dciodvfy_errors(item.path)


def test_a_detector_that_finds_nothing_reports_so(tmp_path, models):
    series(tmp_path, np.full(SHAPE_ZYX, -900, np.int16))

    done, result = run(models(shapes.detector), tmp_path)

    assert result["readings"][0]["boxes"] == [] and len(done.evidence) == 1
    text = done.evidence[0].path.read_bytes().decode("latin1")
    assert "Looked for and not found: Nodule." in text
    assert not pixelmed_sr_errors(done.evidence[0].path)


@pytest.mark.parametrize("measured", [False, True])
def test_a_class_has_a_confidence_only_from_a_measured_operating_point(tmp_path, models, measured):
    series(tmp_path, np.full(SHAPE_ZYX, 70, np.int16))
    extra = {"operating_point": {**POINT, "class": "dense"}} if measured else {}

    done, result = run(models(shapes.classifier, **extra), tmp_path)

    (said,) = result["readings"][0]["classes"]
    expected = 1 / (1 + np.exp(-(70 - shapes.CLASS_CUT) / 10))
    assert (said["label"], said["severity"]) == ("Dense", "NOT_ASSESSED")
    assert said["scores"]["dense"] == pytest.approx(expected, rel=1e-4)
    assert said["confidence"] == (pytest.approx(expected, rel=1e-4) if measured else None)
    assert not pixelmed_sr_errors(done.evidence[0].path)
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == result


def remarks(report: Path) -> tuple[list[str], list[str]]:
    """Texts of an SR's Qualitative Evaluations, and the values of its codes."""
    (content,) = [
        item
        for item in dcmread(report).ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Qualitative Evaluations"
    ]
    items = content.ContentSequence
    return (
        [item.TextValue for item in items if item.ValueType == "TEXT"],
        [i.ConceptCodeSequence[0].CodeMeaning for i in items if i.ValueType == "CODE"],
    )


def test_of_independent_findings_none_is_said_without_an_operating_point(tmp_path, models):
    """At a mean 40 HU below the cut every score is below 0.02: the largest means nothing."""
    series(tmp_path, np.full(SHAPE_ZYX, 10, np.int16))

    done, result = run(models(shapes.findings), tmp_path)

    (said,) = result["readings"][0]["classes"]
    assert (said["name"], said["label"], said["confidence"]) == (None, None, None)
    logits = dict(zip(("pneumothorax", "effusion", "nodule"), (-4, -5, -6), strict=True))
    assert said["scores"] == {
        name: pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-4) for name, logit in logits.items()
    }
    texts, codes = remarks(done.evidence[0].path)
    assert not codes
    assert texts[0] == (
        "Whole volume: no class is said, since the card has no operating point; network scores, "
        "no probabilities: Pneumothorax 0.018, Effusion 0.007, Nodule 0.002."
    )
    assert not pixelmed_sr_errors(done.evidence[0].path)


@pytest.mark.parametrize(("hu", "reached"), [(70, True), (50, False)])
def test_an_operating_point_speaks_of_its_own_finding_only(tmp_path, models, hu, reached):
    """Effusion's logit is (hu - 50) / 10 - 1; pneumothorax' score is always the larger one."""
    series(tmp_path, np.full(SHAPE_ZYX, hu, np.int16))
    point = {**POINT, "class": "effusion"}

    done, result = run(models(shapes.findings, operating_point=point), tmp_path)

    (said,) = result["readings"][0]["classes"]
    score = 1 / (1 + np.exp(-((hu - 50) / 10 - 1)))
    assert said["name"] == ("effusion" if reached else None)
    assert said["confidence"] == (pytest.approx(score, rel=1e-4) if reached else None)
    texts, codes = remarks(done.evidence[0].path)
    assert codes == (["Nodule"] if reached else [])  # the code that the phantom's card gives
    start = "Effusion" if reached else "not Effusion"
    assert texts[0].startswith(f"Whole volume: {start}; score {score:.3f}; at 0.6 sensitivity 0.90")


def test_the_threshold_of_an_operating_point_counts_where_another_class_is_larger(tmp_path, models):
    """Dense has 0.45, light 0.55; dense was measured at 0.3."""
    series(tmp_path, np.full(SHAPE_ZYX, 48, np.int16))
    point = {**POINT, "class": "dense", "threshold": 0.3}

    done, result = run(models(shapes.classifier, operating_point=point), tmp_path)

    (said,) = result["readings"][0]["classes"]
    assert said["name"] == "dense"
    assert said["confidence"] == said["scores"]["dense"] == pytest.approx(0.45017, rel=1e-4)
    assert remarks(done.evidence[0].path)[0][0].startswith("Whole volume: Dense; score 0.450; at ")


@pytest.mark.parametrize("numbered", [True, False])
def test_a_class_of_a_slice_names_the_image_as_its_source_does(tmp_path, models, numbered):
    """Images are numbered from the head down, as a scanner does; our order begins at the feet."""
    array = np.zeros(SHAPE_ZYX, np.int16)
    array[1] = 200

    def edit(header, k):
        if numbered:
            header.InstanceNumber = str(len(array) - k)
        elif "InstanceNumber" in header:
            del header.InstanceNumber

    folder = tmp_path / "in" / "s"
    write_ct_series(folder, array, AFFINE, body_part="PHANTOM", series="s", edit=edit)

    done, result = run(models(shapes.classifier, by_slice=True), tmp_path)

    (volume,) = done.volumes
    (dense,) = [c for c in result["readings"][0]["classes"] if c["name"] == "dense"]
    uid = next(
        str(header.SOPInstanceUID)
        for header in map(dcmread, folder.iterdir())
        if header.pixel_array.max() == header.pixel_array.min() != 1024
        and np.rint(header.pixel_array[0, 0] * float(header.RescaleSlope))
        + float(header.RescaleIntercept)
        == 200
    )
    assert dense["sop_instance_uid"] == uid in volume.source_sop_uids
    assert dense["instance_number"] == (len(array) - 1 if numbered else None)
    report = done.evidence[0].path
    start = f"Image {len(array) - 1} (" if numbered else "Image ("
    (remark,) = [
        item
        for item in next(
            item
            for item in dcmread(report).ContentSequence
            if item.ConceptNameCodeSequence[0].CodeMeaning == "Qualitative Evaluations"
        ).ContentSequence
        if item.ValueType == "TEXT" and "Dense" in item.TextValue
    ]
    assert remark.TextValue.startswith(f"{start}SOP Instance UID {uid}): Dense; ")
    (image,) = remark.ContentSequence
    assert (image.ValueType, image.RelationshipType) == ("IMAGE", "INFERRED FROM")
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == uid
    assert not pixelmed_sr_errors(report) and not dciodvfy_errors(report)


@pytest.mark.parametrize(
    ("point", "why"),
    [
        (POINT, "'class' is a required property"),
        ({**POINT, "class": "heavy"}, r"'heavy' is none of the classes \(light, dense\)"),
    ],
)
def test_an_operating_point_that_names_no_class_of_its_card_is_refused(tmp_path, point, why):
    with pytest.raises(CardInvalid, match=why):
        load_card(shapes.classifier(tmp_path / "bundle", operating_point=point))


def test_two_series_of_one_study_are_two_channels(tmp_path, models, noise):
    late, early = noise, np.roll(noise, 4, axis=1)
    series(tmp_path, late, name="b", SeriesDescription="Liver LATE 5mm")
    series(tmp_path, early, name="a", SeriesDescription="Liver early 5mm")
    series(tmp_path, early, name="c", SeriesDescription="Liver plain")

    done, _ = run(models(shapes.channels), tmp_path)

    (found,) = done.segmentations
    np.testing.assert_array_equal(found.labels, late > early)
    assert [entry.reason for entry in done.unmatched] == [
        "channels: another series of the study is each of its channels."
    ]


def test_another_second_channel_gives_other_uids_and_the_sr_names_both_series(tmp_path, models):
    """Two series as second channel, one after the other; the first channel is the same."""
    late = np.full(SHAPE_ZYX, 100, np.int16)
    bundle = models(shapes.channels)
    written = []
    for name, hu in (("one", 50), ("two", 90)):
        place = tmp_path / name
        series(place, late, name="late", SeriesDescription="late")
        series(place, np.full(SHAPE_ZYX, hu, np.int16), name=name, SeriesDescription="early")
        done, _ = run(bundle, place)
        written.append({item.kind: item for item in done.evidence})
        study = dcmread(written[-1]["SR"].path).CurrentRequestedProcedureEvidenceSequence[0]
        referenced = {
            entry.SeriesInstanceUID: {
                i.ReferencedSOPInstanceUID for i in entry.ReferencedSOPSequence
            }
            for entry in study.ReferencedSeriesSequence
        }
        for folder in (place / "in" / "late", place / "in" / name):
            sources = [dcmread(file, stop_before_pixels=True) for file in folder.iterdir()]
            uids = {source.SOPInstanceUID for source in sources}
            assert referenced[sources[0].SeriesInstanceUID] == uids
        assert not dciodvfy_errors(written[-1]["SR"].path)

    for kind in ("SEG", "SR"):
        assert written[0][kind].sop_instance_uid != written[1][kind].sop_instance_uid


@pytest.mark.parametrize(
    ("descriptions", "why"),
    [
        (["late"], "no series of the study is its channel early"),
        (["late", "early", "early 2"], "2 series could be its channel early"),
        (["late", "latest early"], None),
    ],
)
def test_a_channel_that_is_missing_or_ambiguous_stops_the_bundle(
    tmp_path, models, noise, descriptions, why
):
    for number, said in enumerate(descriptions):
        series(tmp_path, noise, name=f"s{number}", SeriesDescription=said)

    done, _ = run(models(shapes.channels), tmp_path)

    assert len(done.segmentations) == (why is None)
    if why is not None:
        assert all(why in entry.reason for entry in done.unmatched)


def test_channels_of_two_frames_of_reference_are_refused(tmp_path, models, noise):
    series(tmp_path, noise, name="a", SeriesDescription="late")
    series(tmp_path, noise, name="b", SeriesDescription="early", FrameOfReferenceUID="2.25.99")

    done, _ = run(models(shapes.channels), tmp_path)

    (refused,) = done.refused
    assert refused.reason.startswith("RL-1444") and not done.segmentations


def test_a_channel_on_another_oblique_grid_is_moved_to_the_first_ones(tmp_path, models):
    """Both series show one linear field, which linear interpolation keeps exactly."""
    slope = np.array([1.5, -2.0, 3.0])
    other_shape = (16, 40, 36)
    other = centred_grid(other_shape, (2.0, 1.0, 1.0), oblique(-10, 8))

    def field(shape, affine, offset):
        k, j, i = np.indices(shape)
        at = np.stack([i, j, k], axis=-1) @ affine[:3, :3].T + affine[:3, 3]
        return np.rint((at @ slope + offset) * 10).astype(np.int16)

    late, early = field(SHAPE_ZYX, AFFINE, 0.0), field(other_shape, other, -2.0)
    uid = "2.25.7"
    series(tmp_path, late, name="a", SeriesDescription="late", FrameOfReferenceUID=uid)
    series(tmp_path, early, other, name="b", SeriesDescription="early", FrameOfReferenceUID=uid)

    done, _ = run(models(shapes.channels), tmp_path)

    assert not done.refused
    (volume,) = done.volumes
    (moved,) = volume.channels
    inside = moved != -1024
    assert inside.mean() > 0.9
    k, j, i = np.nonzero(inside)
    np.testing.assert_allclose(moved[k, j, i], late[k, j, i] - 20.0, atol=1.1)
    assert any(flag.name == "channel" and "resampled" in flag.text for flag in volume.quality)
