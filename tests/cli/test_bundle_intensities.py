"""`radloop bundles intensities`, as an ML engineer meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest


def radloop(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.cli.main", "bundles", "intensities", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_prints_the_block_of_a_card(tmp_path: Path) -> None:
    values = np.linspace(-1500, 1000, 50_000).reshape(50, 50, 20)
    files = [tmp_path / "a.nii.gz", tmp_path / "b.nii"]
    for file, more in zip(files, (0, 100), strict=True):
        nibabel.save(nibabel.Nifti1Image((values + more).astype(np.float32), np.eye(4)), file)

    done = radloop("--above", "-1000", "--json", *files)

    assert done.returncode == 0, done.stderr
    block = json.loads(done.stdout)
    assert block["above"] == -1000
    assert [row["percentile"] for row in block["bands"]] == [5, 50, 95]
    # Uniform from -1000 to 1000, and from -1000 to 1100.
    middle = block["bands"][1]
    assert (middle["lowest"], middle["highest"]) == pytest.approx((0, 50), abs=1)
    printed = radloop("--above", "-1000", *files).stdout
    assert printed.startswith("# over 2 images\nintensities:\n") and "lowest:" in printed


@pytest.mark.parametrize(
    ("above", "content", "said"),
    [("0", None, "not a NIfTI image"), ("5000", np.zeros((20, 20, 20), np.int16), "--above")],
)
def test_what_it_cannot_use_it_names(
    above: str, content: np.ndarray | None, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "image.nii"
    if content is None:
        file.write_text("no image")
    else:
        nibabel.save(nibabel.Nifti1Image(content, np.eye(4)), file)

    done = radloop("--above", above, file)

    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
