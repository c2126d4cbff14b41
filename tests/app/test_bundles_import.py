"""`radloop bundles import`: what comes in is checked, pinned, and there at once or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pickle
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from app.bundles import unpack as unpacking
from app.bundles.install import import_bundle
from app.bundles.known import known_bundles
from app.bundles.refusals import EntryUnsafe
from app.bundles.unpack import unpack
from operators.errors import ModelRefusal
from operators.models.bundle import LoadedBundle
from operators.models.card import load_card
from tests.zoo import card, random_state, spleen_config, whole_body_config, write_bundle


class Site:
    """A store of imported bundles and a zoo of one card, `known_zoo`."""

    def __init__(self, root: Path) -> None:
        self.store, self.shipped, self.zoo = root / "store", root / "shipped", root / "zoo"
        (self.shipped / "comes_along").mkdir(parents=True)
        (self.shipped / "comes_along" / "card.yaml").write_text("")
        (self.zoo / "known_zoo").mkdir(parents=True)

    def promise(self, weights: Path, version: str = "0.0.1") -> None:
        """Publish these weights on the zoo's card."""
        digest = hashlib.md5(weights.read_bytes()).hexdigest()
        file = {"path": "models/model.pt", "hash_type": "md5", "hash_val": digest}
        published = {"by": "tests", "version": version, "files": [file]}
        text = yaml.safe_dump(card(2, published=published))
        (self.zoo / "known_zoo" / "card.yaml").write_text(text)

    def take(self, source: Path, **options):
        return import_bundle(source, self.store, shipped=self.shipped, zoo=self.zoo, **options)

    def contents(self) -> dict[str, bytes]:
        files = self.store.rglob("*") if self.store.exists() else ()
        return {str(f.relative_to(self.store)): f.read_bytes() for f in files if f.is_file()}


@pytest.fixture
def site(tmp_path) -> Site:
    return Site(tmp_path / "site")


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Path:
    """A spleen-like bundle with its own card and RANDOM weights."""
    return write_bundle(tmp_path_factory.mktemp("plain") / "mine", spleen_config())


