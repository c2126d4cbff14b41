"""Pictures that are no DICOM: kept within bounds, and told apart from slides that are both."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from app.api.answers import PROPOSED, from_outcome, without_evidence
from app.api.capture import put_capture
from app.api.images import inspect
from app.api.refusals import ImageUnusable
from app.worker.analysis import AnalysisFactory
from app.worker.messages import Request
from operators.study.image_type import planar_type_of_series
from operators.study.read import read_drop

RGB = np.random.default_rng(2).integers(0, 256, (30, 41, 3), np.uint8)


def folder_in(tmp_path):
    folder = tmp_path / "ticket" / "in"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("form", ["png", "tiff"])
@pytest.mark.parametrize("image_type", ["xray", "ultrasound", "pathology"])
def test_a_picture_becomes_an_image_of_its_kind_by_luminance(tmp_path, form, image_type):
    folder = folder_in(tmp_path)
    file = folder / "0001"
    Image.fromarray(RGB).save(file, form)

    uploaded = put_capture(inspect([file], image_type), image_type, folder)

    assert uploaded.files[0].exists()
    assert uploaded.files[0].parent == folder.parent
    drop = read_drop(folder)
    assert drop.refused == ()
    (series,) = drop.studies[0].series
    assert planar_type_of_series(series) == image_type
    grey = dcmread(series.instances[0].path).pixel_array
    assert np.abs(grey - RGB @ [0.299, 0.587, 0.114]).max() <= 1.0


def test_a_picture_of_a_slice_stays_a_picture(tmp_path):
    folder = folder_in(tmp_path)
    file = folder / "0001"
    Image.fromarray(RGB).save(file, "png")

    uploaded = put_capture(inspect([file], "ct"), "ct", folder)

    assert uploaded.files == (file,)
    assert [entry.name for entry in folder.iterdir()] == ["0001"]


def test_several_pages_and_broken_ones_are_refused(tmp_path):
    folder = folder_in(tmp_path)
    pages = folder / "pages"
    Image.fromarray(RGB).save(pages, "tiff", save_all=True, append_images=[Image.fromarray(RGB)])
    with pytest.raises(ImageUnusable, match="several pages"):
        inspect([pages], "xray")
    cut = folder / "cut"
    cut.write_bytes(pages.read_bytes()[:60])
    with pytest.raises(ImageUnusable, match="RL-1430"):
        inspect([cut], "xray")


@pytest.mark.data
def test_a_dicom_file_with_a_tiff_in_its_preamble_is_dicom(data_dir, tmp_path):
    folder = folder_in(tmp_path)
    content = bytearray((data_dir / "highdicom" / "dx_image.dcm").read_bytes())
    content[:4] = b"II*\0"
    (folder / "0001").write_bytes(content)

    uploaded = inspect([folder / "0001"], "xray")

    assert uploaded.series is not None
    assert uploaded.series.modality == "DX"


@pytest.mark.data
def test_a_jpeg_is_answered_with_regions_that_claim_nothing(data_dir, tmp_path, medsam_weights):  # noqa: ARG001
    folder = folder_in(tmp_path)
    source = Image.open(data_dir / "xray-us-pathology" / "pathology" / "he_tile_512.png")
    source.convert("RGB").save(folder / "0001", "jpeg")
    put_capture(inspect([folder / "0001"], "pathology"), "pathology", folder)
    out = folder.parent / "out"
    job = AnalysisFactory()()

    outcome = job(Request(folder, out, "20240102030405", propose=True))
    (folder.parent / "unasked").mkdir()
    unasked = job(Request(folder, folder.parent / "unasked", "20240102030405"))

    assert unasked.state == "not applicable"
    assert outcome.state == "done"
    answer = without_evidence(from_outcome(outcome, out, "pathology", 1.0))
    assert answer.severity == "NOT_ASSESSED"
    assert answer.confidence is None
    assert answer.evidence == []
    assert answer.differential_diagnoses == []
    assert 1 <= len(answer.regions_of_interest) <= 8
    for region in answer.regions_of_interest:
        left, top, right, bottom = region.box_px
        assert 0 <= left < right <= 512
        assert 0 <= top < bottom <= 512
        assert 0 < region.area_px <= (right - left) * (bottom - top)
        assert region.finding == PROPOSED
        assert (region.volume_ml, region.area_mm2, region.mean, region.concern) == (None,) * 4
        assert region.seg_sop_instance_uid is None
