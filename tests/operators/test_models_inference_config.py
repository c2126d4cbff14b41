"""What a config says is resolved before anything is decided by it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from operators.models.inference_config import Argmax, ConfigBroken, ConfigMissing, read_inference
from operators.models.run_block import Run
from tests.zoo import SOFTMAX, spleen_config, whole_body_config


def bundle(tmp_path: Path, config: dict[str, Any]) -> Path:
    (tmp_path / "b" / "configs").mkdir(parents=True)
    (tmp_path / "b" / "configs" / "inference.json").write_text(json.dumps(config))
    (tmp_path / "b" / "card.yaml").write_text("")
    return tmp_path / "b"


def steps(composed: Any) -> list[str]:
    return [type(step).__name__ for step in composed.transforms]


def test_the_published_spleen_layout_is_cut_at_its_inverse(tmp_path):
    found = read_inference(bundle(tmp_path, spleen_config()))

    assert found.argmax is Argmax.SLABS and not found.channel_first
    assert steps(found.preprocess)[0] == "EnsureChannelFirstd"
    assert steps(found.postprocess) == ["Activationsd"] and steps(found.finish) == []
    assert (found.checkpoint_name, found.checkpoint_key) == ("model.pt", "model")


def test_the_published_whole_body_layout_is_cut_at_its_argmax(tmp_path):
    found = read_inference(bundle(tmp_path, whole_body_config()))

    assert found.argmax is Argmax.WINDOWS
    assert steps(found.postprocess) == steps(found.finish) == []
    assert found.by_affine and found.inferer.overlap == 0.25


def test_labels_are_inverted_by_monai_where_the_affine_does_not_tell_all(tmp_path):
    config = whole_body_config()
    config["preprocessing"]["transforms"].insert(
        2, {"_target_": "Zoomd", "keys": "image", "zoom": 0.9}
    )

    found = read_inference(bundle(tmp_path, config))

    assert not found.by_affine and steps(found.finish) == ["Invertd"]
    # Its inverse undoes what ran, not a copy of it.
    assert found.finish.transforms[0].transform is found.preprocess


def test_the_switch_for_low_resolution_reaches_spacing_and_checkpoint(tmp_path):
    config = whole_body_config()
    config["displayable_configs"]["highres"] = False

    found = read_inference(bundle(tmp_path, config))

    spacing = next(
        step for step in found.preprocess.transforms if hasattr(step, "spacing_transform")
    )
    assert list(spacing.spacing_transform.pixdim) == [3.0, 3.0, 3.0]
    assert found.checkpoint_name == "model_lowres.pt"


@pytest.mark.parametrize("said", [True, "true", "@off", "$not @on"])
def test_a_disabled_inverse_is_no_inverse(tmp_path, said):
    config = {**copy.deepcopy(spleen_config()), "off": True, "on": False}
    config["postprocessing"]["transforms"][1]["_disabled_"] = said

    found = read_inference(bundle(tmp_path, config))

    assert found.argmax is Argmax.WINDOWS  # softmax and argmax now meet
    assert steps(found.finish) == []


def test_a_disabled_loader_still_leaves_no_file_access(tmp_path):
    config = spleen_config()
    config["preprocessing"]["transforms"][0]["_disabled_"] = "$False"

    assert "LoadImaged" not in steps(read_inference(bundle(tmp_path, config)).preprocess)


@pytest.mark.parametrize(
    ("change", "argmax"),
    [
        ({"nearest_interp": "$not @load_pretrain"}, Argmax.SLABS),
        ({"nearest_interp": "@load_pretrain"}, Argmax.OWN),
    ],
)
def test_a_referenced_interpolation_decides_by_its_value(tmp_path, change, argmax):
    config = spleen_config()
    config["postprocessing"]["transforms"][1].update(change)

    assert read_inference(bundle(tmp_path, config)).argmax is argmax


@pytest.mark.parametrize(
    "other",
    [
        {**SOFTMAX, "softmax": False, "sigmoid": True},
        {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: -x"},
    ],
    ids=["sigmoid", "turns the order round"],
)
def test_an_argmax_of_something_else_stays_the_bundles_own(tmp_path, other):
    config = whole_body_config()
    config["postprocessing"]["transforms"][0] = other

    assert read_inference(bundle(tmp_path, config)).argmax is Argmax.OWN


def test_an_unknown_class_or_a_failing_expression_is_named_by_its_part(tmp_path):
    config = spleen_config()
    config["inferer"] = {"_target_": "NoSuchInferer"}
    with pytest.raises(ConfigBroken, match="'inferer' of its inference config") as caught:
        read_inference(bundle(tmp_path, config))
    assert caught.value.reason.startswith("RL-1102")


def test_a_config_without_a_part_is_refused(tmp_path):
    config = spleen_config()
    del config["inferer"]
    with pytest.raises(ConfigMissing, match="no 'inferer'"):
        read_inference(bundle(tmp_path, config))


def test_a_card_may_throw_a_switch_that_the_config_has(tmp_path):
    coarse = Run(switches=(("displayable_configs#highres", False),))

    found = read_inference(bundle(tmp_path, whole_body_config()), coarse)

    assert found.checkpoint_name == "model_lowres.pt"
    (spacing,) = [step for step in found.preprocess.transforms if type(step).__name__ == "Spacingd"]
    assert list(spacing.spacing_transform.pixdim) == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("key", ["displayable_configs#no_such", "no_such#highres", "pixdim#x"])
def test_a_switch_that_is_not_there_is_refused(tmp_path, key):
    with pytest.raises(ConfigMissing, match=key):
        read_inference(bundle(tmp_path, whole_body_config()), Run(switches=((key, False),)))
