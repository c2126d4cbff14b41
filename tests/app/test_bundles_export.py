"""`export_bundle` and what serves afterwards, on small bundles in the zoo's layout."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from app.bundles import export as export_module
from app.bundles.export import export_bundle
from operators.job import Volume
from operators.models.bundle import LoadedBundle
from operators.models.card import CardInvalid, load_card
from operators.models.run_block import ALL_RUNTIMES, read_run
from operators.models.runtimes import export as writing
from operators.models.runtimes import serve as serving
from operators.models.runtimes.refusals import CheckFailed, CheckNeeded, NoRuntime
from operators.models.warm import WarmModels
from tests.series import centred_grid, write_ct_series
from tests.zoo import smooth_noise, spleen_config, whole_body_config, write_bundle

SHAPE = (20, 30, 28)
GRID = centred_grid(SHAPE, (2.7, 1.5, 1.4))
HU = (smooth_noise(SHAPE, seed=2) * 400 - 150).astype(np.int16)


@pytest.fixture
def exporters_win(monkeypatch):
    """Times are given: torch is slowest."""

    def measure(candidates, _record):
        return {name: 9.0 if name.startswith("torch") else 1.0 for name in candidates}

    monkeypatch.setattr(serving, "measure", measure)


def two_channels() -> dict:
    """The spleen's config with the same image twice, as a wide and a narrow window."""
    config = spleen_config()
    config["network_def"]["in_channels"] = 2
    config["preprocessing"]["transforms"] += [
        {"_target_": "CopyItemsd", "keys": "image", "names": "again"},
        {"_target_": "ConcatItemsd", "keys": ["image", "again"], "name": "image"},
    ]
    return config


def ct() -> Volume:
    """The volume that the networks are asked about."""
    return Volume(HU, GRID, "HU", "1.2", (), "1.2.3", "random")


@pytest.mark.usefixtures("exporters_win")
@pytest.mark.parametrize("format_", ["onnx", "openvino"])
@pytest.mark.parametrize(
    "config", [spleen_config(), whole_body_config()], ids=["spleen", "whole body"]
)
def test_a_bundle_gives_the_labels_that_it_gave_in_torch(tmp_path, format_, config):
    card = load_card(write_bundle(tmp_path / "random", config, pinned=True))
    before = LoadedBundle(card).segment(ct())

    done = export_bundle(card, None, format_, "float32", tmp_path / "exports")

    models = WarmModels({"random": card}, exports=tmp_path / "exports")
    after = models.get("random").segment(ct())
    assert len(np.unique(before.labels)) > 1
    assert (after.labels != before.labels).mean() <= 1e-4  # ties may fall either way
    assert done.runtime == after.model.runtime != before.model.runtime == "torch-cpu-float32"
    kind = "onnxruntime" if format_ == "onnx" else "openvino"
    assert after.model.runtime.startswith(f"{kind}-cpu-float32-")
    assert replace(after.model, runtime="") == replace(before.model, runtime="")


@pytest.mark.usefixtures("exporters_win")
def test_a_network_of_two_channels_is_exported_with_both(tmp_path):
    card = load_card(write_bundle(tmp_path / "random", two_channels(), pinned=True))

    done = export_bundle(card, None, "onnx", "float32", tmp_path / "exports")

    assert done.record.parts[0].shapes == ((1, 2, 16, 16, 16),)
    after = LoadedBundle(card, exports=tmp_path / "exports").segment(ct())
    assert (after.labels != LoadedBundle(card).segment(ct()).labels).mean() <= 1e-4


@pytest.mark.usefixtures("exporters_win")
def test_other_weights_and_another_config_go_back_to_torch(tmp_path):
    folder = write_bundle(tmp_path / "random", spleen_config(), pinned=True)
    export_bundle(load_card(folder), None, "onnx", "float32", tmp_path / "exports")

    other = load_card(
        write_bundle(tmp_path / "other" / "random", spleen_config(), seed=6, pinned=True)
    )
    assert LoadedBundle(other, exports=tmp_path / "exports").identity.runtime == "torch-cpu-float32"
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config["inferer"]["overlap"] = 0.25
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    assert (
        LoadedBundle(load_card(folder), exports=tmp_path / "exports").identity.runtime
        == "torch-cpu-float32"
    )


