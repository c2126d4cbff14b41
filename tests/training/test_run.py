"""Fine-tuning by the shipped bundle's own train config, on real patients, for a few steps."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from operators.models.bundle import RAS_FROM_LPS
from operators.models.card import Card, load_card
from tests.app.conftest import until
from tests.training.making import Drawn, make_dataset
from training.child import overrides
from training.dataset import Manifest, read_manifest
from training.refusals import AtWork, DatasetChanged, NoTrainingCases, NotTrainable
from training.registry import Registry
from training.run import _val_interval, fine_tune, train_config
from training.state import StateDir, locked

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "bundles" / "head_neck_oar_ct"


@pytest.fixture(scope="module")
def head_neck() -> Card:
    return load_card(SHIPPED)


def openkbp(data_dir: Path, name: str, split: str) -> tuple[Drawn, np.ndarray]:
    """A patient of openkbp-hn-ct as a confirmed case."""
    image, label = (
        nibabel.load(data_dir / "openkbp-hn-ct" / kind / f"{name}.nii.gz")
        for kind in ("ct", "label")
    )
    values, labels = (
        np.asarray(volume.dataobj).transpose(2, 1, 0).round().astype(np.int16)
        for volume in (image, label)
    )
    return Drawn(name, split, values, labels), RAS_FROM_LPS @ image.affine


def real_dataset(data_dir: Path, state: StateDir, card: Card, splits: list[str]) -> Manifest:
    patients = [
        openkbp(data_dir, f"openkbp_{number:03d}", split)
        for number, split in zip((1, 4, 2), splits, strict=False)
    ]
    return make_dataset(state, card, [one for one, _ in patients], affine=patients[0][1])


@pytest.mark.data
def test_the_shipped_train_config_learns_from_two_patients(
    data_dir: Path, state: StateDir, registry: Registry, head_neck: Card, monkeypatch
) -> None:
    """Two train, one validates: smaller than its batch would not make a step."""
    monkeypatch.delenv("RADLOOP_DATA")  # a site has no such folder
    manifest = real_dataset(data_dir, state, head_neck, ["train", "train", "validation"])
    told: list[dict] = []

    trained = fine_tune(head_neck, manifest, registry, epochs=2, progress=told.append)

    assert [entry["epoch"] for entry in told if "train_loss" in entry] == [1, 2]
    assert 0 < trained.result["metric"] < 1
    assert trained.result["metric"] == max(e["metric"] for e in told if "metric" in e)
    assert trained.result["learning_rate"] == pytest.approx(0.0002)
    version = trained.version
    assert version.number == 2 and version.parent == head_neck.weights_sha256
    assert version.dataset == manifest.sha256
    weights = registry.weights(version)
    weights.verify(head_neck.name)
    assert stat.S_IMODE(weights.file.stat().st_mode) == 0o444
    assert moved(head_neck.weights_file, weights.file) > 0
    run = registry._client.get_run(version.run).data
    assert run.params["epochs"] == "2" and run.params["train_cases"] == "2"
    assert run.metrics["validation"] == pytest.approx(trained.result["metric"])

    again = fine_tune(head_neck, manifest, registry, epochs=2)
    assert not again.is_new and again.version.number == 2


def moved(before: Path, after: Path) -> float:
    """Largest change of any weight; the names must be the same."""
    import torch

    old, new = (torch.load(file, weights_only=True) for file in (before, after))
    assert old.keys() == new.keys()
    return max(float((old[name].double() - new[name].double()).abs().max()) for name in old)


@pytest.mark.data
def test_a_killed_run_goes_on_and_a_single_case_is_a_batch(
    data_dir: Path, state: StateDir, registry: Registry, head_neck: Card
) -> None:
    """One training case, none to validate; the parent is killed, and its child ends with it."""
    manifest = real_dataset(data_dir, state, head_neck, ["train"])
    program = (
        "import sys; from pathlib import Path\n"
        "from operators.models.card import load_card\n"
        "from training.dataset import read_manifest\n"
        "from training.registry import Registry; from training.run import fine_tune\n"
        "from training.state import StateDir, locked\n"
        "state = StateDir(Path(sys.argv[1]))\n"
        "fine_tune(load_card(Path(sys.argv[2])), read_manifest(state, sys.argv[3]),\n"
        "          Registry(state), epochs=3, progress=lambda entry: print(entry, flush=True))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, state.root, SHIPPED, manifest.sha256],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as parent:
        assert parent.stdout is not None
        assert "'epoch': 1" in parent.stdout.readline()
        assert "'epoch': 2" in parent.stdout.readline()
        parent.send_signal(signal.SIGKILL)
    (folder,) = state.runs.iterdir()
    # As if the kill had come while the next one was being written.
    cut_off = folder / "checkpoints" / "checkpoint_epoch=9.pt"
    cut_off.write_bytes(next((folder / "checkpoints").glob("*=1.pt")).read_bytes()[:100_000])

    until(lambda: not is_at_work(folder / "lock"), seconds=30)
    told: list[dict] = []
    trained = fine_tune(head_neck, manifest, registry, epochs=3, progress=told.append)

    assert told[0]["epoch"] > 1, "it began again from the start"
    assert told[-1]["epoch"] == 3
    assert trained.result["metric"] is None
    assert trained.result["batch_size"] == 1
    assert moved(head_neck.weights_file, registry.weights(trained.version).file) > 0
    assert not (folder / "checkpoints").exists()


def is_at_work(lock: Path) -> bool:
    """Whether parent or child of a run still lives."""
    try:
        with locked(lock, "run", wait=False):
            return False
    except AtWork:
        return True


def blank(split: str, patient: str = "p") -> Drawn:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1] = 1
    return Drawn(patient, split, np.zeros((4, 4, 4), np.int16), labels)


def test_only_held_out_cases_are_refused(state, registry, head_neck) -> None:
    manifest = make_dataset(state, head_neck, [blank("holdout")])

    with pytest.raises(NoTrainingCases, match="has 1 cases and none to train on"):
        fine_tune(head_neck, manifest, registry)


def test_a_bundle_without_train_config_is_refused(state, registry, card) -> None:
    manifest = make_dataset(state, card, [blank("train")])

    with pytest.raises(NotTrainable, match=r"no configs/train\.yaml"):
        fine_tune(card, manifest, registry)


def test_a_prompted_bundle_is_no_pupil_of_confirmed_studies(state, registry, head_neck) -> None:
    """It has a train config of its own, which is not asked here."""
    tuned = load_card(ROOT / "bundles" / "medsam_lite_ct_mr")
    assert (tuned.folder / "configs" / "train.yaml").is_file() and train_config(tuned) is None
    manifest = make_dataset(state, head_neck, [blank("train")])

    with pytest.raises(NotTrainable, match="waits for a person's mark"):
        fine_tune(tuned, manifest, registry)


def test_a_changed_label_is_not_learned(state, registry, head_neck) -> None:
    manifest = make_dataset(state, head_neck, [blank("train")])
    label = manifest.folder / manifest.cases[0].label
    label.write_bytes(label.read_bytes() + b"\0")

    with pytest.raises(DatasetChanged, match=label.name):
        fine_tune(head_neck, manifest, registry)
    with pytest.raises(DatasetChanged):
        manifest_file = manifest.folder / "manifest.json"
        manifest_file.write_text(manifest_file.read_text().replace('"holdout"', '"train"') + " ")
        read_manifest(state, manifest.sha256)


def plan(**changes: object) -> dict:
    return {
        "bundle_root": "/b",
        "init_weights": "/w.pt",
        "epochs": 3,
        "val_interval": 1,
        "learning_rate": None,
        "train": [{}] * 5,
        "validation": [{}],
        **changes,
    }


@pytest.mark.parametrize(("cases", "batch"), [(1, 1), (2, 2), (3, 2), (9, 2)])
def test_the_trainer_always_makes_a_step(cases: int, batch: int, tmp_path: Path) -> None:
    changes = overrides(
        plan(train=[{}] * cases), {"batch_size": 2, "learning_rate": 0.002}, tmp_path
    )

    assert changes["batch_size"] == batch
    assert cases // changes["batch_size"] >= 1


def test_the_moving_average_is_never_longer_than_the_run(tmp_path: Path) -> None:
    config = {"batch_size": 1, "learning_rate": 0.01, "ema_momentum": 0.01}

    short = overrides(plan(train=[{}] * 4, epochs=2), config, tmp_path)
    long = overrides(plan(train=[{}] * 500, epochs=3), config, tmp_path)

    assert short["ema_momentum"] == pytest.approx(0.5)
    assert long["ema_momentum"] == 0.01


def test_without_validation_cases_no_epoch_validates(tmp_path: Path) -> None:
    config = {"batch_size": 1, "learning_rate": 0.01}

    assert overrides(plan(validation=[]), config, tmp_path)["val_interval"] == 4


@pytest.mark.parametrize("epochs", range(1, 40))
def test_the_last_epoch_is_validated(epochs: int) -> None:
    assert epochs % _val_interval(epochs) == 0


def test_the_manifest_tells_the_bundle_what_is_labelled(state, head_neck) -> None:
    """One flag per class, background first: unlabelled is not absent."""
    manifest = make_dataset(state, head_neck, [blank("train")])
    from training.dataset import datalist

    (item,) = datalist(manifest, "train")

    assert item["labelled"] == [1.0, 1.0, 0, 0, 0, 0, 0, 0]
    assert json.loads((manifest.folder / "manifest.json").read_text())["label_names"] == {
        "brainstem": 1,
        "spinal_cord": 2,
        "parotid_right": 3,
        "parotid_left": 4,
        "mandible": 5,
        "larynx": 6,
        "esophagus": 7,
    }
