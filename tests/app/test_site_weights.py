"""Weights that the site brings: judged before they count, pinned once they do."""

from __future__ import annotations

import functools
import http.server
import json
import os
import pickle
import random
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.bundles.fetch_refusals import ChecksumDiffers, SourceUnreachable
from app.bundles.install import file_hash
from app.bundles.known import Known, Weights, known_bundles
from app.bundles.published import fetch_site_weights
from app.bundles.site_weights import (
    NothingToBring,
    OtherPinned,
    PinStoreUnfit,
    SourceMissing,
    import_weights,
)
from operators.errors import ModelRefusal
from operators.models.card import Card, WeightsChanged, WeightsNotImported, load_cards
from operators.models.medsam.model import LoadedMedSam
from operators.models.medsam.network import LiteMedSam

SHIPPED = Path(__file__).parent.parent.parent / "bundles"
CARD = """
title: A prompted network whose weights the site brings
manufacturer: Tests
prompted: true
unit: arbitrary
accepts: {modality: [CT]}
segments: []
weights: {file: models/brought.pth, sha256: null, origin: us, licence: none, commercial_use: "no"}
published:
  by: tests
  version: "1"
  files: [{path: models/brought.pth, hash_type: md5, hash_val: "MD5"}]
intended_use: Tests.
limits: []
"""


class Site:
    """A bundle with LiteMedSAM's small network and no weights, and a state folder."""

    def __init__(self, root: Path) -> None:
        self.bundles, self.store = root / "bundles", root / "state" / "bundles"
        configs = self.bundles / "brought" / "configs"
        configs.mkdir(parents=True)
        for name in ("inference.yaml", "metadata.json"):
            (configs / name).write_bytes((SHIPPED / "medsam_lite" / "configs" / name).read_bytes())
        self.publish("0" * 32)

    def publish(self, md5: str) -> None:
        (self.bundles / "brought" / "card.yaml").write_text(CARD.replace("MD5", md5))

    def folders(self) -> list[Path]:
        return [self.bundles, *([self.store] if self.store.is_dir() else [])]

    def card(self) -> Card:
        return load_cards(self.folders())["brought"]

    def known(self) -> Known:
        return known_bundles(self.folders(), self.bundles / "none")["brought"]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights that fit."""
    file = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.manual_seed(3)
    torch.save(LiteMedSam().state_dict(), file)
    return file


def test_what_is_brought_is_pinned_and_runs(site: Site, good: Path) -> None:
    absent = site.known().weights()
    assert (site.known().state, absent.said) == ("installed", "not here")
    assert "`radloop bundles import-weights brought FILE`" in absent.remedy
    with pytest.raises(WeightsNotImported, match="import-weights brought FILE") as refused:
        LoadedMedSam(site.card())
    assert refused.value.code == "RL-1901"

    done = import_weights(site.card(), good, site.store)

    assert (done.outcome, done.layout, done.publisher_hash) == ("installed", "SAM", "none")
    assert done.file.read_bytes() == good.read_bytes()
    assert (site.known().state, site.known().weights()) == ("unverified", Weights("right"))
    assert site.known().hash_state == "pinned"
    assert site.card().weights_sha256 == done.weights_sha256
    assert LoadedMedSam(site.card()).card.weights_sha256 == done.weights_sha256
    assert not list(site.store.rglob("*.part"))


def test_the_publisher_s_own_bytes_are_told_apart(site: Site, good: Path) -> None:
    site.publish(file_hash(good, "md5"))

    assert import_weights(site.card(), good, site.store).publisher_hash == "matches"
    assert (site.known().state, site.known().hash_state) == ("installed", "published")


def test_other_weights_take_their_place_only_when_that_is_said(
    site: Site, good: Path, tmp_path: Path
) -> None:
    first = import_weights(site.card(), good, site.store)
    other = tmp_path / "other.pth"
    torch.save({k: v + 1 for k, v in torch.load(good, weights_only=True).items()}, other)

    assert import_weights(site.card(), good, site.store).outcome == "unchanged"
    with pytest.raises(OtherPinned, match="--replace"):
        import_weights(site.card(), other, site.store)
    assert site.card().weights_sha256 == first.weights_sha256
    site.card().verify_weights()

    done = import_weights(site.card(), other, site.store, replace=True)

    assert done.outcome == "replaced" and site.card().weights_sha256 == done.weights_sha256
    assert [file.name for file in site.store.rglob("*.pth")] == [done.file.name]


def test_weights_that_changed_on_the_disk_do_not_run_and_can_be_brought_again(
    site: Site, good: Path
) -> None:
    done = import_weights(site.card(), good, site.store)
    content = bytearray(good.read_bytes())
    content[len(content) // 2] ^= 1
    done.file.write_bytes(content)

    with pytest.raises(WeightsChanged):
        LoadedMedSam(site.card())
    done.file.unlink()
    with pytest.raises(WeightsNotImported):
        LoadedMedSam(site.card())

    import_weights(site.card(), good, site.store)
    site.card().verify_weights()


def test_a_record_that_can_t_be_read_is_no_record(site: Site, good: Path) -> None:
    done = import_weights(site.card(), good, site.store)
    (done.file.parent / "weights.json").write_text('{"schema": 1, "file')

    with pytest.raises(WeightsNotImported):
        site.card().verify_weights()


class Runs:
    """Pickled, it is a program that leaves a file behind."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def _saved(file: Path, state: Mapping[str, object]) -> None:
    torch.save(dict(state), file)