@pytest.mark.usefixtures("exporters_win")
@pytest.mark.parametrize("changed", ["scripts/parts.py", "configs/metadata.json"])
def test_an_export_serves_no_longer_where_scripts_or_metadata_have_changed(tmp_path, changed):
    folder = write_bundle(tmp_path / "random", spleen_config(), pinned=True)
    (folder / "scripts").mkdir(exist_ok=True)
    (folder / "scripts" / "parts.py").write_text("")
    exports = tmp_path / "exports"
    done = export_bundle(load_card(folder), None, "onnx", "float32", exports)
    assert "monai" in done.record.versions
    assert LoadedBundle(load_card(folder), exports=exports).identity.runtime == done.runtime

    (folder / changed).write_text((folder / changed).read_text() + "\n")

    again = LoadedBundle(load_card(folder), exports=exports)
    assert again.identity.runtime == "torch-cpu-float32" != done.runtime


def test_a_card_says_which_runtimes_it_allows(tmp_path):
    assert read_run(None).runtimes == ALL_RUNTIMES
    folder = write_bundle(tmp_path / "random", spleen_config(), pinned=True)
    with (folder / "card.yaml").open("a") as card_file:
        card_file.write("\nrun: {runtimes: [openvino]}\n")
    card = load_card(folder)
    assert card.run.runtimes == ("openvino",)
    with pytest.raises(NoRuntime, match=r"radloop bundles export random"):
        LoadedBundle(card)
    with pytest.raises(NoRuntime, match="does not allow onnxruntime"):
        export_bundle(card, None, "onnx", "float32", tmp_path / "exports")
    text = (folder / "card.yaml").read_text().replace("[openvino]", "[tensorrt]")
    (folder / "card.yaml").write_text(text)
    with pytest.raises(CardInvalid, match="runtimes"):
        load_card(folder)


@pytest.fixture
def study(tmp_path) -> Path:
    """The volume as DICOM."""
    write_ct_series(tmp_path / "in", HU, GRID, body_part="PHANTOM")
    return tmp_path / "in"


def test_fewer_bits_are_compared_on_the_study_that_is_given(tmp_path, study, monkeypatch):
    monkeypatch.setattr(writing, "cpu_has_bfloat16", lambda: True)
    card = load_card(write_bundle(tmp_path / "random", spleen_config(), pinned=True))
    with pytest.raises(CheckNeeded):
        export_bundle(card, None, "torch", "bfloat16", tmp_path / "exports")
    right = export_module._dice_of_labels
    compared = []

    def seen(*arguments):
        compared.append(right(*arguments))
        return compared[-1]

    monkeypatch.setattr(export_module, "_dice_of_labels", seen)
    try:
        done = export_bundle(card, None, "torch", "bfloat16", tmp_path / "exports", check=study)
        assert done.record.checks.real == compared[0]
    except CheckFailed:
        assert compared[0]["random_1"] < 0.98  # random weights: every voxel is a near tie
    assert set(compared[0]) == {"random_1"} and 0.5 < compared[0]["random_1"] <= 1


class Answers:
    """A bundle of three structures whose two runtimes answer with given labels."""

    def __init__(self, torchs: np.ndarray, others: np.ndarray) -> None:
        self.serving, self._answers = "torch", {"torch": torchs, "other": others}
        names = ("organ", "lesion", "third")
        segments = [SimpleNamespace(number=n, name=name) for n, name in enumerate(names, start=1)]
        self.card = SimpleNamespace(name="three", segments=segments)

    def use(self, runtime: str) -> None:
        self.serving = runtime

    def segment(self, _volume: object) -> SimpleNamespace:
        return SimpleNamespace(labels=self._answers[self.serving])


def test_what_only_the_other_runtime_finds_has_no_overlap_and_a_small_loss_is_not_passed_over():
    organ = np.zeros((20, 30, 30), np.uint8)
    organ[2:8, 5:15, 5:15] = 1
    lesion, invented = organ.copy(), organ.copy()
    lesion[12:16, 2:6, 2:7] = 2  # 80 voxels
    invented[10:18, 12:28, 12:28] = 3

    def dice(torchs, others):
        return export_module._dice_of_labels(Answers(torchs, others), "other", (None,))

    assert dice(lesion, invented) == {"organ": 1.0, "third": 0.0}
    with pytest.raises(CheckNeeded, match=r"too small to compare .*: lesion \(80 voxels\)"):
        dice(lesion, organ)
    assert dice(organ, organ) == {"organ": 1.0}
