"""Faults on the writing side of the App SDK's operators, which ours must not have.

SDK 4.0.0: the SEG writer draws UIDs and series number at random in every run,
and the text SR refers to no image.
"""

from __future__ import annotations

from pathlib import Path

import pydicom

from operators.evidence.write import write_evidence
from tests.operators.scene import RECORDED_AT, two_glands


def test_series_number_and_uids_are_the_same_in_every_run(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")

    runs = [
        [
            (header.SOPInstanceUID, header.SeriesInstanceUID, header.SeriesNumber)
            for header in (
                pydicom.dcmread(evidence.path)
                for evidence in write_evidence(report, tmp_path / run, RECORDED_AT)
            )
        ]
        for run in ("first", "second")
    ]

    assert runs[0] == runs[1]
    assert [number for _, _, number in runs[0]] == [7001, 8001]  # the source is series 1


def test_sr_refers_to_every_image_and_to_the_seg(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    seg, sr = write_evidence(report, tmp_path / "out", RECORDED_AT)

    (study,) = pydicom.dcmread(sr.path).CurrentRequestedProcedureEvidenceSequence

    referenced = {
        series.SeriesInstanceUID: {
            item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence
        }
        for series in study.ReferencedSeriesSequence
    }
    volume = report.segmentation.volume
    assert referenced == {
        volume.series_instance_uid: set(volume.source_sop_uids),
        seg.series_instance_uid: {seg.sop_instance_uid},
    }
