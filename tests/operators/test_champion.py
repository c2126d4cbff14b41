"""The champion's file: read before each study, and never explained away."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from operators.models.champion import (
    ChampionInvalid,
    ChampionWeightsChanged,
    ChampionWeightsMissing,
    read_champion,
    weights_of,
    write_champion,
)

SHA256 = hashlib.sha256(b"weights").hexdigest()


def stored(state: Path) -> Path:
    file = state / "models" / f"{SHA256}.pt"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    return file


def test_no_file_means_the_bundles_own_weights(tmp_path: Path) -> None:
    assert read_champion(tmp_path / "champions", "b") is None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    stored(tmp_path)
    weights = weights_of(tmp_path, SHA256, 3)

    write_champion(tmp_path / "champions", "b", weights)

    found = read_champion(tmp_path / "champions", "b")
    assert found == weights and found.version == "mlflow.3"
    found.verify("b")
    assert read_champion(tmp_path / "champions", "other") is None
    assert [file.name for file in (tmp_path / "champions").iterdir()] == ["b.json"]


def test_a_state_folder_may_be_moved(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    stored(tmp_path / "a")
    write_champion(tmp_path / "a" / "champions", "b", weights_of(tmp_path / "a", SHA256, 1))
    (tmp_path / "a").rename(tmp_path / "z")

    found = read_champion(tmp_path / "z" / "champions", "b")
    assert found is not None
    found.verify("b")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[]", "not about this bundle"),
        ('{"bundle": "other"}', "not about this bundle"),
        ('{"bundle": "b"}', "no sha256"),
        ('{"bundle": "b", "sha256": "../../etc/passwd", "version": "mlflow.1"}', "no sha256"),
        (json.dumps({"bundle": "b", "sha256": SHA256, "version": ""}), "no version"),
        (json.dumps({"bundle": "b", "sha256": SHA256, "version": "a/b"}), "no version"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: str, why: str) -> None:
    folder = tmp_path / "champions"
    folder.mkdir()
    (folder / "b.json").write_text(content)

    with pytest.raises(ChampionInvalid, match=why) as refusal:
        read_champion(folder, "b")
    assert refusal.value.reason.startswith("RL-1301: bundle 'b'")


def test_missing_and_changed_weights_are_refused(tmp_path: Path) -> None:
    file = stored(tmp_path)
    weights = weights_of(tmp_path, SHA256, 2)
    weights.verify("b")

    file.write_bytes(b"other weights")
    with pytest.raises(ChampionWeightsChanged, match="not that of their name"):
        weights.verify("b")
    file.unlink()
    with pytest.raises(ChampionWeightsMissing, match="are missing"):
        weights.verify("b")