def zipped(folder: Path, target: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return target


def test_a_bundle_with_its_own_card_is_pinned_and_unverified(site, plain):
    done = site.take(plain)

    expected = hashlib.sha256((plain / "models" / "model.pt").read_bytes()).hexdigest()
    assert (done.name, done.version, done.outcome) == ("mine", "0.0.1", "installed")
    assert (done.weights_sha256, done.publisher_hash) == (expected, "none")
    installed = load_card(site.store / "mine")
    assert installed.weights_sha256 == expected
    installed.verify_weights()
    site.promise(plain / "models" / "model.pt")
    states = {n: k.state for n, k in known_bundles([site.store], site.zoo).items()}
    assert states == {"mine": "unverified", "known_zoo": "not installed"}


def test_the_same_bytes_again_change_nothing(site, plain, tmp_path):
    site.take(plain)
    before = site.contents()

    again = site.take(plain)
    from_zip = site.take(zipped(plain, tmp_path / "mine_v0.0.1.zip"))

    assert again.outcome == from_zip.outcome == "unchanged"
    assert site.contents() == before
    assert list((site.store.parent).glob("store.importing/*")) == [
        site.store.parent / "store.importing" / "lock"
    ]


def test_other_bytes_under_the_same_version_need_replace(site, plain, tmp_path):
    site.take(plain)
    other = write_bundle(tmp_path / "mine", spleen_config(), seed=6)
    before = site.contents()

    with pytest.raises(ModelRefusal, match="Give --replace") as caught:
        site.take(other)
    assert caught.value.code == "RL-1119" and site.contents() == before

    done = site.take(other, replace=True)
    assert done.outcome == "replaced"
    assert load_card(site.store / "mine").weights_sha256 == done.weights_sha256


def test_another_version_takes_the_place(site, plain, tmp_path):
    site.take(plain)
    done = site.take(write_bundle(tmp_path / "mine", spleen_config(), seed=6, version="0.0.2"))

    assert done.outcome == "replaced"
    assert load_card(site.store / "mine").version == "0.0.2"


def test_a_changed_installed_file_is_put_right_only_by_replace(site, plain):
    site.take(plain)
    (site.store / "mine" / "docs" / "README.md").write_text("changed")

    with pytest.raises(ModelRefusal, match="other content"):
        site.take(plain)
    site.take(plain, replace=True)
    assert "RANDOM" in (site.store / "mine" / "docs" / "README.md").read_text()


@pytest.mark.parametrize("name", ["card.yaml", "configs/inference.json", "scripts/late.py"])
def test_a_bundle_that_was_changed_after_its_import_does_not_run(site, plain, name):
    site.take(plain)
    LoadedBundle(load_card(site.store / "mine"))
    file = site.store / "mine" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text((file.read_text() if file.exists() else "") + "\n")

    with pytest.raises(ModelRefusal, match="changed after the import") as caught:
        LoadedBundle(load_card(site.store / "mine"))
    assert caught.value.code == "RL-0411"
    site.take(plain, replace=True)
    LoadedBundle(load_card(site.store / "mine"))


def test_the_publishers_hash_makes_it_verified(site, tmp_path):
    bundle = write_bundle(tmp_path / "known_zoo", spleen_config(), own_card=False)
    site.promise(bundle / "models" / "model.pt")

    done = site.take(zipped(bundle, tmp_path / "known_zoo_v0.0.1.zip", "known_zoo/"))

    assert (done.name, done.publisher_hash) == ("known_zoo", "matches")
    assert known_bundles([site.store], site.zoo)["known_zoo"].state == "installed"
    assert site.take(site.store / "known_zoo").outcome == "unchanged"  # its own copy


def test_other_weights_under_the_published_version_are_refused(site, tmp_path):
    bundle = write_bundle(tmp_path / "known_zoo", spleen_config(), own_card=False)
    site.promise(write_bundle(tmp_path / "b", spleen_config(), seed=9) / "models" / "model.pt")

    with pytest.raises(ModelRefusal, match=r"model.pt has md5 [0-9a-f]{32}, its publisher says"):
        site.take(bundle)
    assert not site.contents()


def test_another_version_than_the_published_one_is_unverified(site, tmp_path):
    bundle = write_bundle(tmp_path / "known_zoo", spleen_config(), own_card=False, version="0.1.0")
    site.promise(write_bundle(tmp_path / "b", spleen_config(), seed=9) / "models" / "model.pt")

    assert site.take(bundle).publisher_hash == "none"


def test_a_card_of_ones_own_does_not_pass_under_a_zoo_name(site, plain):
    site.promise(plain / "models" / "model.pt")
    with pytest.raises(ModelRefusal, match="--as NAME") as caught:
        site.take(plain, name="known_zoo")
    assert caught.value.code == "RL-1116"


def test_labels_in_another_order_than_the_card_are_refused(site, tmp_path):
    channels = {"0": "background", "1": "random_2"}
    bundle = write_bundle(
        tmp_path / "known_zoo", spleen_config(), channels=channels, own_card=False
    )
    site.promise(bundle / "models" / "model.pt")

    with pytest.raises(ModelRefusal, match=r"channel 1 is 'random_2'.*'random_1' on the card"):
        site.take(bundle)


def test_a_channel_that_the_card_lacks_is_refused(site, tmp_path):
    bundle = write_bundle(tmp_path / "mine", whole_body_config(4))
    (bundle / "card.yaml").write_text(yaml.safe_dump(card(3)))

    with pytest.raises(ModelRefusal, match=r"channel 3 is 'random_3'.*missing on the card"):
        site.take(bundle)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("comes_along", "comes with radloop"),
        ("zoo", "comes with radloop"),
        ("../out", "no name"),
        ("", "no name"),
        (".hidden", "no name"),
        ("a" * 65, "no name"),
    ],
)
def test_names_that_can_not_be_used(site, plain, name, why):
    with pytest.raises(ModelRefusal, match=why):
        site.take(plain, name=name)