def truncated(file: Path, good: Path) -> None:
    """The last kilobyte is missing: the size alone does not tell."""
    file.write_bytes(good.read_bytes()[:-1024])


def cut_short(file: Path, good: Path) -> None:
    file.write_bytes(good.read_bytes()[: good.stat().st_size // 2])


def noise(file: Path, good: Path) -> None:
    file.write_bytes(random.Random(1).randbytes(good.stat().st_size))


def empty(file: Path, good: Path) -> None:  # noqa: ARG001
    file.touch()


def program(file: Path, good: Path) -> None:
    state = torch.load(good, weights_only=True)
    _saved(file, {**state, "more": Runs(str(file.with_suffix(".ran")))})


def bare_pickle(file: Path, good: Path) -> None:
    content = pickle.dumps([Runs(str(file.with_suffix(".ran"))), bytes(good.stat().st_size)])
    file.write_bytes(content)


def bomb(file: Path, good: Path) -> None:
    """39 MB on the disk, 400 MB unpacked."""
    file.write_bytes(good.read_bytes())
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/9999", bytes(400 << 20))


def script(file: Path, good: Path) -> None:
    """A network as TorchScript, which is a program, of the right size."""
    side = int((good.stat().st_size / 4) ** 0.5)
    torch.jit.script(torch.nn.Linear(side, side)).save(file)


def safetensors(file: Path, good: Path) -> None:
    file.write_bytes((9).to_bytes(8, "little") + b'{"a":{}} ' + bytes(good.stat().st_size))


def one_missing(file: Path, good: Path) -> None:
    state = torch.load(good, weights_only=True)
    del state["mask_decoder.iou_token.weight"]
    _saved(file, state)


def one_too_many(file: Path, good: Path) -> None:
    _saved(file, {**torch.load(good, weights_only=True), "extra": torch.zeros(1)})


def other_shape(file: Path, good: Path) -> None:
    state = torch.load(good, weights_only=True)
    _saved(file, {**state, "mask_decoder.iou_token.weight": torch.zeros(256, 1)})


def halves(file: Path, good: Path) -> None:
    """Half the bytes a number, filled up so that the size fits."""
    state = torch.load(good, weights_only=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    _saved(file, {**state, "filling": torch.zeros(good.stat().st_size // 8)})


def not_a_number(file: Path, good: Path) -> None:
    state = torch.load(good, weights_only=True)
    state["image_encoder.neck.0.weight"][3, 4] = float("nan")
    _saved(file, state)


def other_layout(file: Path, good: Path) -> None:
    """transformers' prefix on names that are not transformers'."""
    state = torch.load(good, weights_only=True)
    _saved(file, {k.replace("image_encoder.", "vision_encoder."): v for k, v in state.items()})


@pytest.mark.parametrize(
    ("make", "code", "said"),
    [
        (truncated, "RL-1903", "truncated or damaged"),
        (noise, "RL-1903", "no weights file of torch"),
        (safetensors, "RL-1903", "pytorch_model.bin"),
        (cut_short, "RL-1904", "39.2 MB"),
        (empty, "RL-1904", "0.0 MB"),
        (bomb, "RL-1904", "MB"),
        (program, "RL-1905", "was not run"),
        (bare_pickle, "RL-1905", "was not run"),
        (script, "RL-1905", "was not run"),
        (one_missing, "RL-1906", "1 tensors missing (mask_decoder.iou_token.weight)"),
        (one_too_many, "RL-1906", "1 tensors unknown (extra)"),
        (other_shape, "RL-1906", "of another shape"),
        (halves, "RL-1906", "no mapping of names to tensors of floats"),
        (other_layout, "RL-1906", "missing"),
        (not_a_number, "RL-1907", "image_encoder.neck.0.weight"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_no_weights_of_that_network_is_refused_and_leaves_nothing(
    site: Site, good: Path, tmp_path: Path, make: Callable[[Path, Path], None], code: str, said: str
) -> None:
    file = tmp_path / "brought.pth"
    make(file, good)

    with pytest.raises(ModelRefusal) as refused:
        import_weights(site.card(), file, site.store)

    assert refused.value.code == code, refused.value.reason
    assert said in refused.value.reason and "brought.pth" in refused.value.reason
    assert not file.with_suffix(".ran").exists()
    assert not [
        found for found in site.store.rglob("*") if found.is_file() and found.name != "lock"
    ]
    with pytest.raises(WeightsNotImported):
        site.card().verify_weights()


@pytest.mark.parametrize("make", [truncated, program, one_missing, not_a_number])
def test_a_network_refuses_them_too_before_its_first_picture(
    site: Site, good: Path, tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    """Where a card vouches for such a file itself, as that of medsam_lite does for its own."""
    file = tmp_path / "brought.pth"
    make(file, good)
    vouching = replace(
        site.card(), weights_file=file, weights_sha256=file_hash(file, "sha256"), pin=None
    )

    with pytest.raises(ModelRefusal, match=r"brought\.pth") as refused:
        LoadedMedSam(vouching)

    assert refused.value.code in {"RL-1903", "RL-1905", "RL-1906", "RL-1907"}
    assert not file.with_suffix(".ran").exists()


def test_they_may_be_fetched_from_where_their_publisher_has_them(
    site: Site, good: Path, tmp_path: Path
) -> None:
    """A real server as the mirror; other bytes than published are not even judged."""
    served = tmp_path / "www" / "brought" / "models" / "brought.pth"
    served.parent.mkdir(parents=True)
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "www")
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_port}"
        served.write_bytes(good.read_bytes())
        with pytest.raises(SourceUnreachable, match="`radloop bundles import-weights brought"):
            fetch_site_weights(site.card(), site.store, mirror=f"{mirror}/elsewhere")
        with pytest.raises(ChecksumDiffers):
            fetch_site_weights(site.card(), site.store, mirror=mirror)
        site.publish(file_hash(good, "md5"))
        done = fetch_site_weights(site.card(), site.store, mirror=mirror)
        server.shutdown()

    assert (done.outcome, done.publisher_hash) == ("installed", "matches")
    site.card().verify_weights()


def test_only_a_bundle_without_weights_takes_them_and_only_from_a_file(
    site: Site, good: Path, tmp_path: Path
) -> None:
    shipped = load_cards([SHIPPED])["medsam_lite"]
    with pytest.raises(NothingToBring):
        import_weights(shipped, good, site.store)
    with pytest.raises(SourceMissing):
        import_weights(site.card(), tmp_path / "nothing", site.store)
    site.store.parent.mkdir(parents=True)
    site.store.write_text("a file where the folder should be")
    with pytest.raises(PinStoreUnfit):
        import_weights(site.card(), good, site.store)


def test_the_command_says_what_it_did_and_what_is_next(
    site: Site, good: Path, tmp_path: Path
) -> None:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        env = {"RADLOOP_BUNDLES": str(site.bundles), "RADLOOP_STATE_DIR": str(tmp_path / "state")}
        return subprocess.run(
            [sys.executable, "-m", "app.cli.main", *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, **env},
            check=False,
        )

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").touch()
    box = ("--slice", "1", "--box", "0,0,1,1", "-o", tmp_path / "out")
    before = run("segment", tmp_path / "in", "--bundle", "brought", *box)
    itself = run("segment", tmp_path / "in", "--bundle", "head_neck_oar_ct", *box)
    bad = run("bundles", "import-weights", "brought", "/dev/null")
    done = run("bundles", "import-weights", "brought", good, "--json")

    assert before.returncode == 1 and before.stderr.strip().startswith("RL-1901: ")
    assert itself.returncode == 1 and itself.stderr.strip().startswith("RL-1911: ")
    assert not (tmp_path / "out").exists()
    assert bad.returncode == 1 and bad.stderr.startswith("RL-1908: ")
    assert len(bad.stderr.strip().splitlines()) == 1
    assert json.loads(done.stdout)["outcome"] == "installed"
