"""The SEG against highdicom's own, the validators, and what a viewer needs of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.dataelem import RawDataElement
from pydicom.pixels.utils import unpack_bits
from pydicom.sr.codedict import codes

from operators.evidence.frames import PackedFrames, list_frames
from operators.evidence.seg import build_seg
from operators.evidence.write import write_evidence
from operators.findings.measure import measure
from operators.findings.tally import tally
from operators.job import Report
from tests.operators.scene import RECORDED_AT, make_segmentation, segment, two_glands
from tests.series import Ball, centred_grid, oblique
from tests.validators import dciodvfy_errors


def written(report: Report, folder: Path) -> hd.seg.Segmentation:
    """The SEG as highdicom reads it from the file."""
    return hd.seg.segread(write_evidence(report, folder, RECORDED_AT)[0].path)


def by_highdicom_alone(report: Report, source: Path, found: Sequence[int]) -> hd.seg.Segmentation:
    """Pixels, frames and groups as highdicom makes them from the whole label map."""
    paths = {}
    for path in source.glob("*.dcm"):
        header = pydicom.dcmread(path)
        paths[header.SOPInstanceUID] = header
    labels = report.segmentation.labels
    return hd.seg.Segmentation(
        source_images=[paths[uid] for uid in report.segmentation.volume.source_sop_uids],
        pixel_array=np.stack([labels == label for label in found], axis=-1).astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[
            hd.seg.SegmentDescription(
                number,
                f"segment {number}",
                codes.SCT.AnatomicalStructure,
                codes.SCT.Mandible,
                "AUTOMATIC",
                hd.AlgorithmIdentificationSequence("a", codes.DCM.ArtificialIntelligence, "1"),
            )
            for number in range(1, len(found) + 1)
        ],
        series_instance_uid=hd.UID(),
        series_number=1,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
    )


def by_segment_and_source(seg: pydicom.Dataset) -> dict[tuple[int, str], tuple]:
    """Pixels, position and all other groups of every frame but its place in the sequence."""
    frames = {}
    groups = seg.PerFrameFunctionalGroupsSequence
    for pixels, group in zip(seg.pixel_array, groups, strict=True):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        place = [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]
        del group.PlanePositionSequence, group.FrameContentSequence
        frames[number, source.ReferencedSOPInstanceUID] = (pixels, place, group)
    return frames


def many_structures(folder: Path) -> Report:
    """104 boxes in an oblique, anisotropic series; two labels more are looked for in vain."""
    shape = (9, 36, 44)
    grid = centred_grid(shape, (2.5, 0.7, 0.9), oblique(20, 10))
    segments = [replace(segment(n, "mandible"), name=f"s{n}", label=f"s{n}") for n in range(1, 107)]
    segmentation = make_segmentation(folder, [], shape, grid, segments)
    labels = np.zeros(shape, np.uint8)
    for n in range(104):
        row, column = divmod(n, 13)
        first = n % 6
        # Of the last labels, 105 and 106, none occurs; the others are in no order.
        labels[first : first + 1 + n % 4, 4 * row : 4 * row + 3, 3 * column : 3 * column + 2] = (
            n * 7 % 104 + 1
        )
    return measure(replace(segmentation, labels=labels))


@pytest.mark.parametrize(
    ("make", "found"), [(two_glands, [2, 7]), (many_structures, list(range(1, 105)))]
)
def test_frames_are_those_that_highdicom_makes_from_the_whole(
    make: Callable[[Path], Report], found: list[int], tmp_path: Path
) -> None:
    report = make(tmp_path / "in")
    ours = written(report, tmp_path / "out")
    theirs = by_highdicom_alone(report, tmp_path / "in", found)

    # highdicom counts slices against the normal: frames are paired by what they show.
    mine, other = by_segment_and_source(ours), by_segment_and_source(theirs)
    assert mine.keys() == other.keys()
    for key, (pixels, position, groups) in mine.items():
        assert (pixels == other[key][0]).all()
        assert position == pytest.approx(other[key][1], abs=1e-6)
        assert groups == other[key][2]
    mine, other = (seg.SharedFunctionalGroupsSequence[0] for seg in (ours, theirs))
    measures = mine.PixelMeasuresSequence[0], other.PixelMeasuresSequence[0]
    for keyword in ("PixelSpacing", "SpacingBetweenSlices", "SliceThickness"):
        assert measures[0][keyword].value == pytest.approx(measures[1][keyword].value, abs=1e-6)
    assert ours.SourceImageSequence == theirs.SourceImageSequence
    assert ours.ReferencedSeriesSequence == theirs.ReferencedSeriesSequence


@given(
    labels=hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=7),
        elements=st.sampled_from([0, 3, 5]),
    )
)
@settings(max_examples=80, deadline=None)
def test_bits_are_packed_without_gaps_for_every_frame_size(labels: np.ndarray) -> None:
    assume(labels.any())
    counts = np.stack([np.bincount(plane.ravel(), minlength=6) for plane in labels])

    frames = list_frames(counts, [5, 3])

    expected = [plane == label for label in (5, 3) for plane in labels if (plane == label).any()]
    packed = PackedFrames(lambda label, k: labels[k] == label, frames)
    whole = packed.read()
    bits = unpack_bits(whole)
    assert len(whole) % 2 == 0 and packed.read() == b""
    assert packed.seek(0, os.SEEK_END) == packed.tell() == len(whole)
    packed.seek(0)
    assert b"".join(iter(lambda: packed.read(3), b"")) == whole
    packed.seek(len(whole) // 2)
    assert packed.read(5) == whole[len(whole) // 2 :][:5]
    assert len(frames) == len(expected)
    assert (bits[: labels[0].size * len(expected)] == np.array(expected, int).ravel()).all()


def test_slices_are_counted_along_the_normal_for_all_segments_alike(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    normal = report.segmentation.volume.lps_from_index[:3, 2]

    ranks = {}
    for groups in written(report, tmp_path / "out").PerFrameFunctionalGroupsSequence:
        number, rank = groups.FrameContentSequence[0].DimensionIndexValues
        assert number == groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        position = groups.PlanePositionSequence[0].ImagePositionPatient
        ranks.setdefault(rank, set()).add(round(float(np.dot(position, normal)), 3))

    heights = [ranks[rank] for rank in range(1, len(ranks) + 1)]
    assert all(len(height) == 1 for height in heights)
    assert sorted(heights, key=min) == heights


def test_groups_are_written_without_being_decoded_again(tmp_path: Path) -> None:
    """Decoding and encoding them would cost more than all else."""
    report = two_glands(tmp_path / "in")
    seg = build_seg(report, tally(report.segmentation), RECORDED_AT)

    seg.save_as(tmp_path / "seg.dcm", enforce_file_format=True)

    groups = seg.get_item("PerFrameFunctionalGroupsSequence")
    assert isinstance(groups, RawDataElement)
    assert groups.value in (tmp_path / "seg.dcm").read_bytes()


def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")

    seg, _ = write_evidence(report, tmp_path / "out", RECORDED_AT)

    assert not dciodvfy_errors(seg.path)


def test_one_segment_is_read_back_as_it_was(tmp_path: Path) -> None:
    ball = Ball(centre_lps_mm=(1.0, 2.0, 3.0), radius_mm=5.0, hu=40)
    shape = (9, 16, 16)
    segmentation = make_segmentation(
        tmp_path / "in", [ball], shape, centred_grid(shape, (2.0, 1.0, 1.0)), [segment(4, "larynx")]
    )

    seg = written(measure(segmentation), tmp_path / "out")

    assert not dciodvfy_errors(next((tmp_path / "out").glob("*.seg.dcm")))
    first = np.flatnonzero((segmentation.labels == 4).any(axis=(1, 2)))[0]
    volume = seg.get_volume(combine_segments=True).array
    assert (volume == (segmentation.labels[first : first + len(volume)] == 4)).all()


def test_found_structures_are_numbered_without_gaps_and_the_others_left_out(
    tmp_path: Path,
) -> None:
    seg = written(two_glands(tmp_path / "in"), tmp_path / "out")

    described = [(item.SegmentNumber, item.SegmentLabel) for item in seg.SegmentSequence]
    assert described == [(1, "Parotid left"), (2, "Mandible")]
    assert seg.SegmentsOverlap == "NO"


def test_codes_side_colour_and_algorithm_stand_in_the_segment(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    model = report.segmentation.model

    parotid, mandible = written(report, tmp_path / "out").SegmentSequence

    kind = parotid.SegmentedPropertyTypeCodeSequence[0]
    side = kind.SegmentedPropertyTypeModifierCodeSequence[0]
    assert (kind.CodeValue, side.CodeValue) == ("45289007", "7771000")
    assert parotid.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "91723000"
    assert (
        "SegmentedPropertyTypeModifierCodeSequence"
        not in (mandible.SegmentedPropertyTypeCodeSequence[0])
    )
    lab = hd.color.CIELabColor(
        *hd.color.CIELabColor.from_dicom_value(parotid.RecommendedDisplayCIELabValue).lab
    )
    assert lab.to_rgb(clip=True) == pytest.approx((230, 80, 60), abs=1)
    algorithm = parotid.SegmentationAlgorithmIdentificationSequence[0]
    assert parotid.SegmentAlgorithmType == "AUTOMATIC"
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (model.name, model.version)
    assert f"weights_sha256={model.weights_sha256}" in algorithm.AlgorithmParameters
    assert parotid.TrackingUID != mandible.TrackingUID


def test_frame_of_reference_and_all_source_images_are_kept(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    volume = report.segmentation.volume

    seg = written(report, tmp_path / "out")

    assert seg.FrameOfReferenceUID == volume.frame_of_reference_uid
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == volume.series_instance_uid
    referenced = [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence]
    assert referenced == list(volume.source_sop_uids)


def test_lossy_compression_of_any_source_slice_is_passed_on(tmp_path: Path) -> None:
    def compress(dataset: pydicom.Dataset, k: int) -> None:
        if k == 3:
            dataset.LossyImageCompression = "01"
            dataset.LossyImageCompressionRatio = "10"
            dataset.LossyImageCompressionMethod = "ISO_10918_1"

    seg = written(two_glands(tmp_path / "in", edit=compress), tmp_path / "out")

    assert seg.LossyImageCompression == "01"
    assert seg.LossyImageCompressionMethod == "ISO_10918_1"


def test_a_model_without_weights_claims_none(tmp_path: Path) -> None:
    report = two_glands(tmp_path / "in")
    model = replace(report.segmentation.model, weights_sha256="")
    segmentation = replace(report.segmentation, model=model)

    seg = written(replace(report, segmentation=segmentation), tmp_path / "out")

    algorithm = seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmParameters == "runtime=torch-cpu-float32"