def break_bundle(bundle: Path, how: str) -> None:
    model = bundle / "models" / "model.pt"
    if how == "no card":
        (bundle / "card.yaml").unlink()
    elif how == "no config":
        (bundle / "configs" / "inference.json").unlink()
    elif how == "no metadata":
        (bundle / "configs" / "metadata.json").unlink()
    elif how == "no version":
        (bundle / "configs" / "metadata.json").write_text("{}")
    elif how == "no weights":
        model.unlink()
    elif how == "weights outside":
        weights = {**card(2)["weights"], "file": "../model.pt"}
        (bundle / "card.yaml").write_text(yaml.safe_dump(card(2, weights=weights)))
    elif how == "pinned to others":
        weights = {**card(2)["weights"], "sha256": "0" * 64}
        (bundle / "card.yaml").write_text(yaml.safe_dump(card(2, weights=weights)))
    elif how == "truncated":
        model.write_bytes(model.read_bytes()[:1000])
    elif how == "other network":
        import torch

        torch.save(random_state({**spleen_config()["network_def"], "out_channels": 3}, 1), model)
    elif how == "unknown class":
        config = spleen_config()
        config["network_def"]["_target_"] = "NoSuchNet"
        (bundle / "configs" / "inference.json").write_text(json.dumps(config))
    elif how == "config loads others":
        config = spleen_config()
        config["checkpointloader"]["load_path"] = "$@bundle_root + '/models/model_lowres.pt'"
        (bundle / "configs" / "inference.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("no card", "RL-1115"),
        ("no config", "RL-1114"),
        ("no metadata", "RL-1114"),
        ("no version", "RL-1114"),
        ("no weights", "RL-1114"),
        ("weights outside", "RL-1114"),
        ("pinned to others", "RL-0403"),
        ("truncated", "RL-0405"),
        ("other network", "RL-0405"),
        ("unknown class", "RL-1102"),
        ("config loads others", "RL-0405"),
    ],
)
def test_what_is_not_whole_stays_outside(site, plain, tmp_path, how, code):
    bundle = tmp_path / "mine"
    shutil.copytree(plain, bundle)
    break_bundle(bundle, how)

    with pytest.raises(ModelRefusal) as caught:
        site.take(bundle)

    assert caught.value.code == code, caught.value.reason
    assert not site.contents()


def test_pickled_code_never_runs_and_no_config_before_it(site, plain, tmp_path):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was-run"),)

    bundle = tmp_path / "mine"
    shutil.copytree(plain, bundle)
    (bundle / "models" / "model.pt").write_bytes(pickle.dumps(Attack()))
    config = spleen_config()
    config["bundle_ran"] = f"$__import__('os').mkdir({str(tmp_path / 'config-ran')!r})"
    config["network_def"]["channels"] = "$@bundle_ran and [4, 8, 8]"
    (bundle / "configs" / "inference.json").write_text(json.dumps(config))

    with pytest.raises(ModelRefusal, match="not a plain state dict"):
        site.take(bundle)
    assert not (tmp_path / "was-run").exists() and not (tmp_path / "config-ran").exists()


def test_torchscript_alone_is_refused_and_beside_weights_left_out(site, plain, tmp_path):
    import torch

    bundle = tmp_path / "mine"
    shutil.copytree(plain, bundle)
    script = torch.jit.script(torch.nn.Conv3d(1, 2, 1))
    script.save(str(bundle / "models" / "model.ts"))

    done = site.take(bundle)
    assert done.left_out == ("models/model.ts",)
    assert not list(site.store.rglob("*.ts"))

    shutil.copy(bundle / "models" / "model.ts", bundle / "models" / "model.pt")
    with pytest.raises(ModelRefusal, match=r"model\.pt is TorchScript, a program"):
        site.take(bundle, name="other")
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(ModelRefusal, match=r"only models/model\.ts, TorchScript, a program"):
        site.take(bundle, name="other")


# --- entries -------------------------------------------------------------------------------


def entry(name: str, kind: int = stat.S_IFREG) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | 0o644) << 16
    return info


@pytest.mark.parametrize(
    ("infos", "problem"),
    [
        ([entry("mine/../../out.txt")], "leaves"),
        ([entry("/etc/out.txt")], "leaves"),
        ([entry("a\\..\\..\\out.txt")], "leaves"),
        ([entry("C:out.txt")], "leaves"),
        ([entry("mine/link", stat.S_IFLNK)], "link or a device"),
        ([entry("mine/fifo", stat.S_IFIFO)], "link or a device"),
        ([entry("mine/a"), entry("mine/A")], "stands twice"),
        ([entry("mine/a"), entry("mine/a/b")], "stands twice"),
        ([entry("mine/a/b"), entry("mine/A")], "stands twice"),
        ([entry(".x/../../../out.txt")], "leaves"),
    ],
)
def test_a_zip_entry_that_is_no_plain_file_inside_refuses_the_whole(tmp_path, infos, problem):
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for info in infos:
            archive.writestr(info, b"../../target")

    with pytest.raises(EntryUnsafe, match=problem):
        unpack(tmp_path / "b.zip", tmp_path / "deep" / "er" / "target")
    assert not list(tmp_path.rglob("out.txt")) and not list(tmp_path.rglob("link"))


