"""Slab by slab is the same as MONAI's own inverse, and lands where geometry says."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from operators.errors import ModelRefusal
from operators.job import Volume
from operators.models.bundle import RAS_FROM_LPS, LoadedBundle, OutputUnfit, UnitMismatch
from operators.models.bundle_code import own_modules
from operators.models.card import load_card
from tests.series import centred_grid, oblique

SHIPPED = Path(__file__).parent.parent.parent / "bundles" / "head_neck_oar_ct"
THRESHOLD = Path(__file__).parent.parent / "bundles" / "hu_threshold"


def volume_of(array: np.ndarray, affine: np.ndarray, unit: str = "HU") -> Volume:
    """A volume without source instances."""
    return Volume(array, affine, unit, "1.2.3", (), "1.2.3.4", "any")


def test_labels_on_grid_agree_with_scipy_on_an_oblique_grid():
    from monai.data import MetaTensor

    from operators.models.resample import labels_on_grid

    rng = np.random.default_rng(3)
    scores = rng.random((3, 9, 11, 7)).astype(np.float32)
    coarse = RAS_FROM_LPS @ centred_grid((7, 11, 9), (4.0, 3.0, 3.5), oblique(12, -7))
    fine = RAS_FROM_LPS @ centred_grid((20, 30, 25), (2.3, 1.9, 2.1), oblique(30, 5))

    labels = labels_on_grid(
        MetaTensor(torch.from_numpy(scores), affine=torch.from_numpy(coarse)),
        torch.from_numpy(fine),
        (25, 30, 20),
    ).numpy()

    index = np.stack(np.meshgrid(*map(np.arange, (25, 30, 20)), indexing="ij"), axis=-1)
    where = (np.linalg.inv(coarse) @ fine)[:3] @ np.concatenate(
        [index, np.ones((*index.shape[:3], 1))], axis=-1
    )[..., None]
    where = where[..., 0].transpose(3, 0, 1, 2)
    size = np.array(scores.shape[1:])[:, None, None, None]
    inside = ((where >= -0.5) & (where <= size - 0.5)).all(axis=0)
    expected = np.stack([map_coordinates(c, where, order=1, mode="nearest") for c in scores])
    top = np.sort(expected, axis=0)
    clear = top[-1] - top[-2] > 1e-4  # ties may fall either way
    assert inside.mean() > 0.2 and (~inside).any()
    np.testing.assert_array_equal(labels[inside & clear], expected.argmax(axis=0)[inside & clear])
    assert not labels[~inside].any()


@pytest.fixture
def shipped_scripts():
    """The shipped bundle's own `scripts`, as `monai.bundle run` sees them."""
    with own_modules(SHIPPED):
        yield


@pytest.mark.usefixtures("shipped_scripts")
def test_slabs_give_what_monais_invertd_gives(tmp_path, monkeypatch):
    """The shipped config, random weights: our split against its own post-processing."""
    from monai.bundle import ConfigParser
    from monai.data import MetaTensor

    import operators.models.resample as resample

    torch.manual_seed(1)
    config = ConfigParser.load_config_file(str(SHIPPED / "configs" / "inference.yaml"))
    del config["preprocessing"]["transforms"][0], config["postprocessing"]["transforms"][-1]
    parser = ConfigParser(config)
    network = parser.get_parsed_content("network_def")
    torch.save(network.state_dict(), tmp_path / "model.pt")
    digest = hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest()
    card = replace(load_card(SHIPPED), weights_file=tmp_path / "model.pt", weights_sha256=digest)
    rng = np.random.default_rng(0)
    array = (rng.random((30, 50, 44)) * 1500 - 900).astype(np.int16)
    affine = centred_grid(array.shape, (3.0, 1.9, 2.2), oblique(9, 4))
    monkeypatch.setattr(resample, "SLAB_VOXELS", 8_000)  # several slabs even here

    ours = LoadedBundle(card).segment(volume_of(array, affine)).labels

    before = parser.get_parsed_content("preprocessing")
    network.eval()
    with torch.inference_mode():
        image = MetaTensor(
            torch.from_numpy(array.transpose(2, 1, 0).copy()).float()[None],
            affine=torch.from_numpy(RAS_FROM_LPS @ affine),
        )
        item = before({"image": image})
        scores = parser.get_parsed_content("inferer")(item["image"][None], network)[0]
        item["pred"] = MetaTensor(scores, meta=item["image"].meta)
        item["pred"].applied_operations = item["image"].applied_operations
        theirs = parser.get_parsed_content("postprocessing")(item)["pred"]

    same = ours == np.asarray(theirs)[0].transpose(2, 1, 0)
    assert len(np.unique(ours)) > 3  # the comparison is not of two empty maps
    assert same.mean() > 0.995  # they differ at the volume's border and at ties


def test_values_in_another_unit_are_refused():
    bundle = LoadedBundle(load_card(THRESHOLD))
    with pytest.raises(UnitMismatch, match=r"'arbitrary'.*needs 'HU'"):
        bundle.segment(volume_of(np.zeros((4, 4, 4), np.int16), np.eye(4), "arbitrary"))


def test_a_label_that_the_card_does_not_know_is_refused():
    card = load_card(THRESHOLD)
    bundle = LoadedBundle(replace(card, segments=card.segments[:1]))
    with pytest.raises(OutputUnfit, match=r"labels \[2.0\]"):
        bundle.segment(volume_of(np.full((8, 8, 8), 700, np.int16), np.eye(4)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "RL-0402.*missing"),
        (b"tampered", "RL-0403.*sha256"),
    ],
)
def test_wrong_weights_are_refused_before_they_are_read(tmp_path, content, reason):
    file = tmp_path / "model.pt"
    if content is not None:
        file.write_bytes(content)
    card = replace(load_card(THRESHOLD), weights_file=file, folder=tmp_path)

    with pytest.raises(ModelRefusal) as caught:
        LoadedBundle(card)
    import re

    assert re.search(reason, caught.value.reason)


def test_pickled_code_in_weights_is_never_run(tmp_path):
    """A state file that would run code on loading: weights_only refuses it."""
    import os
    import pickle

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was-run"),)

    file = tmp_path / "model.pt"
    file.write_bytes(pickle.dumps(Attack()))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    card = replace(load_card(THRESHOLD), weights_file=file, weights_sha256=digest)

    with pytest.raises(ModelRefusal, match="state dict"):
        LoadedBundle(card)
    assert not (tmp_path / "was-run").exists()
