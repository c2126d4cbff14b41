"""Fetching OHIF: what is not the pinned file is not unpacked, and nothing leaves its folder."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from app.viewer.fetch import INTEGRITY, fetch, is_fetched, unpack_dist
from app.viewer.refusals import OhifNotFetched, TarballUnsafe, TarballWrong

ROOT = Path(__file__).parents[2]
BUILD = {
    "package/package.json": b"{}",
    "package/dist/index.html": b"<html>",
    "package/dist/assets/a.svg": b"<svg/>",
}


def pack(path: Path, files: dict[str, bytes], *odd: tarfile.TarInfo) -> str:
    """Write an npm package; its integrity."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for entry in odd:
            archive.addfile(entry)
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def tree(folder: Path) -> set[str]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_build_alone_is_unpacked_and_a_second_run_does_nothing(tmp_path: Path) -> None:
    tarball, target = tmp_path / "ohif.tgz", tmp_path / "var" / "ohif"
    integrity = pack(tarball, BUILD)

    assert fetch(target, tarball=tarball, integrity=integrity) is True
    assert tree(target) == {"index.html", "assets/a.svg", ".integrity"}
    assert (target / "assets" / "a.svg").read_bytes() == b"<svg/>"
    tarball.unlink()
    assert fetch(target, tarball=tarball, integrity=integrity) is False
    assert [path.name for path in target.parent.iterdir()] == ["ohif"]


def test_another_release_replaces_the_old_one_whole(tmp_path: Path) -> None:
    old, new, target = tmp_path / "old.tgz", tmp_path / "new.tgz", tmp_path / "ohif"
    fetch(target, tarball=old, integrity=pack(old, BUILD))
    integrity = pack(new, {"package/dist/index.html": b"<html new>"})

    assert fetch(target, tarball=new, integrity=integrity) is True
    assert tree(target) == {"index.html", ".integrity"}


def test_a_half_written_folder_is_fetched_again(tmp_path: Path) -> None:
    tarball, target = tmp_path / "ohif.tgz", tmp_path / "ohif"
    integrity = pack(tarball, BUILD)
    target.mkdir()
    (target / "index.html").write_text("of an interrupted copy")

    assert not is_fetched(target, integrity)
    assert fetch(target, tarball=tarball, integrity=integrity) is True
    assert (target / "index.html").read_bytes() == b"<html>"


def test_a_wrong_integrity_is_refused_before_unpacking(tmp_path: Path) -> None:
    tarball, target = tmp_path / "ohif.tgz", tmp_path / "ohif"
    pack(tarball, BUILD)

    with pytest.raises(TarballWrong, match=r"ohif\.tgz has integrity sha512-"):
        fetch(target, tarball=tarball)
    assert list(tmp_path.iterdir()) == [tarball]


@pytest.mark.parametrize(
    "name", ["../evil", "package/dist/../../../evil", "/tmp/evil", "package/../evil"]
)
def test_a_path_that_leaves_is_refused(tmp_path: Path, name: str) -> None:
    tarball, target = tmp_path / "ohif.tgz", tmp_path / "a" / "ohif"
    integrity = pack(tarball, BUILD | {name: b"evil"})

    with pytest.raises(TarballUnsafe, match="leaves its folder"):
        fetch(target, tarball=tarball, integrity=integrity)
    assert tree(tmp_path) == {"ohif.tgz"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_a_link_or_a_device_in_the_build_is_refused(tmp_path: Path, kind: bytes) -> None:
    entry = tarfile.TarInfo("package/dist/link")
    entry.type, entry.linkname = kind, "/etc/passwd"
    tarball = tmp_path / "ohif.tgz"
    pack(tarball, BUILD, entry)

    with pytest.raises(TarballUnsafe, match="is no plain file"):
        unpack_dist(tarball, tmp_path / "dist")


def test_an_archive_without_a_build_is_refused(tmp_path: Path) -> None:
    tarball = tmp_path / "ohif.tgz"
    pack(tarball, {"package/index.html": b""})

    with pytest.raises(TarballUnsafe, match="is missing"):
        unpack_dist(tarball, tmp_path / "dist")


def test_a_cut_off_archive_is_refused(tmp_path: Path) -> None:
    tarball = tmp_path / "ohif.tgz"
    pack(tarball, BUILD | {"package/dist/big.js": os.urandom(200_000)})
    tarball.write_bytes(tarball.read_bytes()[:100_000])

    with pytest.raises(TarballUnsafe, match="can't be unpacked"):
        unpack_dist(tarball, tmp_path / "dist")


def test_a_relative_folder_is_the_caller_s_not_npm_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `make ohif` calls it: npm runs elsewhere, and packs into the folder it runs in."""
    integrity = pack(tmp_path / "ohif.tgz", BUILD)
    (tmp_path / "bin").mkdir()
    npm = tmp_path / "bin" / "npm"
    npm.write_text(
        f'#!/bin/sh\ncase "$*" in *--pack-destination*) cd "$5" || exit 254;; esac\n'
        f'cp "{tmp_path}/ohif.tgz" .\n'
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)

    assert fetch(Path("var/ohif"), integrity=integrity) is True
    assert (tmp_path / "var" / "ohif" / "index.html").is_file()


def test_without_npm_the_sentence_names_the_way_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(OhifNotFetched, match=r"make ohif OHIF_TARBALL=ohif-app-3\.13\.2\.tgz"):
        fetch(tmp_path / "ohif")


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_without_a_network_the_sentence_names_the_way_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1/")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))

    with pytest.raises(OhifNotFetched, match=r"no network.*make ohif OHIF_TARBALL="):
        fetch(tmp_path / "ohif")
    assert not (tmp_path / "ohif").exists()


def test_the_command_says_one_sentence_and_fails(tmp_path: Path) -> None:
    (tmp_path / "wrong.tgz").write_bytes(b"no archive")
    done = subprocess.run(
        [sys.executable, "-m", "app.viewer.fetch", "--to", "ohif", "--tarball", "wrong.tgz"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("RL-1510: wrong.tgz") and len(done.stderr.splitlines()) == 1
    assert INTEGRITY[:19] in done.stderr
