"""`radloop run` as its user meets it: exit codes, tables, JSON, second run, wrong folders."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from highdicom.seg import segread
from pydicom import dcmread
from pydicom.pixels import apply_rescale

from tests.app.conftest import until
from tests.series import Ball, centred_grid, render, write_ct_series

TEST_BUNDLES = Path(__file__).parent.parent / "bundles"
SHAPE_ZYX = (20, 48, 40)


def radloop(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The installed command's entry point, with the test bundle beside the shipped ones."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "RADLOOP_BUNDLES": str(TEST_BUNDLES), "COLUMNS": "160"},
        check=False,
    )


@pytest.fixture
def phantom(tmp_path) -> Path:
    """A small CT with one soft ball; too few slices for the head-and-neck bundle."""
    affine = centred_grid(SHAPE_ZYX, (2.5, 1.0, 1.0))
    array = render([Ball((0, 0, 0), 12.0, 120)], SHAPE_ZYX, affine)
    write_ct_series(tmp_path / "in", array, affine, body_part="PHANTOM")
    return tmp_path / "in"


def test_a_study_becomes_seg_sr_and_a_table(phantom, tmp_path):
    out = tmp_path / "out"
    done = radloop("run", phantom, "-o", out)

    assert done.returncode == 0, done.stderr
    assert "Soft ball" in done.stdout and "7.2" in done.stdout  # 4/3 pi 12^3 = 7.24 mL
    assert "NOT_ASSESSED" in done.stdout
    result = json.loads((out / "result.json").read_text())
    kinds = [item["kind"] for item in result["results"][0]["evidence"]]
    assert kinds == ["SEG", "SR"]
    assert all(Path(item["path"]).is_file() for item in result["results"][0]["evidence"])

    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = radloop("run", phantom, "-o", out, "--json")

    assert again.returncode == 0
    assert json.loads(again.stdout) == result
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_pictures_and_pdf_are_written_where_asked_for_and_never_analysed(phantom, tmp_path):
    out = tmp_path / "out"
    done = radloop("run", phantom, "-o", out, "--key-images", "--pdf", "--json")

    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)["results"]
    assert [item["kind"] for item in entry["evidence"]] == ["SEG", "SR", "KEY_IMAGE", "PDF"]

    for item in entry["evidence"]:
        shutil.copy(item["path"], phantom)
    again = radloop("run", phantom, "-o", tmp_path / "again", "--json")

    result = json.loads(again.stdout)
    assert again.returncode == 0, again.stderr
    assert [one["series_instance_uid"] for one in result["results"]] == [
        entry["series_instance_uid"]
    ]
    ours = {item["series_instance_uid"] for item in entry["evidence"]}
    assert ours <= {left["what"] for left in result["unmatched"]}


@pytest.mark.data
def test_a_tilted_series_is_analysed_on_the_slices_as_they_were_taken(data_dir, tmp_path):
    case = data_dir / "odd-series" / "cases" / "01-gantry-tilt"
    out = tmp_path / "out"
    done = radloop("run", case, "-o", out, "--bundle", "hu_threshold", "--json")

    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert "gantry-tilt" in [flag["name"] for flag in result["quality"]]
    (seg,) = (item["path"] for item in result["evidence"] if item["kind"] == "SEG")
    sources = {
        str(header.SOPInstanceUID): header
        for header in (dcmread(path) for path in case.iterdir() if path.is_file())
    }
    written = segread(seg)
    uids = sorted(sources, key=lambda uid: float(sources[uid].ImagePositionPatient[2]))
    hu = np.stack([apply_rescale(sources[uid].pixel_array, sources[uid]) for uid in uids])
    # The gantry turns about x: what the network saw of a pixel lies between it and the
    # neighbour above or below; what is beside the picture is air.
    near = np.pad(hu, ((0, 0), (1, 1), (0, 0)), constant_values=-1024)
    near = np.stack([near[:, :-2], near[:, 1:-1], near[:, 2:]])
    least, most = near.min(axis=0), near.max(axis=0)
    cuts = {"soft": (50, 200), "bone": (200, np.inf)}
    assert {segment.TrackingID for segment in written.SegmentSequence} == set(cuts)
    for number, segment in enumerate(written.SegmentSequence, start=1):
        low, high = cuts[segment.TrackingID]
        mask = written.get_pixels_by_source_instance(
            uids,
            segment_numbers=[number],
            combine_segments=True,
            assert_missing_frames_are_empty=True,
        ).astype(bool)
        assert mask[(least > low) & (most < high)].all()
        assert not mask[(most < low) | (least > high)].any()


def test_a_study_that_no_bundle_wants_says_why(tmp_path):
    affine = centred_grid(SHAPE_ZYX, (2.5, 1.0, 1.0))
    array = render([], SHAPE_ZYX, affine)
    write_ct_series(tmp_path / "in", array, affine, body_part="ABDOMEN")

    done = radloop("run", tmp_path / "in", "-o", tmp_path / "out")

    assert done.returncode == 3
    assert "ABDOMEN" in done.stdout
    assert not list((tmp_path / "out").glob("*.dcm"))


def test_a_refusal_has_its_own_exit_code_and_no_traceback(phantom, tmp_path):
    (phantom / "broken.dcm").write_bytes(b"")

    done = radloop("run", phantom, "-o", tmp_path / "out")

    assert done.returncode == 4
    assert "broken.dcm" in done.stdout and "RL-01" in done.stdout
    assert "Soft ball" in done.stdout  # the rest goes on
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("make", [False, True])
def test_a_missing_or_empty_folder_is_named(tmp_path, make):
    folder = tmp_path / "nothing"
    if make:
        folder.mkdir()

    done = radloop("run", folder, "-o", tmp_path / "out")

    assert done.returncode == 2
    assert done.stderr.strip().startswith(f"RL-0641: {folder} ")
    assert "Traceback" not in done.stderr


def test_an_unknown_bundle_is_answered_with_those_there_are(phantom, tmp_path):
    done = radloop("run", phantom, "-o", tmp_path / "out", "--bundle", "no_such")

    assert done.returncode == 1
    assert "no_such" in done.stderr and "hu_threshold" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_map_entry_point_does_the_same(phantom, tmp_path):
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "app"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "HOLOSCAN_INPUT_PATH": str(phantom),
            "HOLOSCAN_OUTPUT_PATH": str(out),
            "HOLOSCAN_MODEL_PATH": str(TEST_BUNDLES),
        },
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["bundle"] == "hu_threshold"
    assert len(list(out.glob("*.dcm"))) == 2


def start(*command: str | Path) -> subprocess.Popen[str]:
    """A command in the foreground: a shell that has put us into the background ignores SIGINT."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RADLOOP_BUNDLES": str(TEST_BUNDLES)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_ctrl_c_ends_with_130_and_leaves_no_empty_folder(phantom, tmp_path):
    out = tmp_path / "deep" / "out"
    running = start("-m", "app.cli.main", "run", phantom, "-o", out)
    until(out.exists)

    running.send_signal(signal.SIGINT)
    said, complained = running.communicate(timeout=20)

    assert (running.returncode, said, complained) == (130, "", "interrupted\n")
    assert not (tmp_path / "deep").exists()


