"""A tuned bundle's weights: its part and its base, both checked, put together strictly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from operators.models.bundle import WeightsUnfit
from operators.models.card import (
    BundleUnknown,
    CardInvalid,
    WeightsChanged,
    WeightsNotFetched,
    load_card,
)
from operators.models.medsam.tuned import put_part


class Network(nn.Module):
    """An encoder and a decoder of a few numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2)
        self.decoder = nn.Linear(3, 1)


BASE = {
    "encoder.weight": torch.ones(2, 2),
    "encoder.bias": torch.ones(2),
    "decoder.weight": torch.zeros(1, 3),
    "decoder.bias": torch.zeros(1),
}
PART = {"decoder.weight": torch.tensor([[1.0, 2.0, 3.0]]), "decoder.bias": torch.tensor([4.0])}


def install(folder: Path, name: str, state: dict, **weights) -> Path:
    """A prompted bundle with these weights."""
    bundle = folder / name
    (bundle / "configs").mkdir(parents=True)
    (bundle / "configs" / "metadata.json").write_text(json.dumps({"version": "1.0"}))
    torch.save(state, bundle / "weights.pt")
    card = {
        "title": name,
        "manufacturer": "radloop",
        "prompted": True,
        "unit": "arbitrary",
        "accepts": {"modality": ["CT"]},
        "segments": [],
        "weights": {
            "file": "weights.pt",
            "sha256": sha256(bundle / "weights.pt"),
            "origin": "made",
            "licence": "Apache-2.0",
            "commercial_use": "yes",
            **weights,
        },
        "intended_use": "tests",
        "limits": [],
    }
    (bundle / "card.yaml").write_text(yaml.safe_dump(card))
    return bundle


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def tuned(folder: Path, part: dict = PART) -> Path:
    """A base and a bundle that completes it; the latter's folder."""
    package = {"requirement": "carrier==1.0", "member": "weights.pt"}
    base = install(folder, "base", BASE, package=package)
    return install(
        folder, "tuned", part, base={"bundle": "base", "sha256": sha256(base / "weights.pt")}
    )


def loaded() -> Network:
    network = Network()
    network.load_state_dict(BASE)
    return network


def test_the_part_replaces_its_entries_and_nothing_else(tmp_path: Path) -> None:
    card = load_card(tuned(tmp_path))
    card.verify_weights()
    network = loaded()

    put_part(card.name, network, card.weights_file)

    state = network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in (BASE | PART).items())


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"decoder.x": torch.zeros(3)}, "decoder.x is not in the weights"),
        ({"decoder.bias": torch.zeros(4)}, "decoder.bias has another shape or type"),
        ({"decoder.bias": torch.zeros(1).half()}, "decoder.bias has another shape or type"),
        ({}, "holds no weights"),
        ([torch.zeros(1)], "holds no weights"),
    ],
)
def test_what_is_no_part_of_the_base_is_refused_as_a_whole(tmp_path: Path, part, why: str) -> None:
    network = loaded()
    torch.save(part, tmp_path / "part.pt")

    with pytest.raises(WeightsUnfit, match=why):
        put_part("tuned", network, tmp_path / "part.pt")

    assert all(torch.equal(network.state_dict()[name], value) for name, value in BASE.items())


@pytest.mark.parametrize("which", ["tuned", "base"])
def test_one_changed_byte_in_either_file_is_refused(tmp_path: Path, which: str) -> None:
    card = load_card(tuned(tmp_path))
    file = tmp_path / which / "weights.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    with pytest.raises(WeightsChanged, match=f"'{which}'") as refused:
        card.verify_weights()

    assert refused.value.code == "RL-0403"


def test_a_base_that_nobody_fetched_is_named_with_the_command(tmp_path: Path) -> None:
    card = load_card(tuned(tmp_path))
    (tmp_path / "base" / "weights.pt").unlink()

    with pytest.raises(WeightsNotFetched, match="radloop bundles fetch base") as refused:
        card.verify_weights()

    assert refused.value.code == "RL-1001"


def test_a_base_of_another_version_is_refused(tmp_path: Path) -> None:
    folder = tuned(tmp_path)
    (tmp_path / "base" / "card.yaml").unlink()
    (tmp_path / "base").rename(tmp_path / "old")
    install(tmp_path, "base", {**BASE, "decoder.bias": torch.ones(1)})

    with pytest.raises(WeightsChanged, match="'base'"):
        load_card(folder).verify_weights()


def test_a_base_that_is_not_installed_is_named(tmp_path: Path) -> None:
    folder = tuned(tmp_path)
    (tmp_path / "base").rename(tmp_path.parent / f"{tmp_path.name}-elsewhere")

    with pytest.raises(BundleUnknown, match="no installed bundle is called 'base'"):
        load_card(folder).verify_weights()


def test_a_base_without_its_sha256_is_no_card(tmp_path: Path) -> None:
    folder = install(tmp_path, "tuned", PART, base={"bundle": "base"})

    with pytest.raises(CardInvalid, match="sha256"):
        load_card(folder)
