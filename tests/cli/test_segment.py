"""`radloop segment` as its user meets it: result, second run, every way to ask wrongly."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import ComputedRadiographyImageStorage

from tests.series import Ball, centred_grid, render, write_ct_series

SHAPE_ZYX = (7, 56, 64)
BALL = Ball((0, 0, 0), 12.0, 60)
BOX = "16,12,48,44"  # the ball's own: 19.5 to 44.5 and 15.5 to 40.5


def radloop(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli.main", "segment", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "160"},
        check=False,
    )


@pytest.fixture
def phantom(tmp_path: Path, medsam_weights: Path) -> Path:  # noqa: ARG001  (skips without them)
    """A ball in fat, seven slices of 5 mm numbered 1 to 7; the ball's middle is on 4."""
    affine = centred_grid(SHAPE_ZYX, (5.0, 1.0, 1.0))
    array = render([BALL], SHAPE_ZYX, affine, -90)
    array += np.random.default_rng(1).normal(0, 12, array.shape).astype(np.int16)
    write_ct_series(tmp_path / "in", array, affine)
    return tmp_path / "in"


def test_a_box_becomes_seg_sr_and_a_table_and_again_the_same(phantom: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = radloop(phantom, "--box", BOX, "--slice", "4", "--label", "Round thing", "-o", out)

    assert done.returncode == 0, done.stderr
    assert "Round thing" in done.stdout and "medsam_lite" in done.stdout
    result = json.loads((out / "result.json").read_text())["results"][0]
    assert result["prompt"]["prompt_box"] == BOX
    assert result["findings"][0]["volume_ml"] == pytest.approx(BALL.volume_ml, rel=0.2)

    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = radloop(
        phantom, "--box", BOX, "--slice", "4", "--label", "Round thing", "-o", out, "--json"
    )

    assert again.returncode == 0
    assert json.loads(again.stdout)["results"][0] == result
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (["--box", "1,2,3", "--slice", "4"], "RL-1010", "x0,y0,x1,y1"),
        (["--box", "20,20,20,30", "--slice", "4"], "RL-1011", "0 x 10"),
        (["--box", "20,20,65,30", "--slice", "4"], "RL-1012", "64 pixels wide and 56 high"),
        (["--box", BOX, "--slice", "8"], "RL-1013", "numbered 1 to 7"),
        (["--box", BOX, "--slice", "4", "--label", " "], "RL-1015", "1 to 64"),
        (["--box", BOX, "--slice", "4", "--series", "1.2.3"], "RL-1020", "there are: 2.25."),
        (["--point", "20", "--slice", "4"], "RL-1710", "82,70,-"),
        (["--box", BOX, "--box", BOX, "--slice", "4"], "RL-1711", "2 boxes, 0 points and 1 slices"),
        ([], "RL-1712", "--from FILE"),
        (["--box", BOX, "--slice", "4"] * 2, "RL-1713", "bears two boxes"),
        (["--point", "20,57", "--slice", "4"], "RL-1714", "64 pixels wide and 56 high"),
        (["--point", "20,20,-", "--slice", "4"], "RL-1715", "none where it is"),
        (["--box", BOX, "--slice", "4", "--from", "x"], "RL-1716", "--from takes its marks"),
        (["--from", "none.dcm"], "RL-1720", "none.dcm does not exist"),
        (["--from", "/"], "RL-1720", "/ is no file"),
    ],
)
def test_a_wrong_question_is_one_sentence_and_writes_nothing(
    phantom: Path, tmp_path: Path, asked: list[str], code: str, said: str
) -> None:
    done = radloop(phantom, *asked, "-o", tmp_path / "out")

    assert done.returncode == 1
    assert done.stderr.strip().startswith(f"{code}: ") and said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("out/*"))


def test_two_boxes_and_points_become_the_ball_too(phantom: Path, tmp_path: Path) -> None:
    """Each its own result, of the same ball."""
    pair = ["--box", "17,13,47,43", "--slice", "3", "--box", "17,13,47,43", "--slice", "5"]
    points = ["--point", "32,28", "--point", "4,4,-", "--slice", "4"]

    for asked, named in ((pair, "prompt_box"), (points, "prompt_point")):
        done = radloop(phantom, *asked, "-o", tmp_path / named, "--json")
        assert done.returncode == 0, done.stderr
        (result,) = json.loads(done.stdout)["results"]
        assert named in result["prompt"]
        assert result["findings"][0]["volume_ml"] == pytest.approx(BALL.volume_ml, rel=0.25)


@pytest.mark.parametrize("asked", [("--box", BOX), ("--propose",)])
def test_one_file_is_asked_as_a_folder_with_nothing_else(
    phantom: Path, tmp_path: Path, asked: tuple[str, ...]
) -> None:
    slices = [dcmread(file) for file in phantom.iterdir()]
    image = next(image for image in slices if image.InstanceNumber == 4)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    image.Modality = "CR"
    (tmp_path / "alone").mkdir()
    image.save_as(tmp_path / "alone" / "a.dcm")
    shutil.copy(tmp_path / "alone" / "a.dcm", phantom / "xray.dcm")

    folder = radloop(tmp_path / "alone", *asked, "-o", tmp_path / "out")
    file = radloop(phantom / "xray.dcm", *asked, "-o", phantom / "results")

    assert (folder.returncode, file.returncode) == (0, 0), folder.stderr + file.stderr
    written = [
        json.loads((out / "result.json").read_text())["results"][0]
        for out in (tmp_path / "out", phantom / "results")
    ]
    assert written[0]["findings"] == written[1]["findings"] != []


def test_a_slice_of_a_stack_alone_is_no_stack(phantom: Path, tmp_path: Path) -> None:
    """Nothing beside the file is read, so nothing says how far the next slice is."""
    done = radloop(next(phantom.glob("*.dcm")), "--box", BOX, "--slice", "4", "-o", tmp_path / "o")

    assert done.returncode == 1 and done.stderr.strip().startswith("RL-")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("made", [False, True])
def test_a_missing_or_empty_folder_is_a_wrong_usage(tmp_path: Path, made: bool) -> None:
    if made:
        (tmp_path / "nothing").mkdir()

    done = radloop(tmp_path / "nothing", "--box", BOX, "--slice", "4")

    assert done.returncode == 2
    assert done.stderr.strip().startswith(f"RL-0641: {tmp_path / 'nothing'} ")
