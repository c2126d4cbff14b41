"""One box on one slice to a SEG, through the whole graph, with the published weights.

Oracles: an analytic ball on turned and mirrored grids, and the contour that a
radiotherapist drew on the CT of STS_002. SEGs are read back by hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from app.graph import Asked, NeedsBox, analyse, load_models, segment
from operators.models.medsam.region import of_box
from operators.models.medsam.request import BoxPrompt
from tests.line.test_geometry import segments_by_hand
from tests.series import Ball, axis_directions, centred_grid, oblique, render, write_ct_series
from tests.validators import dciodvfy_errors

RECORDED = "20240102030405"
SHAPE_ZYX = (14, 72, 88)
SPACING_ZYX_MM = (4.0, 1.0, 1.2)
BALL = Ball((6.0, -7.0, 5.0), 15.0, 60)
FAT_HU = -90
GRIDS = {
    "mirrored": next(d for d in axis_directions() if np.allclose(d, np.diag([-1.0, 1.0, -1.0]))),
    "oblique": oblique(30, -20),
}


@pytest.fixture(scope="module")
def models(medsam_weights):  # noqa: ARG001  (skips without them)
    """All shipped bundles; LiteMedSAM is loaded once."""
    return load_models()


def ask(prompt: BoxPrompt, series_uid: str | None = None) -> Asked:
    return Asked("medsam_lite", series_uid, (of_box(prompt),))


def written(job) -> tuple[Path, Path]:
    """SEG and SR of a finished job; what was refused is what is no DICOM (masks as NIfTI)."""
    assert all(entry.reason.startswith("RL-0103") for entry in job.refused)
    assert [item.kind for item in job.evidence] == ["SEG", "SR"]
    seg, sr = (item.path for item in job.evidence)
    return seg, sr


@pytest.mark.parametrize("grid", GRIDS)
def test_the_boxed_ball_lies_where_the_phantom_put_it(tmp_path, models, grid):
    """Instance numbers run against the positions, so a slice taken by position would miss."""
    affine = centred_grid(SHAPE_ZYX, SPACING_ZYX_MM, GRIDS[grid])
    array = render([BALL], SHAPE_ZYX, affine, FAT_HU)
    array += np.random.default_rng(3).normal(0, 12, array.shape).astype(np.int16)
    write_ct_series(tmp_path / "in", array, affine, reverse=True)
    i, j, k = (np.linalg.inv(affine) @ (*BALL.centre_lps_mm, 1.0))[:3]
    # Half a pixel from centre to edge, and three pixels too loose.
    half_x, half_y = BALL.radius_mm / 1.2 + 3, BALL.radius_mm / 1.0 + 3
    box = tuple(round(v + 0.5, 1) for v in (i - half_x, j - half_y, i + half_x, j + half_y))
    number = SHAPE_ZYX[0] - round(k)

    job = segment(
        tmp_path / "in",
        tmp_path / "out",
        RECORDED,
        models=models,
        asked=ask(BoxPrompt(str(number), box, "Test ball")),
    )

    seg, _ = written(job)
    centroid, volume_ml = segments_by_hand(seg)["Test ball"]
    assert np.linalg.norm(centroid - BALL.centre_lps_mm) < 1.5
    assert volume_ml == pytest.approx(BALL.volume_ml, rel=0.15)


CONTOUR_ML = 53.3
CT_SERIES = "1.3.6.1.4.1.14519.5.2.1.5168.1900.672471348177659964935135533244"
# Slice and box; the contour's own box is 53,52,109,90 on image 23 and 54,54,107,87 on image 20.
LOOSE_BOXES = {
    "even": ("23", (49, 48, 113, 94)),
    "uneven": ("23", (48, 50, 112, 96)),
    "very loose": ("23", (45, 44, 117, 98)),
    "off the middle": ("20", (50, 50, 111, 91)),
}


@pytest.mark.data
@pytest.mark.parametrize("variant", LOOSE_BOXES)
def test_a_loose_box_on_a_sarcoma_gives_its_volume_within_a_quarter(
    data_dir, tmp_path, models, variant
):
    folder = data_dir / "sts-ct-mr-pet-dicom" / "STS_002"
    number, box = LOOSE_BOXES[variant]
    asked = ask(BoxPrompt(number, box, "Sarcoma"), CT_SERIES)

    job = segment(folder, tmp_path, RECORDED, models=models, asked=asked)

    seg, _ = written(job)
    _, volume_ml = segments_by_hand(seg)["Sarcoma"]
    assert volume_ml == pytest.approx(CONTOUR_ML, rel=0.25)
    # The source's Study ID is a character too long, and is its own to keep.
    source = next((folder / "CT").glob("*.dcm"))
    assert set(dciodvfy_errors(seg)) <= set(dciodvfy_errors(source))
    dataset = dcmread(seg)
    item = dataset.SegmentSequence[0]
    assert item.SegmentAlgorithmType == "SEMIAUTOMATIC"
    said = item.SegmentationAlgorithmIdentificationSequence[0]
    assert said.AlgorithmName == "medsam_lite"
    card = models.card("medsam_lite")
    assert f"weights_sha256={card.weights_sha256}" in said.AlgorithmParameters
    assert f"prompt_box={','.join(map(str, box))}" in said.AlgorithmParameters
    assert dataset.StudyInstanceUID == job.studies[0].study_instance_uid


# Contours of two patients by the mask of the set; boxes three pixels too large on each side, on
# the slice that holds most of it. Neither patient was seen in training.
TUNED = {
    "STS_002": (CT_SERIES, "23", (50, 49, 112, 93), CONTOUR_ML),
    "STS_041": (
        "1.3.6.1.4.1.14519.5.2.1.5168.1900.969942878326895395545133699573",
        "23",
        (54, 54, 104, 113),
        60.6,
    ),
}


@pytest.mark.data
@pytest.mark.parametrize("patient", TUNED)
def test_the_tuned_weights_give_a_sarcoma_s_volume_within_a_fifth(
    data_dir, tmp_path, models, patient
):
    series, number, box, contour_ml = TUNED[patient]
    asked = Asked(
        "medsam_lite_ct_mr", series, (of_box(BoxPrompt(number, tuple(map(float, box)), "Sarcoma")),)
    )

    job = segment(
        data_dir / "sts-ct-mr-pet-dicom" / patient, tmp_path, RECORDED, models=models, asked=asked
    )

    seg, _ = written(job)
    _, volume_ml = segments_by_hand(seg)["Sarcoma"]
    assert volume_ml == pytest.approx(contour_ml, rel=0.2)


@pytest.mark.data
def test_the_same_box_gives_the_same_bytes_and_another_box_another_result(
    data_dir, tmp_path, models
):
    folder = data_dir / "sts-ct-mr-pet-dicom" / "STS_002" / "CT"
    number, box = LOOSE_BOXES["even"]
    wider = (box[0], box[1], box[2] + 1, box[3])

    runs = [
        segment(
            folder, tmp_path / name, RECORDED, models=models, asked=ask(BoxPrompt(number, which))
        )
        for name, which in (("a", box), ("b", box), ("c", wider))
    ]

    first, again, other = ({p.name: p.read_bytes() for p in written(job)} for job in runs)
    assert first == again
    assert not set(first) & set(other)


def test_no_route_gives_a_series_to_a_bundle_that_waits_for_a_box(tmp_path, models):
    affine = centred_grid((4, 16, 16), (2.0, 1.0, 1.0))
    write_ct_series(tmp_path / "in", render([], (4, 16, 16), affine), affine, body_part="KNEE")

    job = analyse(tmp_path / "in", tmp_path / "out", RECORDED, models=models)

    assert "medsam_lite" not in {match.bundle for match in job.matches}
    with pytest.raises(NeedsBox, match="radloop segment"):
        analyse(tmp_path / "in", tmp_path / "out", RECORDED, models=models, bundle="medsam_lite")
