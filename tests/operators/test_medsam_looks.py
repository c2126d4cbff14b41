"""How often the network is asked, and how far a structure is followed, the bundle's config says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from operators.job import Volume
from operators.models.card import load_card
from operators.models.medsam.model import LoadedMedSam, PromptConfigUnfit, read_config

BUNDLES = Path(__file__).parent.parent.parent / "bundles"


def config(**prompting) -> bytes:
    content = yaml.safe_load((BUNDLES / "medsam_lite" / "configs" / "inference.yaml").read_text())
    content["prompting"].update(prompting)
    return yaml.safe_dump(content).encode()


def test_two_looks_unless_the_config_says_one() -> None:
    assert read_config("b", config())[3] == 2
    assert read_config("b", config(looks=1))[3] == 1


@pytest.mark.parametrize("looks", [0, 3, "two", None])
def test_other_numbers_of_looks_are_refused(looks) -> None:
    with pytest.raises(PromptConfigUnfit, match="looks other than 1 or 2"):
        read_config("b", config(looks=looks))


def with_stop(stop_sd) -> bytes:
    follow = yaml.safe_load(config())["prompting"]["follow"]
    return config(follow={**follow, "stop_sd": stop_sd})


def test_one_stop_rule_for_all_units_or_one_for_each() -> None:
    rules = read_config("b", with_stop(1.5))[2]
    assert {unit: rule.stop_sd for unit, rule in rules.items()} == {
        "HU": 1.5,
        "SUVbw": 1.5,
        "arbitrary": 1.5,
    }
    stops = {"HU": 1.0, "SUVbw": 1.25, "arbitrary": 2.0}
    rules = read_config("b", with_stop(stops))[2]
    assert {unit: rule.stop_sd for unit, rule in rules.items()} == stops


def test_a_unit_without_a_stop_rule_is_refused() -> None:
    with pytest.raises(PromptConfigUnfit, match="KeyError"):
        read_config("b", with_stop({"HU": 1.0}))


@pytest.mark.usefixtures("medsam_weights")
@pytest.mark.parametrize(("bundle", "looks"), [("medsam_lite", 2), ("medsam_lite_ct_mr", 1)])
def test_a_disc_is_found_in_as_many_looks(bundle: str, looks: int) -> None:
    model = LoadedMedSam(load_card(BUNDLES / bundle))
    asked = []
    decode = model.network.decode
    model.network.decode = lambda *args, **named: asked.append(1) or decode(*args, **named)
    y, x = np.mgrid[:96, :96]
    disc = (x - 50) ** 2 + (y - 40) ** 2 <= 15**2
    plane = np.where(disc, 120, -40).astype(np.int16)[None]
    volume = Volume(plane, np.eye(4), "HU", "", (), "", bundle)

    found = model.segment_slice(volume, 0, (32.0, 22.0, 68.0, 58.0), (-160.0, 240.0))

    assert len(asked) == looks
    assert 2 * (found & disc).sum() / (found.sum() + disc.sum()) > 0.9
