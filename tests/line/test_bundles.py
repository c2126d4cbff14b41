"""Shipped and test bundles are MONAI bundles by MONAI's own checks."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SHIPPED = ROOT / "bundles" / "head_neck_oar_ct"
THRESHOLD = ROOT / "tests" / "bundles" / "hu_threshold"


@pytest.mark.parametrize(
    ("folder", "config", "kind"),
    [
        (SHIPPED, "inference.yaml", "infer"),
        pytest.param(SHIPPED, "train.yaml", "train", marks=pytest.mark.data),
        (THRESHOLD, "inference.yaml", "infer"),
    ],
)
def test_monai_finds_every_property(
    folder: Path, config: str, kind: str, tmp_path: Path, request, monkeypatch
):
    monkeypatch.syspath_prepend(str(folder))  # its own scripts, as PYTHONPATH in `make train`
    if kind == "train":
        request.getfixturevalue("data_dir")  # the config resolves where its data lie
    from monai.bundle import ConfigWorkflow

    workflow = ConfigWorkflow(
        config_file=str(folder / "configs" / config),
        meta_file=str(folder / "configs" / "metadata.json"),
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(folder),
        output_dir=str(tmp_path),
    )
    workflow.initialize()
    assert not workflow.check_properties()


def test_the_shipped_weights_are_those_of_the_card_and_fit_strictly():
    from operators.models.bundle import LoadedBundle
    from operators.models.card import load_card

    card = load_card(SHIPPED)
    bundle = LoadedBundle(card)

    assert bundle.identity.weights_sha256 == card.weights_sha256
    assert [segment.number for segment in card.segments] == list(range(1, 8))


def test_training_and_inference_describe_one_network():
    from monai.bundle import ConfigParser

    train, infer = (
        ConfigParser.load_config_file(str(SHIPPED / "configs" / name))
        for name in ("train.yaml", "inference.yaml")
    )
    for key in ("network_def", "num_classes", "spacing", "patch"):
        assert train[key] == infer[key]
    windows = [
        step
        for step in infer["preprocessing"]["transforms"]
        if step["_target_"] in {step["_target_"] for step in train["windows"]}
    ]
    assert windows == train["windows"]
    smoothing = [
        step["func"]
        for steps in (infer["preprocessing"]["transforms"], train["load"])
        for step in steps
        if step["_target_"] == "Lambdad"
    ]
    assert len(smoothing) == 2 and smoothing[0] == smoothing[1]
