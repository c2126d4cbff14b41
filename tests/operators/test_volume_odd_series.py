"""All made cases of `odd-series` against their known truth, in `cases.json`.

The truth was written down before this reader: shapes, spacings, affines, and
landmarks (LPS mm, HU) that a flip, a transposition or a wrong slope would move.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from scipy.ndimage import map_coordinates

from operators.errors import Refusal, VolumeRefusal
from operators.evidence.result import write_result
from operators.job import Match, Refused, StudyJob, Volume
from operators.study.read import Drop, read_drop
from operators.volume.build import build_matched, build_volumes
from operators.volume.tilt import upright

pytestmark = pytest.mark.data

# Where the truth leaves a choice or asks for a refusal, this is the one that is made.
REFUSED_WHEN_READ = {
    "03c-same-uid-other-pixels": "RL-0202",
    "12a-wrong-patient-in-series": "RL-0201",
    "12b-wrong-patient-in-study": "RL-0201",
    "30-truncated": "RL-0104",
    "31-truncated-header": "RL-0104",
    "32-zero-bytes": "RL-0102",
    "33-preamble-only": "RL-0103",
    "34-not-dicom": "RL-0103",
    "35-length-4gb": "RL-0104",
    "36-path-traversal": "RL-0108",
    "37-deflate-bomb": "RL-0106",
    "38-nested-sequences": "RL-0105",
    "39-pixel-size-mismatch": "RL-0109",
    "42-decimal-comma": "RL-0110",
}
REFUSED_WHEN_BUILT = {
    "02-missing-slice": "RL-0314",
    "04b-two-phases-by-time": "RL-0311",
    "08-one-slice": "RL-0304",
    "10-mixed-orientations": "RL-0308",
    "11-two-frames-of-reference": "RL-0307",
    "17a-one-position-missing": "RL-0305",
    "17b-all-positions-missing": "RL-0305",
    "18-spacing-missing": "RL-0305",
    "19-two-spacings": "RL-0314",
    "21-two-matrix-sizes": "RL-0309",
}
# Whole as files and of one image: read, and refused as a volume.
SINGLE_IMAGES = {
    "22a-name-japanese": "RL-0304",
    "22b-name-greek": "RL-0304",
    "22c-name-undeclared": "RL-0304",
    "22d-name-wrongly-declared": "RL-0304",
    "40-no-preamble": "RL-0304",
    "41-private-phi": "RL-0304",
}
NOT_BUILT = {**REFUSED_WHEN_BUILT, **SINGLE_IMAGES}
PLANAR = ["15b-monochrome1-dx"]  # read as a 2D image
TILTED = "01-gantry-tilt"  # read on a leaning grid
FLAGS = {
    TILTED: ["gantry-tilt"],
    "03a-duplicate-position": ["duplicates-removed"],
    "09-localizer-mixed-in": ["localizer-left-out"],
    "15b-monochrome1-dx": ["scale"],
}
TABLE = Path(__file__).parents[2] / "docs" / "oddities.md"


@pytest.fixture(scope="session")
def truth(data_dir: Path) -> dict[str, Any]:
    return json.loads((data_dir / "odd-series" / "cases.json").read_text())


@pytest.fixture(scope="session")
def cases_dir(data_dir: Path) -> Path:
    return data_dir / "odd-series" / "cases"


def built(drop: Drop) -> tuple[Volume, ...]:
    series = [series for study in drop.studies for series in study.series]
    return tuple(volume for one in series for volume in build_volumes(one))


def reasons(refused: tuple[Refused, ...]) -> list[str]:
    return [entry.reason for entry in refused]


def value_at(volume: Volume, lps_mm: list[float]) -> float:
    """Trilinear, through the affine of the volume."""
    i, j, k, _ = np.linalg.solve(volume.lps_from_index, [*lps_mm, 1.0])
    return float(map_coordinates(volume.array.astype(float), [[k], [j], [i]], order=1)[0])


def test_the_tables_of_this_file_cover_every_case_once(truth):
    tables = [*REFUSED_WHEN_READ, *NOT_BUILT]
    accepted = {
        name for name, case in truth["cases"].items() if case["outcome"].split("-")[0] == "accept"
    }

    assert len(truth["cases"]) == 52
    assert len(tables) == len(set(tables))
    # Whatever is in no table must be accepted or split by its truth.
    assert set(truth["cases"]) - set(tables) - accepted == {"04-two-phases", TILTED}
    # And nothing is refused that its truth accepts, but for lone slices, which are read as
    # files (that is what they are about) and make no stack (as case 08).
    assert accepted & set(tables) == set(SINGLE_IMAGES) - {"41-private-phi"}
    assert all(truth["cases"][name]["files"] == 1 for name in SINGLE_IMAGES)


@pytest.mark.parametrize("name", sorted(REFUSED_WHEN_READ))
def test_file_or_study_is_refused_by_name(cases_dir, truth, name):
    drop = read_drop(cases_dir / name)

    assert drop.studies == ()
    assert [reason[:7] for reason in reasons(drop.refused)] == [REFUSED_WHEN_READ[name]] * (
        1 if name[:2] in {"03", "12"} else truth["cases"][name]["files"]
    )


@pytest.mark.parametrize("name", sorted(NOT_BUILT))
def test_series_is_refused_by_name(cases_dir, name):
    drop = read_drop(cases_dir / name)

    assert drop.refused == ()
    with pytest.raises(VolumeRefusal) as refused:
        built(drop)
    assert refused.value.code == NOT_BUILT[name]
    assert len(str(refused.value)) > len("series : ") + 64  # a sentence, not a code alone


ACCEPTED = [
    "00-reference",
    "03a-duplicate-position",
    "03b-same-instance-twice",
    "04-two-phases",
    "05a-instance-numbers-reversed",
    "05b-instance-numbers-shuffled",
    "05c-instance-numbers-absent",
    "06-oblique",
    "07-anisotropic-spacing",
    "09-localizer-mixed-in",
    "12c-name-spelling",
    "13-slope-per-slice",
    "14a-both-directions-negative",
    "14b-row-direction-negative",
    "15a-monochrome1-ct",
    "16a-signed-16bit",
    "16b-unsigned-16bit",
    "16c-padding-value",
    "16d-high-bits-set",
    "20-position-jitter",
]


def test_accepted_and_refused_are_all_cases(truth):
    names = [TILTED, *ACCEPTED, *PLANAR, *REFUSED_WHEN_READ, *NOT_BUILT]
    assert sorted(names) == sorted(truth["cases"])


def test_the_table_in_the_docs_says_of_every_case_what_the_tests_hold(truth):
    """A row: case, what is odd (in the truth's words), what is done, its code or flag."""
    rows = {
        cells[0]: cells[1:]
        for line in TABLE.read_text().splitlines()
        if re.match(r"\| `\d", line)
        for cells in [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")]]
    }

    assert sorted(rows) == sorted(truth["cases"])
    refused = {**REFUSED_WHEN_READ, **NOT_BUILT}
    for name, (oddity, done, sign) in rows.items():
        assert oddity == truth["cases"][name]["odd"]
        assert sign == refused.get(name, ", ".join(FLAGS.get(name, [])) or "none")
        refuses = name in REFUSED_WHEN_READ or name in REFUSED_WHEN_BUILT
        assert done.startswith("Refused") == refuses, name


@pytest.mark.parametrize("name", ACCEPTED)
def test_volume_has_the_shape_the_affine_and_the_landmarks_of_its_truth(cases_dir, truth, name):
    case = truth["cases"][name]
    landmarks = case.get("landmarks") or []
    landmarks = truth["landmarks"] if landmarks is True else landmarks

    volumes = built(read_drop(cases_dir / name))

    assert len(volumes) == len(case["volumes"])
    for volume, expected in zip(volumes, case["volumes"], strict=True):
        tolerance = expected.get("tolerance_mm", 0.0012)
        assert volume.unit == "HU"
        assert list(volume.array.shape) == expected["shape_zyx"]
        assert volume.spacing_zyx_mm == pytest.approx(expected["spacing_zyx_mm"], abs=tolerance)
        affine = np.array(expected["affine_ijk_to_lps"])
        assert np.abs(volume.lps_from_index - affine).max() < tolerance
        if "size_yx_mm" in case:
            size = np.multiply(volume.array.shape[1:], volume.spacing_zyx_mm[1:])
            assert size == pytest.approx(case["size_yx_mm"], abs=0.1)
        for landmark in landmarks:
            # HU of 0.5 are rounded in the table.
            assert value_at(volume, landmark["lps_mm"]) == pytest.approx(
                landmark["hu"], abs=case["tolerance_hu"] + 0.5
            )


@pytest.mark.parametrize(
    "name",
    [name for name in ACCEPTED if name not in {"06-oblique", "07-anisotropic-spacing"}],
)
def test_voxels_are_those_of_the_reference(cases_dir, name):
    reference = built(read_drop(cases_dir / "00-reference"))[0].array
    array = built(read_drop(cases_dir / name))[0].array
    padded = built(read_drop(cases_dir / name))[0].padding

    if name == "14a-both-directions-negative":
        array = array[:, ::-1, ::-1]
    if name == "14b-row-direction-negative":
        array = array[::-1, :, ::-1]
    tissue = np.ones(array.shape, bool) if padded is None else ~padded

    assert np.abs(array[tissue] - reference[tissue].astype(float)).max() <= (
        1 if name == "13-slope-per-slice" else 0
    )


def test_flags_tell_what_was_resolved(cases_dir):
    flags = {
        name: [
            flag.name for volume in built(read_drop(cases_dir / name)) for flag in volume.quality
        ]
        for name in (TILTED, *ACCEPTED)
    }

    expected = {name: found for name, found in FLAGS.items() if name not in PLANAR}
    assert {name: found for name, found in flags.items() if found} == expected


@pytest.mark.parametrize("name", PLANAR)
def test_a_projection_is_a_picture_without_a_place_in_the_patient(cases_dir, name):
    (study,) = read_drop(cases_dir / name).studies
    (series,) = study.series

    volumes, refused = build_matched((Match("bundle", series),))

    assert refused == ()
    (volume,) = volumes
    stored = pydicom.dcmread(series.instances[0].path).pixel_array
    # MONOCHROME1: the lowest stored value is the brightest (PS3.3 C.7.6.3.1.2).
    brightness = volume.array[0].ravel()[np.argsort(stored.ravel(), kind="stable")]
    assert (np.diff(brightness) <= 0).all()
    assert brightness[0] > brightness[-1]
    assert np.isnan(volume.lps_from_index).all()
    assert volume.plane.image_type == "xray"
    assert "detector" in volume.plane.scale_holds
    assert [flag.name for flag in volume.quality][: len(FLAGS[name])] == FLAGS[name]


def test_nothing_private_is_in_what_is_said_of_a_drop(cases_dir, truth, tmp_path, caplog):
    name = "41-private-phi"
    drop = read_drop(cases_dir / name)
    matches = tuple(Match("bundle", series) for study in drop.studies for series in study.series)
    _, refused = build_matched(matches)
    job = StudyJob(tmp_path, tmp_path, "20240102030405", studies=drop.studies, refused=refused)

    result = write_result(job)

    assert [entry["reason"][:7] for entry in result["refused"]] == [SINGLE_IMAGES[name]]
    said = (tmp_path / "result.json").read_text() + caplog.text
    # Dates of ours hold "1950" only by chance, so whole words are looked for.
    for secret in truth["cases"][name]["must_not_leak"]:
        assert not re.search(rf"\b{re.escape(secret)}\b", said)


def test_the_duplicate_that_was_left_out_is_named(cases_dir):
    drop = read_drop(cases_dir / "03a-duplicate-position")
    (volume,) = built(drop)
    all_uids = {image.sop_instance_uid for image in drop.studies[0].series[0].instances}
    (left_out,) = all_uids - set(volume.source_sop_uids)

    assert left_out in volume.quality[0].text


def test_phases_are_told_apart_and_named(cases_dir):
    volumes = built(read_drop(cases_dir / "04-two-phases"))
    soft_tissue = [281.232, 246.078, 227.5]

    assert [volume.part for volume in volumes] == ["acquisition 1", "acquisition 2"]
    first, second = (value_at(volume, soft_tissue) for volume in volumes)
    assert second - first == pytest.approx(120, abs=1)
    assert {int(header.AcquisitionNumber) for header in volumes[1].headers} == {2}


def test_missing_slice_is_named_with_number_and_place(cases_dir):
    with pytest.raises(Refusal, match=r"5\.00 mm between slices 6 and 7 \(at 232\.5 mm"):
        built(read_drop(cases_dir / "02-missing-slice"))


def test_tilt_is_kept_named_and_made_upright(cases_dir, truth):
    case = truth["cases"][TILTED]
    (expected,) = case["volumes"]

    (volume,) = built(read_drop(cases_dir / TILTED))
    straight = upright(volume)

    assert list(volume.array.shape) == expected["shape_zyx"]
    step = volume.lps_from_index[:3, 2]
    assert step == pytest.approx(expected["step_between_slices_lps_mm"], abs=1e-3)
    assert volume.spacing_zyx_mm[0] == pytest.approx(expected["distance_along_normal_mm"], abs=1e-3)
    assert [flag.name for flag in volume.quality] == FLAGS[TILTED]
    assert "15.0 degrees" in volume.quality[0].text and "0.65 mm" in volume.quality[0].text
    assert straight is not None
    normal = straight.lps_from_index[:3, 2] / expected["distance_along_normal_mm"]
    assert normal == pytest.approx(expected["normal"], abs=1e-3)
    # Through the leaning affine, and as the network sees it.
    for shown in (volume, straight.volume(volume)):
        for landmark in case["landmarks"]:
            assert value_at(shown, landmark["lps_mm"]) == pytest.approx(
                landmark["hu"], abs=case["tolerance_hu"]
            )


def test_padding_is_masked_and_air(cases_dir):
    (volume,) = built(read_drop(cases_dir / "16c-padding-value"))

    assert volume.padding is not None
    assert 0.1 < volume.padding.mean() < 0.9
    assert set(np.unique(volume.array[volume.padding])) == {-1024}
    assert volume.array.min() == -1024


def test_slices_are_sorted_along_the_normal(cases_dir):
    (volume,) = built(read_drop(cases_dir / "14b-row-direction-negative"))

    z = [float(header.ImagePositionPatient[2]) for header in volume.headers]
    assert z == sorted(z, reverse=True)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("22a-name-japanese", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("22b-name-greek", "Διονυσιος"),
        ("22d-name-wrongly-declared", "MÃ¼ller^JÃ¶rg"),
    ],
)
def test_names_are_decoded_as_declared(cases_dir, name, shown):
    (study,) = read_drop(cases_dir / name).studies

    assert str(study.series[0].instances[0].header.PatientName) == shown


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("22c-name-undeclared", "no SpecificCharacterSet is declared"),
        ("22d-name-wrongly-declared", "looks like UTF-8"),
        ("40-no-preamble", "no transfer syntax is declared"),
    ],
)
def test_doubts_are_warned_of_without_the_text(cases_dir, name, said):
    (study,) = read_drop(cases_dir / name).studies

    assert len(study.warnings) == 1
    assert said in study.warnings[0]
    assert "ller" not in study.warnings[0]


def test_clean_cases_have_no_warnings(cases_dir):
    for name in ("00-reference", "22a-name-japanese", "22b-name-greek", "12c-name-spelling"):
        assert read_drop(cases_dir / name).studies[0].warnings == ()