@given(
    st.lists(
        st.lists(st.sampled_from(["..", ".", "a", "b", "", "/", "\\", "C:", "é", "~"]), max_size=5),
        min_size=1,
        max_size=4,
    )
)
def test_no_name_in_a_zip_writes_outside(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("zip")
    with zipfile.ZipFile(root / "b.zip", "w") as archive:
        for parts in names:
            archive.writestr(entry("/".join(parts) or "x"), b"1")
    before = set(root.rglob("*"))

    target = root / "inner" / "target"
    with contextlib.suppress(EntryUnsafe):
        unpack(root / "b.zip", target)
    written = {path for path in root.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(target) for path in written)


def test_links_in_a_folder_are_refused_with_the_way_out(tmp_path, plain):
    shutil.copytree(plain, tmp_path / "mine")
    (tmp_path / "mine" / "models" / "model.pt").unlink()
    (tmp_path / "mine" / "models" / "model.pt").symlink_to("/etc/passwd")
    with pytest.raises(EntryUnsafe, match=r"models/model.pt' is a link.*cp -rL"):
        unpack(tmp_path / "mine", tmp_path / "out")

    (tmp_path / "mine" / "models" / "model.pt").unlink()
    (tmp_path / "mine" / "more").symlink_to("/etc")
    with pytest.raises(EntryUnsafe, match="'more' is a link"):
        unpack(tmp_path / "mine", tmp_path / "out2")


def test_sizes_are_counted_as_they_arrive(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mine/zeros", bytes(5 << 20))  # 5 kB in the zip
    monkeypatch.setattr(unpacking, "MAX_BYTES", 1 << 20)
    with pytest.raises(ModelRefusal, match="more bytes than the limit") as caught:
        unpack(tmp_path / "bomb.zip", tmp_path / "out")
    assert caught.value.code == "RL-1113"
    assert sum(f.stat().st_size for f in (tmp_path / "out").rglob("*") if f.is_file()) <= 1 << 20


@pytest.mark.parametrize("as_zip", [True, False])
def test_too_many_files_are_refused(tmp_path, monkeypatch, as_zip):
    (tmp_path / "mine").mkdir()
    for number in range(12):
        (tmp_path / "mine" / f"{number}").write_text("")
    source = zipped(tmp_path / "mine", tmp_path / "b.zip") if as_zip else tmp_path / "mine"
    monkeypatch.setattr(unpacking, "MAX_FILES", 10)
    with pytest.raises(ModelRefusal, match="more files than the limit of 10"):
        unpack(source, tmp_path / "out")


def test_damaged_and_foreign_sources_are_refused(tmp_path, plain):
    archive = zipped(plain, tmp_path / "b.zip")
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(EntryUnsafe, match="can't be read"):
        unpack(archive, tmp_path / "out")
    (tmp_path / "text").write_text("no zip")
    for source in (tmp_path / "text", tmp_path / "nowhere"):
        with pytest.raises(ModelRefusal, match="neither a folder nor a zip"):
            unpack(source, tmp_path / f"out-{source.name}")


def test_what_a_mac_or_git_left_in_a_zip_is_no_part_of_the_bundle(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name in ("mine/configs/a", "__MACOSX/mine/._a", ".git/config", "mine/.DS_Store"):
            archive.writestr(name, b"1")
    unpack(tmp_path / "b.zip", tmp_path / "out")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [
        tmp_path / "out" / "configs" / "a"
    ]


# --- interruption --------------------------------------------------------------------------


def test_a_bundle_that_a_killed_import_had_moved_aside_comes_back(site, plain, tmp_path):
    site.take(plain)
    area = site.store.with_name("store.importing")
    (site.store / "mine").rename(area / "mine.aside")  # killed between the two renames
    (area / "tmpabc" / "mine").mkdir(parents=True)
    bundle = write_bundle(tmp_path / "second", spleen_config())

    site.take(bundle)

    assert sorted(path.name for path in site.store.iterdir()) == ["mine", "second"]
    assert [path.name for path in area.iterdir()] == ["lock"]


def test_two_imports_do_not_mix(site, plain):
    site.take(plain)
    with (site.store.with_name("store.importing") / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ModelRefusal, match="another import") as caught:
            site.take(plain)
    assert caught.value.code == "RL-1121"


def test_a_store_that_is_a_file_is_named(site, plain):
    site.store.write_text("")
    with pytest.raises(ModelRefusal, match="can't be written") as caught:
        site.take(plain)
    assert caught.value.code == "RL-1122"
