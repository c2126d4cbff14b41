"""What was confirmed on a tilted series is learnt as the network will be shown it."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pydicom

from app.graph import analyse
from operators.models.card import Card
from operators.models.warm import WarmModels
from operators.volume.tilt import upright
from tests.operators.test_volume_tilt import SHAPE_ZYX, SPACING_ZYX_MM, places, tilted
from tests.series import Ball, render, write_ct_series
from training.archive import Archive
from training.collect import ConfirmedResult, collect
from training.dataset import load_case
from training.state import StateDir

SOFT = Ball((5.0, -5.0, 6.0), 8.0, 120)


class Folders:
    """An archive of one study: its source and what was written of it."""

    def __init__(self, source: Path, seg: Path) -> None:
        self._source, self._seg = source, seg

    def fetch_series(self, study_uid: str, series_uid: str, folder: Path) -> None:
        shutil.copytree(self._source, folder, dirs_exist_ok=True)

    def fetch_instance(self, sop_instance_uid: str) -> bytes:
        return self._seg.read_bytes()


def test_a_confirmed_tilted_study_is_collected_on_the_straight_grid(
    tmp_path: Path, state: StateDir, card: Card
) -> None:
    affine = tilted(-20.0)
    hu = render([SOFT], SHAPE_ZYX, affine)
    write_ct_series(tmp_path / "in", hu, affine, body_part="PHANTOM")
    models = WarmModels({card.name: card})
    job = analyse(tmp_path / "in", tmp_path / "out", "20260101120000", models=models)
    files = {item.kind: item.path for item in job.evidence}
    header = pydicom.dcmread(next((tmp_path / "in").iterdir()), stop_before_pixels=True)
    confirmed = ConfirmedResult(
        study_instance_uid=str(header.StudyInstanceUID),
        series_instance_uid=str(header.SeriesInstanceUID),
        part="",
        bundle=card.name,
        weights_sha256=card.weights_sha256,
        sr_sop_instance_uid=str(pydicom.dcmread(files["SR"]).SOPInstanceUID),
        sr_sha256=hashlib.sha256(files["SR"].read_bytes()).hexdigest(),
        seg_sop_instance_uid=str(pydicom.dcmread(files["SEG"]).SOPInstanceUID),
        seg_sha256=hashlib.sha256(files["SEG"].read_bytes()).hexdigest(),
        confirmed_at="2026-01-02T00:00:00Z",
    )
    archive = cast(Archive, Folders(tmp_path / "in", files["SEG"]))

    done = collect([confirmed], archive=archive, card=card, state=state, holdout_fraction=0.2)

    assert done.left_out == ()
    (case,) = done.manifest.cases
    volume, labels = load_case(done.manifest, case)
    assert upright(volume) is None and labels.shape == volume.array.shape
    there = places(labels.shape, volume.lps_from_index)
    # The network's border lies between pixels, half a pixel off at most; so do moved labels.
    pixel = np.hypot(*SPACING_ZYX_MM[1:])
    inside = replace(SOFT, radius_mm=SOFT.radius_mm - pixel).contains(there)
    outside = ~replace(SOFT, radius_mm=SOFT.radius_mm + pixel).contains(there)
    assert (labels[inside] == 1).all() and not labels[outside].any()
    assert (volume.array[inside] == SOFT.hu).all() and (volume.array[outside] < 0).all()
    np.testing.assert_allclose(there[labels == 1].mean(axis=0), SOFT.centre_lps_mm, atol=0.2)
