"""A result that a person's box caused says so, and is another result for another box."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pydicom

from operators.evidence.common import identify
from operators.evidence.write import write_evidence
from operators.findings.measure import measure
from tests.operators.scene import MODEL, RECORDED_AT, two_glands
from tests.validators import dciodvfy_errors, dsrdump, pixelmed_sr_errors

PROMPT = (("prompt_box", "1,2,30,40"), ("prompt_slice", "2.25.77"))


def test_seg_and_sr_name_the_prompt_and_the_seg_is_semiautomatic(tmp_path: Path) -> None:
    plain = two_glands(tmp_path / "in").segmentation
    prompted = replace(plain, model=replace(MODEL, prompt=PROMPT))

    seg, sr = write_evidence(measure(prompted), tmp_path / "out", RECORDED_AT)
    automatic, _ = write_evidence(measure(plain), tmp_path / "plain", RECORDED_AT)

    for item in pydicom.dcmread(seg.path).SegmentSequence:
        assert item.SegmentAlgorithmType == "SEMIAUTOMATIC"
        said = item.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
        assert "prompt_box=1,2,30,40" in said and "prompt_slice=2.25.77" in said
        assert MODEL.weights_sha256 in said
    for item in pydicom.dcmread(automatic.path).SegmentSequence:
        assert item.SegmentAlgorithmType == "AUTOMATIC"
    assert "prompt_box=1,2,30,40" in dsrdump(sr.path)
    assert not dciodvfy_errors(seg.path)
    assert not pixelmed_sr_errors(sr.path)


def test_two_boxes_are_two_results_and_one_box_is_one(tmp_path: Path) -> None:
    plain = two_glands(tmp_path).segmentation
    other = (("prompt_box", "1,2,30,41"), PROMPT[1])

    uids = [
        identify(replace(plain, model=replace(MODEL, prompt=prompt)), kind, RECORDED_AT)
        for prompt in ((), PROMPT, other, PROMPT)
        for kind in ("SEG", "SR")
    ]

    assert uids[2:4] == uids[6:8]
    assert len({i.sop_instance_uid for i in uids} | {i.series_instance_uid for i in uids}) == 12
