"""Volumes unlike the training images are remarked: against numpy, and on real patients."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from app.demo.patient import ATLAS_DIR, load_atlas
from operators.models.beyond import remark_beyond
from operators.models.card import load_card
from operators.study.intensities import AT_MOST, Band, Intensities, percentiles
from operators.study.read import read_drop
from operators.study.select import Accepts
from operators.volume.build import build_volumes
from tests.series import centred_grid, write_ct_series

BUNDLE = Path(__file__).parents[2] / "bundles" / "head_neck_oar_ct"
SHAPE = (20, 30, 40)


def tissue(seed: int, middle: float = 40.0) -> np.ndarray:
    """Air with a block of noisy tissue."""
    array = np.full(SHAPE, -1000.0)
    block = array[2:18, 5:25, 5:35]
    block[:] = np.random.default_rng(seed).normal(middle, 30.0, block.shape)
    return np.rint(array).astype(np.int16)


def test_percentiles_are_numpys_of_what_counts() -> None:
    array = tissue(1)
    padding = np.zeros(SHAPE, bool)
    padding[:, :10] = True

    found = percentiles(array, -500)
    without = percentiles(array, -500, padding)

    inner = array[2:18, 5:25, 5:35]
    assert found == pytest.approx(np.percentile(inner, [5, 50, 95]))
    assert without == pytest.approx(np.percentile(inner[:, 5:], [5, 50, 95]))


def test_a_sample_of_a_large_volume_has_the_same_percentiles() -> None:
    rng = np.random.default_rng(3)
    array = rng.normal(0, 100, (9, 1000, 1000)).astype(np.float32)
    assert array.size > 4 * AT_MOST

    assert percentiles(array, -1e9) == pytest.approx([-164.5, 0, 164.5], abs=1.0)


def test_half_the_span_of_the_training_images_is_let_pass_and_no_more() -> None:
    known = Intensities.over((tissue(n, middle) for n, middle in enumerate((0, 40))), -500)
    assert known.bands[1].highest - known.bands[1].lowest == pytest.approx(40, abs=3)

    assert not list(known.unlike(tissue(7, 55)))
    clauses = list(known.unlike(tissue(7, 65)))
    assert len(clauses) == 3 and "the 50th percentile is 6" in clauses[1]


def test_an_empty_volume_is_unlike_everything() -> None:
    known = Intensities(-500, (Band(50, 0, 40),))
    assert list(known.unlike(np.full(SHAPE, -1000, np.int16))) == ["next to nothing is above -500"]
    with pytest.raises(ValueError, match="1000 voxels above -500"):
        Intensities.over([np.full(SHAPE, -1000, np.int16)], -500)


def test_a_reader_is_told_and_only_where_the_card_has_measured(tmp_path: Path) -> None:
    write_ct_series(tmp_path, tissue(5) + 1024, centred_grid(SHAPE, (3.0, 2.0, 2.0)))
    (volume,) = build_volumes(read_drop(tmp_path).studies[0].series[0])
    block = {"above": -500, "bands": [{"percentile": 95, "lowest": 0, "highest": 60}]}

    silent = remark_beyond(volume, Accepts.from_mapping({"modality": "CT"}))
    told = remark_beyond(volume, Accepts.from_mapping({"modality": "CT", "intensities": block}))

    assert silent.quality == ()
    (flag,) = told.quality
    assert flag.name == "unusual-intensities"
    assert "of what is above -500" in flag.text and "0 to 60" in flag.text


@pytest.mark.parametrize("split", ["validation", "test"])
def test_no_held_out_patient_is_flagged_and_unrescaled_values_are(
    split: str, data_dir: Path
) -> None:
    root = data_dir / "openkbp-hn-ct"
    known = load_card(BUNDLE).accepts.intensities
    assert known is not None
    cases = json.loads((root / "splits.json").read_text())[split]
    arrays = {n: np.asarray(nibabel.load(root / "ct" / f"{n}.nii.gz").dataobj) for n in cases}

    assert not [n for n, array in arrays.items() if list(known.unlike(array))]
    assert all(list(known.unlike(array + 1024)) for array in arrays.values())


def test_the_demo_patient_looks_like_the_training_patients() -> None:
    """On a finer grid, where skin, couch and air meet in many more voxels."""
    known = load_card(BUNDLE).accepts.intensities
    assert known is not None
    atlas = load_atlas(ATLAS_DIR)

    finer = ndimage.zoom(atlas.hu.astype(np.float32), (1, 3, 3), order=1)

    assert not list(known.unlike(finer))
