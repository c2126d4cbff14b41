"""A bundle in the zoo's layout gives in our graph what plain `monai.bundle` gives.

The oracle is MONAI's own evaluator on a NIfTI that SimpleITK wrote from the same
DICOM series, with MONAI's loading, inverse and saving; it never sees our code.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from app.graph import analyse
from operators.models.card import load_card
from operators.models.warm import WarmModels
from tests.series import centred_grid, oblique, write_ct_series
from tests.zoo import smooth_noise, spleen_config, whole_body_config, write_bundle

SHAPE_ZYX = (26, 40, 36)
SPACING_ZYX_MM = (2.7, 0.9, 1.2)  # 2.6 would give 33.5 slices of 2 mm: a tie of rounding
GRIDS = {
    "axial": np.eye(3),
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "sagittal": np.array([[0, 0, 1.0], [1.0, 0, 0], [0, -1.0, 0]]),
    "oblique": oblique(24, -13),
}
RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def to_nifti(series: Path, target: Path) -> None:
    """The series as SimpleITK understands it."""
    target.parent.mkdir(parents=True)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    SimpleITK.WriteImage(reader.Execute(), str(target))


def plain_monai(bundle: Path, dataset_dir: Path, output_dir: Path) -> nibabel.Nifti1Image:
    """What `python -m monai.bundle run` writes for the one volume in `dataset_dir`."""
    from monai.bundle import run

    run(
        run_id="run",
        init_id="initialize",
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(dataset_dir),
        output_dir=str(output_dir),
    )
    (written,) = output_dir.rglob("*_trans.nii.gz")
    return nibabel.load(written)


def on_our_grid(theirs: nibabel.Nifti1Image, lps_from_index: np.ndarray) -> np.ndarray:
    """Their labels at the centres of our voxels, shape (z, y, x); both grids are one."""
    k, j, i = np.mgrid[tuple(slice(n) for n in SHAPE_ZYX)]
    ours = np.stack([i, j, k, np.ones_like(i)], axis=-1)
    index = ours @ (np.linalg.inv(theirs.affine) @ RAS_FROM_LPS @ lps_from_index).T
    nearest = np.rint(index[..., :3]).astype(int)
    assert np.abs(index[..., :3] - nearest).max() < 0.01
    return np.asarray(theirs.dataobj)[tuple(np.moveaxis(nearest, -1, 0))]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("config", "wrapped"),
    [(spleen_config(), False), (whole_body_config(), True)],
    ids=["spleen", "wholeBody"],
)
def test_labels_are_those_of_plain_monai_bundle(tmp_path, grid, config, wrapped):
    bundle = write_bundle(tmp_path / "random", config, wrapped=wrapped, pinned=True)
    affine = centred_grid(SHAPE_ZYX, SPACING_ZYX_MM, GRIDS[grid], (12.0, -31.0, 55.0))
    array = (smooth_noise(SHAPE_ZYX, seed=2) * 400 - 150).astype(np.int16)
    write_ct_series(tmp_path / "dicom", array, affine, body_part="PHANTOM", shuffle_seed=4)
    to_nifti(tmp_path / "dicom", tmp_path / "data" / "imagesTs" / "volume.nii.gz")

    job = analyse(
        tmp_path / "dicom",
        tmp_path / "out",
        "20240102030405",
        models=WarmModels({"random": load_card(bundle)}),
    )
    theirs = plain_monai(bundle, tmp_path / "data", tmp_path / "eval")

    (segmentation,) = job.segmentations
    assert not job.refused and {item.kind for item in job.evidence} == {"SEG", "SR"}
    expected = on_our_grid(theirs, segmentation.volume.lps_from_index)
    ours = segmentation.labels
    shares = np.bincount(expected.astype(int).ravel(), minlength=2) / expected.size
    assert np.sort(shares)[-2] > 0.1, f"one class wins everywhere: {shares}"
    assert (ours != expected).mean() <= 0.001  # ties may fall either way
