"""The pictures of the docs: of every key image and page, rendered from the files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from app.demo.contact_sheet import MAX_BYTES, write_pictures
from operators.evidence.write import write_evidence
from tests.operators.scene import RECORDED_AT, two_glands


def test_key_images_and_page_become_small_pictures_in_the_structures_colours(
    tmp_path: Path,
) -> None:
    report = two_glands(tmp_path / "in")
    written = write_evidence(report, tmp_path / "out", RECORDED_AT, ("key_images", "pdf"))

    paths = write_pictures([asdict(item) for item in written], tmp_path / "docs")

    assert [path.name for path in paths] == ["key_images_1.png", "report_1.png"]
    colours = [finding.segment.colour_rgb for finding in report.findings if finding.voxels]
    for path in paths:
        assert path.stat().st_size < MAX_BYTES
        pixels = np.asarray(Image.open(path)).astype(int)
        for colour in colours:
            assert (np.abs(pixels - colour).max(axis=2) <= 2).sum() > 20
