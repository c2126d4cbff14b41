"""What readers mark elsewhere becomes a SEG, through the whole graph, with the published weights.

The report is one that OHIF stored; the images under it are made here, with the UIDs and
the grid that it refers to and an analytic ellipsoid under each of its three marks.
"""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from app.graph import Asked, load_models, segment
from operators.models.medsam.mark_file import MarkFile, read_regions
from tests.line.test_geometry import segments_by_hand
from tests.series import write_ct_series

RECORDED = "20240102030405"
FAT_HU, LESION_HU = -90, 60
# By tracking identifier: centre (column, row, both as pixel edges) and half axes, pixels.
# The marks of the report lie round or across these.
LESIONS = {
    "Length 1": ((32.7, 43.2), (8.0, 5.6)),
    "Bidirectional 2": ((50.9, 47.8), (5.3, 8.0)),
    "RectangleROI 3": ((33.8, 62.6), (6.2, 4.1)),
}
HALF_HEIGHT = 3.4  # slices
MARKED = 10  # the slice of the marks


@pytest.fixture(scope="module")
def models(medsam_weights):  # noqa: ARG001  (skips without them)
    """All shipped bundles; LiteMedSAM is loaded once."""
    return load_models()


@pytest.fixture
def report(data_dir: Path) -> Path:
    return data_dir / "ohif-made" / "sr_length_bidirectional_rectangle.dcm"


@pytest.fixture
def marked_study(data_dir: Path, tmp_path: Path) -> Path:
    """The twenty slices that OHIF's phantom had: UIDs and grid from the SEG made of it."""
    seg = pydicom.dcmread(data_dir / "ohif-made" / "seg_before_edit.dcm")
    (referenced,) = seg.ReferencedSeriesSequence
    uids = [item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence]
    geometry = hd.seg.Segmentation.from_dataset(seg).get_volume_geometry(
        allow_missing_positions=True
    )
    assert geometry is not None
    affine = np.array(geometry.affine)[:, [2, 1, 0, 3]]
    frame = next(
        f
        for f in seg.PerFrameFunctionalGroupsSequence
        if f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        == uids[MARKED]
    )
    at = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
    affine[:3, 3] = at - MARKED * affine[:3, 2]
    k, j, i = np.mgrid[:20, :96, :96].astype(float)
    array = np.full(k.shape, FAT_HU, np.float64)
    for (x, y), (half_x, half_y) in LESIONS.values():
        inside = (
            ((i + 0.5 - x) / half_x) ** 2
            + ((j + 0.5 - y) / half_y) ** 2
            + ((k - MARKED) / HALF_HEIGHT) ** 2
        ) <= 1
        array[inside] = LESION_HU
    array += np.random.default_rng(2).normal(0, 12, array.shape)

    def as_marked(dataset, k):
        dataset.PatientID = seg.PatientID
        dataset.StudyInstanceUID = seg.StudyInstanceUID
        dataset.SeriesInstanceUID = referenced.SeriesInstanceUID
        dataset.SOPInstanceUID = uids[k]
        dataset.FrameOfReferenceUID = seg.FrameOfReferenceUID

    write_ct_series(tmp_path / "in", array.round().astype(np.int16), affine, edit=as_marked)
    return tmp_path / "in"


@pytest.mark.data
def test_a_report_of_ohif_becomes_a_seg_of_each_of_its_measurements(
    report, marked_study, tmp_path, models
):
    regions = read_regions(MarkFile(report))

    job = segment(
        marked_study,
        tmp_path / "out",
        RECORDED,
        models=models,
        asked=Asked("medsam_lite", None, regions),
    )

    assert not job.refused
    segs = [item.path for item in job.evidence if item.kind == "SEG"]
    reports = [item.path for item in job.evidence if item.kind == "SR"]
    assert len(segs) == len(reports) == len(LESIONS)
    marks = tracking_uids(report)
    for seg, sr, (label, lesion), mark in zip(segs, reports, LESIONS.items(), marks, strict=True):
        ((found, (centroid, volume_ml)),) = segments_by_hand(seg).items()
        assert found == label
        (x, y), (half_x, half_y) = lesion
        expected_mm = (-192 + 4 * (x - 0.5), -192 + 4 * (y - 0.5), 0.0)
        assert np.abs(centroid - expected_mm).max() < 4.0  # a pixel
        truth_ml = 4 / 3 * np.pi * (4 * half_x) * (4 * half_y) * (6 * HALF_HEIGHT) / 1000
        # On pixels of 4 mm; the mark that lies best got 26 % too little when this was written.
        assert volume_ml == pytest.approx(truth_ml, rel=0.3)
        parameters = pydicom.dcmread(seg).SegmentSequence[0]
        (algorithm,) = parameters.SegmentationAlgorithmIdentificationSequence
        assert f"prompt_tracking_uid={mark}" in algorithm.AlgorithmParameters
        assert any(mark in text for text in texts(sr))
    assert len({item.sop_instance_uid for item in job.evidence}) == 2 * len(LESIONS)


def tracking_uids(report: Path) -> list[str]:
    return [i.UID for i in items(pydicom.dcmread(report)) if i.ValueType == "UIDREF"]


def texts(report: Path) -> list[str]:
    return [i.TextValue for i in items(pydicom.dcmread(report)) if i.ValueType == "TEXT"]


def items(parent):
    for item in parent.get("ContentSequence") or []:
        yield item
        yield from items(item)
