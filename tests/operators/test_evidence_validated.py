"""Varied results before other people's programs: the one place where all of them judge all of it.

dciodvfy, PixelMed, dcmtk's dsrdump, and dcmqi's two readers. What they may complain
of is listed here, each with its reason; nothing else passes.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from operators.evidence.write import write_evidence, write_reading
from operators.job import Evidence, Report, Segmentation, Volume
from operators.reading import Reading
from operators.volume.tilt import upright
from tests.operators.scene import RECORDED_AT
from tests.operators.varied import GREEK, JAPANESE, PHANTOMS, REAL, Made
from tests.validators import (
    dciodvfy_errors,
    dcmdump_value,
    dsrdump,
    grids_by_dcmqi,
    pixelmed_sr_errors,
    tid1500reader,
)

# PixelMed counts the regions of all groups together, and where there is exactly one it
# tests every group against the planar template (TID 1410), volumetric ones too. So the
# volumetric group of a report on one structure "lacks" what it must not have.
# dcmtk 3.6.7 checks the form of values in 8 bit character sets only.
NO_VR_CHECK = "W: The VR checker does not support this Specific Character Set: ISO_IR 192"
INHERITED = re.compile(
    r"W: (\w+) \(\w{4},\w{4}\) violates VR definition in "
    r"(?:Patient|GeneralStudy|PatientStudy)Module"
)
_ROWS = (
    '[Row 5] SCOORD (111030,DCM,"Image Region")',
    '[Row 7] IMAGE (121214,DCM,"Referenced Segmentation Frame")',
)


def write(made: Made, folder: Path) -> dict[str, Evidence]:
    """Files by kind."""
    if isinstance(made.about, Reading):
        evidence = write_reading(made.about, folder, RECORDED_AT)
    else:
        evidence = write_evidence(made.about, folder, RECORDED_AT)
    return {item.kind: item for item in evidence}


def found(about: Report | Reading) -> int:
    """Structures that have a place."""
    if isinstance(about, Reading):
        return len(about.boxes)
    return sum(finding.voxels > 0 for finding in about.findings)


def groups(path: Path) -> int:
    """Measurement groups of an SR."""
    return sum(
        len(item.ContentSequence)
        for item in dcmread(path).ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "126010"
    )


def expected_of_pixelmed(about: Report | Reading) -> list[str]:
    """Its complaints that are its own fault: see the head of this file."""
    if isinstance(about, Reading) or about.segmentation.volume.plane or found(about) != 1:
        return []
    return list(_ROWS)


def judge(made: Made, folder: Path) -> None:
    """Every program on every file of one result."""
    inherited = set(dciodvfy_errors(made.source))
    about = made.about
    files = write(made, folder / "out")
    bare = isinstance(about, Reading) or not found(about)
    assert set(files) == ({"SR"} if bare else {"SEG", "SR"})
    for item in files.values():
        assert set(dciodvfy_errors(item.path)) <= inherited
    report = files["SR"].path
    complaints = pixelmed_sr_errors(report)
    expected = expected_of_pixelmed(about)
    assert len(complaints) == len(expected), complaints
    for complaint, row in zip(complaints, expected, strict=True):
        assert row in complaint
        assert complaint.endswith("Missing conditional content item")
        assert ".2: /CONTAINER" in complaint  # the second group, the volumetric one
    assert not doubts_of_dcmtk(report, made.source)
    if groups(report):
        assert len(tid1500reader(report, folder)["Measurements"]) == groups(report)
    if "SEG" in files and isinstance(about, Report) and for_dcmqi(about.segmentation.volume):
        same_voxels(about, grids_by_dcmqi(files["SEG"].path, folder / "dcmqi"))


def for_dcmqi(volume: Volume) -> bool:
    """It takes no SEG without an orientation in the patient, and ITK knows no leaning grid."""
    return volume.plane is None and upright(volume) is None


def doubts_of_dcmtk(report: Path, source: Path) -> list[str]:
    """What dsrdump warns of, but for patient and study values that are the source's own."""
    ours, theirs = dcmread(report), dcmread(source, stop_before_pixels=True)
    doubts = []
    for line in dsrdump(report).splitlines():
        if not line.startswith(("E:", "W:", "F:")) or line == NO_VR_CHECK:
            continue
        named = INHERITED.fullmatch(line)
        if not named or ours.get(named[1]) is None or ours.get(named[1]) != theirs.get(named[1]):
            doubts.append(line)
    return doubts


def same_voxels(report: Report, read: dict[int, tuple[np.ndarray, np.ndarray]]) -> None:
    """dcmqi's masks are ours, on our grid, whose axes run as ours do."""
    segmentation: Segmentation = report.segmentation
    ours = segmentation.volume.lps_from_index
    numbers = [finding.segment.number for finding in report.findings if finding.voxels]
    assert sorted(read) == list(range(1, len(numbers) + 1))
    for (_, (mask, theirs)), number in zip(sorted(read.items()), numbers, strict=True):
        np.testing.assert_allclose(theirs[:3, :3], ours[:3, :3], atol=2e-3)
        first = np.linalg.solve(ours, theirs[:, 3])[:3]
        np.testing.assert_allclose(first, first.round(), atol=2e-2)
        i, j, k = first.round().astype(int)
        assert (i, j) == (0, 0)
        expected = segmentation.mask(number)
        np.testing.assert_array_equal(mask, expected[k : k + len(mask)])
        assert mask.sum() == expected.sum()


@pytest.mark.parametrize("name", PHANTOMS)
def test_a_phantom_s_result_passes_every_program(tmp_path: Path, name: str) -> None:
    judge(PHANTOMS[name](tmp_path / "in", Path()), tmp_path)


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_a_real_or_odd_series_result_passes_every_program(
    tmp_path: Path, data_dir: Path, name: str
) -> None:
    judge(REAL[name](tmp_path / "in", data_dir), tmp_path)


@pytest.mark.parametrize(
    ("name", "said", "codec"),
    [("CT, Japanese name", JAPANESE, "iso2022_jp"), ("CT, Greek name", GREEK, "iso8859_7")],
)
def test_dcmtk_reads_the_same_name_in_source_seg_and_sr(
    tmp_path: Path, name: str, said: str, codec: str
) -> None:
    made = PHANTOMS[name](tmp_path / "in", Path())
    files = write(made, tmp_path / "out")

    # dcmtk prints the bytes as they are (on glibc it can't convert ISO 2022 IR 87).
    assert said.encode() not in made.source.read_bytes()
    assert dcmdump_value(made.source, "PatientName").decode(codec) == said
    for item in files.values():
        assert dcmdump_value(item.path, "SpecificCharacterSet") == b"ISO_IR 192"
        assert dcmdump_value(item.path, "PatientName").decode("utf-8") == said
