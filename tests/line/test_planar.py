"""One real image of each 2D kind through the whole graph: box in, SEG and SR out."""

from __future__ import annotations

import json
import shutil

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread

from app.graph import Asked, load_models, segment
from operators.evidence.result import write_result
from operators.models.medsam.region import OnImage, Region
from tests.validators import dciodvfy_errors, result_errors

pytestmark = pytest.mark.data
RECORDED = "20240102030405"
OWN = "xray-us-pathology"
# File, frame, box, mm2 of a pixel (None: not known).
IMAGES = {
    "DX": ("highdicom/dx_image.dcm", None, (60, 30, 160, 130), 1.2 * 1.2012),
    "ultrasound frame": (f"{OWN}/us/OBXXXX1A_rle_2frame.dcm", 2, (300, 150, 450, 300), 0.0687949),
    "slide tile": (f"{OWN}/pathology/he_region_1024_sm.dcm", 6, (60, 60, 160, 160), 0.000499**2),
    "CR without spacing": (f"{OWN}/xray/RG3_J2KI.dcm", None, (300, 300, 900, 1400), None),
}


@pytest.fixture(scope="module")
def models(medsam_weights):  # noqa: ARG001  (skips without them)
    return load_models()


def outlined_px(item) -> float:
    """Area inside an SCOORD polyline, by the shoelace formula."""
    x, y = np.reshape(item.GraphicData, (-1, 2)).T
    return float(abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2)


@pytest.mark.parametrize("name", IMAGES)
def test_a_boxed_region_of_a_2d_image_becomes_seg_and_sr(data_dir, tmp_path, models, name):
    path, frame, box, pixel_mm2 = IMAGES[name]
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "a.dcm"
    shutil.copy(data_dir / path, source)
    region = Region((OnImage("", tuple(map(float, box))),), "Thing")

    job = segment(
        tmp_path / "in",
        tmp_path / "out",
        RECORDED,
        models=models,
        asked=Asked("medsam_lite", None, (region,), frame=frame),
    )

    whole = write_result(job)
    assert not result_errors(json.loads(json.dumps(whole)))
    (result,) = whole["results"]
    seg_file, sr_file = (item.path for item in job.evidence)
    # What the source itself breaks is the source's.
    for written in (seg_file, sr_file):
        assert set(dciodvfy_errors(written)) <= set(dciodvfy_errors(source))
    seg, header = dcmread(seg_file), dcmread(source, stop_before_pixels=True)
    mask = seg.pixel_array.astype(bool)
    assert mask.shape == (header.Rows, header.Columns)
    rows, columns = np.nonzero(mask)
    assert box[0] - 20 <= columns.mean() <= box[2] + 20
    assert box[1] - 20 <= rows.mean() <= box[3] + 20
    assert "FrameOfReferenceUID" not in seg
    (finding,) = result["findings"]
    assert finding["voxels"] == mask.sum()
    assert finding["volume_ml"] is None
    assert finding["mean"] is None
    assert finding["severity"] == "NOT_ASSESSED"
    if pixel_mm2 is None:
        assert finding["area_mm2"] is None
    else:
        assert finding["area_mm2"] == pytest.approx(mask.sum() * pixel_mm2, rel=1e-4)
    groups = seg.SharedFunctionalGroupsSequence[0], seg.PerFrameFunctionalGroupsSequence[0]
    assert not any("PixelMeasuresSequence" in group for group in groups)
    (derived,) = (
        group.DerivationImageSequence[0].SourceImageSequence[0]
        for group in groups
        if "DerivationImageSequence" in group
    )
    assert derived.ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert derived.ReferencedSOPClassUID == header.SOPClassUID
    assert derived.get("ReferencedFrameNumber") == frame
    report = hd.sr.srread(sr_file)
    measured = report.content.get_planar_roi_measurement_groups()
    assert len(measured) == 2
    assert not report.content.get_volumetric_roi_measurement_groups()
    text = json.dumps(dcmread(sr_file).to_json_dict())
    assert '"mL"' not in text
    assert ('"mm2"' in text) == (pixel_mm2 is not None)
    drawn = next(g.roi for g in measured if isinstance(g.roi, hd.sr.ImageRegion))
    assert outlined_px(drawn) == pytest.approx(mask.sum(), rel=0.2)
    (image,) = drawn.ContentSequence
    assert image.ReferencedSOPSequence[0].get("ReferencedFrameNumber") == frame


def test_regions_of_an_ultrasound_frame_are_proposed_the_same_twice(data_dir, tmp_path, models):
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "a.dcm"
    shutil.copy(data_dir / OWN / "us" / "OBXXXX1A_rle_2frame.dcm", source)

    jobs = [
        segment(
            tmp_path / "in",
            tmp_path / out,
            RECORDED,
            models=models,
            asked=Asked("medsam_lite", None, (), frame=2),
        )
        for out in ("a", "b")
    ]

    first, second = ([item.path.read_bytes() for item in job.evidence] for job in jobs)
    assert first == second
    (report,) = jobs[0].reports
    assert 1 <= len(report.findings) <= 8
    assert {finding.severity for finding in report.findings} == {"NOT_ASSESSED"}
    seg_file, sr_file = (item.path for item in jobs[0].evidence)
    for written in (seg_file, sr_file):
        assert set(dciodvfy_errors(written)) <= set(dciodvfy_errors(source))
    items = dcmread(seg_file).SegmentSequence
    assert {item.SegmentAlgorithmType for item in items} == {"AUTOMATIC"}
    assert {item.SegmentedPropertyTypeCodeSequence[0].CodeValue for item in items} == {"111099"}
    assert any(flag.name == "proposed" for flag in report.segmentation.volume.quality)
