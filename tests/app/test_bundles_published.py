"""`radloop bundles fetch` of a zoo bundle: downloaded from a real server, then imported."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tenacity import wait_none

from app.bundles.download import ATTEMPTS
from app.bundles.known import known_bundles
from app.bundles.published import Place, fetch_published
from operators.errors import ModelRefusal
from operators.models.card import load_card, load_zoo_card
from tests.app.publisher import Publisher, serving
from tests.zoo import card, spleen_config, write_bundle

NAME = "known_zoo"
ZIP = f"/{NAME}_v0.0.1.zip"
# The command as it is, but for the folder of zoo cards.
COMMAND = """
import sys
from pathlib import Path
import app.bundle_folders
app.bundle_folders.ZOO_CARDS = Path(sys.argv[1])
sys.argv = ["radloop", *sys.argv[2:]]
from app.cli.main import main
main()
"""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    """A bundle as its publisher has it, with RANDOM weights and without a card."""
    return write_bundle(tmp_path_factory.mktemp("theirs") / NAME, spleen_config(), own_card=False)


def zipped(bundle: Path, target: Path, *, weights: bool = True) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(path for path in bundle.rglob("*") if path.is_file()):
            if weights or file.name != "model.pt":
                archive.write(file, f"{NAME}/{file.relative_to(bundle)}")
    return target


class Site:
    """A site with one zoo card, and a mirror that has what the card speaks of."""

    def __init__(self, root: Path, publisher: Publisher, bundle: Path) -> None:
        self.root, self.publisher, self.bundle = root, publisher, bundle
        self.place = Place(root / "state" / "bundles", root / "shipped", root / "zoo")
        (root / "zoo" / NAME).mkdir(parents=True)
        self.downloads = root / "state" / "bundles.fetching"

    def publish(self, *, whole: bool = True, hashed: bool = True, **changes: Any) -> None:
        """Put the zip on the server, and its hash on the card."""
        content = zipped(self.bundle, self.root / "b.zip", weights=whole).read_bytes()
        model = (self.bundle / "models" / "model.pt").read_bytes()
        large = {"path": "models/model.pt", "hash_type": "md5"}
        large["hash_val"] = hashlib.md5(model).hexdigest()
        archive = {"path": ZIP[1:], "hash_type": "sha1", "url": f"https://publisher.invalid{ZIP}"}
        archive["hash_val"] = hashlib.sha1(content).hexdigest()
        published = {"by": "tests", "version": "0.0.1", "files": [large] if hashed else []}
        published["archive"] = archive
        (self.place.zoo / NAME / "card.yaml").write_text(
            yaml.safe_dump(card(2, published=published, **changes))
        )
        self.publisher.put(ZIP, content)
        self.publisher.put(f"{ZIP[:-4]}/models/model.pt", model)

    def fetch(self, **options: Any):
        options = {"mirror": self.publisher.url, "pause": wait_none(), **options}
        return fetch_published(load_zoo_card(self.place.zoo / NAME), self.place, **options)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", COMMAND, str(self.place.zoo), "bundles", *arguments]

    def environment(self, **more: str) -> dict[str, str]:
        plain = {k: v for k, v in os.environ.items() if not k.startswith("RADLOOP_")}
        return {**plain, "RADLOOP_STATE_DIR": str(self.root / "state"), **more}

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            env=self.environment(**environment),
            check=False,
        )


@pytest.fixture
def site(tmp_path, bundle) -> Iterator[Site]:
    with serving() as publisher:
        site = Site(tmp_path, publisher, bundle)
        site.publish()
        yield site


def test_a_fetched_bundle_is_imported_pinned_and_as_its_publisher_says(site):
    told: list[tuple[str, int, int | None]] = []

    done = site.fetch(told=lambda *what: told.append(what))

    assert (done.name, done.version, done.outcome) == (NAME, "0.0.1", "installed")
    assert done.publisher_hash == "matches" and told[-1][0] == ZIP[1:]
    model = (site.bundle / "models" / "model.pt").read_bytes()
    installed = load_card(site.place.store / NAME)
    assert installed.weights_sha256 == hashlib.sha256(model).hexdigest()
    installed.verify_weights()
    assert known_bundles([site.place.store], site.place.zoo)[NAME].state == "installed"
    assert not (site.downloads / NAME).exists()  # no second copy stays


def test_what_is_there_is_not_downloaded_again(site):
    site.fetch()
    again = site.fetch()
    assert again.outcome == "unchanged" and len(site.publisher.asked) == 1
    (site.place.store / NAME / "models" / "model.pt").write_bytes(b"damaged")

    mended = site.fetch(replace=True)

    assert mended.outcome == "replaced" and len(site.publisher.asked) == 2
    load_card(site.place.store / NAME).verify_weights()


def test_weights_that_the_zip_lacks_come_from_where_the_card_says(site):
    site.publish(whole=False)

    done = site.fetch()

    assert done.publisher_hash == "matches"
    assert [path for path, _ in site.publisher.asked] == [ZIP, f"{ZIP[:-4]}/models/model.pt"]
    load_card(site.place.store / NAME).verify_weights()


def test_a_zip_is_vouched_for_as_a_whole_where_its_weights_have_no_hash(site):
    site.publish(hashed=False)
    assert site.fetch().publisher_hash == "matches"


def test_other_bytes_are_refused_and_nothing_is_installed(site):
    content = bytearray(site.publisher.files[ZIP].content)
    content[100] ^= 1
    site.publisher.files[ZIP].content = bytes(content)

    with pytest.raises(ModelRefusal, match="has sha1") as caught:
        site.fetch()

    assert caught.value.code == "RL-1536" and not site.place.store.exists()
    assert list((site.downloads / NAME).iterdir()) == []


def test_a_bundle_that_can_not_run_here_is_not_fetched(site):
    for run, why in (
        ({"unfit": "It makes images and finds nothing."}, "It makes images and finds nothing"),
        ({"needs": ["no_such_package"]}, "not installed here: no_such_package"),
    ):
        site.publish(run=run)
        with pytest.raises(ModelRefusal, match=why) as caught:
            site.fetch()
        assert caught.value.code == "RL-1538"
    assert site.publisher.asked == []


def weights_of(commercial_use: str) -> dict[str, Any]:
    licence = {"licence": "CC-BY-NC-SA-4.0", "commercial_use": commercial_use}
    return {"weights": {**card(2)["weights"], **licence}}


@pytest.mark.parametrize("way", ["fetch", "import"])
def test_a_licence_that_forbids_commercial_use_is_accepted_or_nothing_comes(site, way):
    site.publish(**weights_of("no"))
    source = [str(site.root / "b.zip"), "--as", NAME] if way == "import" else [NAME]

    refused = site.run(way, *source, RADLOOP_BUNDLE_MIRROR=site.publisher.url)

    assert refused.returncode == 1 and site.publisher.asked == []
    (sentence,) = [line for line in refused.stderr.splitlines() if line.startswith("RL-")]
    assert sentence.startswith("RL-1531: ") and "(CC-BY-NC-SA-4.0)" in sentence
    assert "--accept-licence" in sentence and not list(site.place.store.glob("*"))


def test_who_accepted_a_licence_is_in_the_record(site):
    site.publish(**weights_of("no"))
    site.fetch(accept_licence=True)
    record = json.loads((site.place.store / NAME / "import.json").read_text())
    assert record["licence_accepted"] is True


def test_a_killed_fetch_goes_on_where_it_was_killed_and_says_what_it_did(site):
    content = site.publisher.files[ZIP].content
    site.publisher.files[ZIP].hold_at = len(content) // 2
    arguments = ("fetch", NAME, "--mirror", site.publisher.url)
    part = site.downloads / NAME / f"{ZIP[1:]}.part"
    command, environment = site.command(*arguments), site.environment()
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while not (part.is_file() and part.stat().st_size > len(content) // 4):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    held = part.stat().st_size
    assert held < len(content) and not site.place.store.exists()
    site.publisher.files[ZIP].hold_at = None
    site.publisher.release.set()

    done = site.run(*arguments)

    assert (done.returncode, done.stdout.split(":")[0]) == (0, "installed"), done.stderr
    assert site.publisher.ranges() == ["", f"bytes={held}-"]
    assert done.stderr.splitlines() == [
        f"{NAME} 0.0.1: licence Apache-2.0; commercial use allowed"  # and no bar: no terminal
    ]
    again = site.run(*arguments, "--json")
    said = json.loads(again.stdout)
    assert (said["name"], said["outcome"], again.stderr) == (NAME, "unchanged", "")


def test_a_mirror_is_an_address_of_the_web(site):
    wrong = site.run("fetch", NAME, "--mirror", "ftp://here")
    assert wrong.returncode == 2 and "http://" in wrong.stderr


def test_two_fetches_of_one_bundle_do_not_mix(site):
    site.downloads.mkdir(parents=True)
    with (site.downloads / f"{NAME}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ModelRefusal, match="another command") as caught:
            site.fetch()
    assert caught.value.code == "RL-1537" and site.publisher.asked == []


def test_without_a_mirror_the_publisher_is_asked_and_its_absence_said(site):
    with pytest.raises(ModelRefusal, match=r"https://publisher\.invalid/.*bundle_mirror") as caught:
        site.fetch(mirror=None)
    assert caught.value.code == "RL-1532" and f"tried {ATTEMPTS} times" in caught.value.reason
    assert site.publisher.asked == []


def test_a_folder_that_can_not_be_written_is_named(site):
    (site.root / "state").write_text("a file where the folder should be")
    with pytest.raises(ModelRefusal, match="can't be written") as caught:
        site.fetch()
    assert caught.value.code == "RL-1539"