def test_ctrl_c_is_heard_while_native_code_is_at_work(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.dcm").touch()
    waiting = start(
        "-c",
        "import ctypes, pathlib, sys; from app.cli.interrupt import interruptible\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "with interruptible(out):\n"
        "    (out / 'begun').touch()\n"
        "    ctypes.CDLL(None).sleep(30)",
        tmp_path / "full",
    )
    until((tmp_path / "full" / "begun").exists)

    waiting.send_signal(signal.SIGINT)

    assert waiting.wait(5) == 130
    assert (tmp_path / "full" / "kept.dcm").exists()


def test_a_run_that_is_refused_whole_leaves_no_empty_folder(phantom, tmp_path):
    (tmp_path / "mine").mkdir()
    for out in (tmp_path / "deep" / "out", tmp_path / "mine"):
        done = radloop("run", phantom, "-o", out, "--bundle", "nobody_has_it")
        assert done.returncode == 1, done.stdout
        assert "nobody_has_it" in done.stderr

    assert not (tmp_path / "deep").exists()
    assert (tmp_path / "mine").is_dir()  # it was there before


def test_an_earlier_result_is_compared_with(phantom, tmp_path):
    affine = centred_grid(SHAPE_ZYX, (2.5, 1.0, 1.0))
    array = render([Ball((0, 0, 0), 14.0, 120)], SHAPE_ZYX, affine)

    def later(dataset, _k):
        dataset.StudyDate = "20240112"

    write_ct_series(
        tmp_path / "later", array, affine, body_part="PHANTOM", study="later", edit=later
    )
    assert radloop("run", phantom, "-o", tmp_path / "earlier").returncode == 0

    done = radloop(
        "run", tmp_path / "later", "-o", tmp_path / "out", "--prior", tmp_path / "earlier"
    )

    assert done.returncode == 0, done.stderr
    assert "since 20240102, 10 days earlier: Soft ball: 7.2" in done.stdout
    assert "more than the uncertainty" in done.stdout
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    (pair,) = result["results"][0]["comparison"]["pairs"]
    assert pair["changes"][0]["change_percent"] == pytest.approx(100 * ((14 / 12) ** 3 - 1), abs=4)

    wrong = radloop(
        "run", tmp_path / "later", "-o", tmp_path / "x", "--prior", tmp_path / "nowhere"
    )
    assert wrong.returncode == 2
    assert "is no folder of earlier results" in wrong.stderr
    assert not (tmp_path / "x").exists()
