"""The phantom builder itself: other programs agree that its series are valid CT."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from tests.series import Ball, axis_directions, centred_grid, oblique, render, write_ct_series

SHAPE = (9, 20, 24)
DCIODVFY = shutil.which("dciodvfy")


@pytest.mark.skipif(DCIODVFY is None, reason="dciodvfy (Debian package dicom3tools) is missing")
def test_dciodvfy_finds_nothing_to_say(tmp_path):
    affine = centred_grid(SHAPE, (2.5, 0.8, 1.1), oblique(17, 8), (1.0, 2.0, 3.0))
    ball = Ball((1.0, 2.0, 3.0), 6.0, 40)
    path = write_ct_series(tmp_path, render([ball], SHAPE, affine), affine, shuffle_seed=1)[3]

    said = subprocess.run([DCIODVFY, path], capture_output=True, text=True, check=False).stderr

    assert said.strip().splitlines() == ["CTImage"]


def test_equal_arguments_write_equal_bytes(tmp_path):
    affine = centred_grid(SHAPE, (2.5, 0.8, 1.1))
    array = render([Ball((0.0, 0.0, 0.0), 6.0, 40)], SHAPE, affine)
    first = write_ct_series(tmp_path / "a", array, affine)
    second = write_ct_series(tmp_path / "b", array, affine)

    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_rendered_ball_has_its_analytic_volume_and_centre():
    ball = Ball((12.0, -30.0, 55.0), 20.0, 40)
    affine = centred_grid((60, 70, 80), (1.0, 0.8, 1.1), oblique(17, 8), ball.centre_lps_mm)
    inside = np.argwhere(render([ball], (60, 70, 80), affine) == 40)[:, ::-1]

    volume_ml = len(inside) * abs(np.linalg.det(affine[:3, :3])) / 1000
    centroid = affine @ [*inside.mean(axis=0), 1]

    assert volume_ml == pytest.approx(ball.volume_ml, rel=0.01)
    assert centroid[:3] == pytest.approx(ball.centre_lps_mm, abs=0.1)


def test_axis_directions_are_48_different_ones():
    assert len({d.tobytes() for d in (np.round(d) + 0.0 for d in axis_directions())}) == 48
