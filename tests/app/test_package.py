"""The MAP's build context: whole, pinned, and the application in it runs as the MAP runs it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pydicom
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.packaging.context import Context, project_version, write_context
from app.packaging.pins import IMAGE, requirements
from app.packaging.refusals import (
    ContextUnwritable,
    NoCheckout,
    TagInvalid,
    Unpinned,
    VersionsDiffer,
)
from operators.models.card import WeightsChanged, load_card
from tests.series import Ball, centred_grid, render, write_ct_series
from tests.test_lock import locked

ROOT = Path(__file__).parents[2]
TEST_BUNDLES = ROOT / "tests" / "bundles"
SHIPPED = "head_neck_oar_ct"
SHAPE_ZYX = (20, 48, 40)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Written with the test bundle beside the shipped ones; no program, no connection."""

    def no_network(*arguments: object) -> None:
        raise AssertionError(f"connects to {arguments[1:]}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", no_network)
        patch.setenv("PATH", "/nowhere")
        patch.setenv("RADLOOP_BUNDLES", str(TEST_BUNDLES))
        patch.setenv("RADLOOP_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        return write_context(tmp_path_factory.mktemp("map") / "context")


def version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_everything_that_a_build_needs_is_there(context: Context) -> None:
    there = {path.name for path in context.folder.iterdir()}
    assert there == {
        *("Dockerfile", ".dockerignore", "tools", "app", "app.config"),
        *("models", "pip", "map"),
    }
    dockerfile = (context.folder / "Dockerfile").read_text()
    assert re.search(r"^FROM nvcr\.io/nvidia/cuda:13\S+-ubuntu24\.04 AS base$", dockerfile, re.M)
    assert "pip install --no-cache-dir --user -r /tmp/requirements.txt" in dockerfile
    # What the Dockerfile copies out of the context exists in it.
    for source in re.findall(r"^COPY \./(\S+)", dockerfile, re.M):
        assert (context.folder / source).exists(), source
    for room in ("app", "operators"):
        sources = {path.relative_to(ROOT / room) for path in (ROOT / room).rglob("*.py")}
        copied = context.folder / "app" / room
        assert {path.relative_to(copied) for path in copied.rglob("*.py")} == sources
    assert not (context.folder / "app" / "training").exists()


def test_every_bundle_has_the_weights_that_its_card_vouches_for(context: Context) -> None:
    models = context.folder / "models"
    assert {path.name for path in models.iterdir()} == set(context.packed)
    assert {SHIPPED, "hu_threshold"} <= set(context.packed)
    for folder in models.iterdir():
        card = load_card(folder)
        digest = hashlib.sha256(card.weights_file.read_bytes()).hexdigest()
        assert digest == card.weights_sha256
    assert all(line.split(":")[0] not in context.packed for line in context.left_out)


def test_the_manifests_name_version_command_and_models(context: Context) -> None:
    app = json.loads((context.folder / "map" / "app.json").read_text())
    package = json.loads((context.folder / "map" / "pkg.json").read_text())
    asked = yaml.safe_load((ROOT / "app.yaml").read_text())

    assert app["version"] == package["version"] == version()
    assert json.loads(app["command"]) == ["python3", "/opt/holoscan/app"]
    assert app["sdk"] == "monai-deploy"
    assert app["sdkVersion"] == importlib.metadata.version("monai-deploy-app-sdk")
    assert app["input"]["formats"] == ["DICOM"]
    assert app["output"]["formats"] == ["DICOM SEG", "DICOM SR", "JSON"]
    assert package["resources"] == asked["resources"]
    assert package["models"] == {name: f"/opt/holoscan/models/{name}" for name in context.packed}
    assert yaml.safe_load((context.folder / "app.config").read_text()) == asked


def test_the_requirements_are_exact_closed_and_of_the_lock(context: Context) -> None:
    text = (context.folder / "pip" / "requirements.txt").read_text()
    assert text.endswith("\n")
    pins = dict(line.split("==") for line in text.splitlines())
    assert pins.items() <= locked().items()
    assert {"torch", "monai", "monai-deploy-app-sdk", "holoscan-cu13", "holoscan-cli"} <= set(pins)
    assert not {"mlflow-skinny", "transformers", "pytest", "playwright", "ruff"} & set(pins)
    for name in pins:  # what one of them needs is another of them
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of torch's CUDA build, or of another Python
        for need in map(Requirement, lines):
            if need.marker is None or need.marker.evaluate(IMAGE | {"extra": ""}):
                assert canonicalize_name(need.name) in pins, f"{name} needs {need}"


def test_the_packed_application_runs_as_the_map_runs_it(context: Context, tmp_path: Path) -> None:
    affine = centred_grid(SHAPE_ZYX, (2.5, 1.0, 1.0))
    array = render([Ball((0, 0, 0), 12.0, 120)], SHAPE_ZYX, affine)
    work = tmp_path / "var-holoscan"
    write_ct_series(work / "input", array, affine, body_part="PHANTOM")
    moved = {  # the MAP's fixed places, here
        "/opt/holoscan/app": str(context.folder / "app"),
        "/opt/holoscan/models": str(context.folder / "models"),
        "/var/holoscan": str(work),
        "/var/holoscan/app.yaml": str(work / "app.yaml"),
    }
    shutil.copyfile(context.folder / "app.config", work / "app.yaml")  # holoscan reads it too
    manifest = json.loads((context.folder / "map" / "app.json").read_text())
    own = {name: moved.get(value, value) for name, value in manifest["environment"].items()}
    own |= {  # absolute, as the Dockerfile and `tools` set them
        "HOLOSCAN_INPUT_PATH": str(work / "input"),
        "HOLOSCAN_OUTPUT_PATH": str(work / "output"),
    }
    foreign = ("RADLOOP_", "PYTHON", "HOLOSCAN_")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}

    _, folder = json.loads(manifest["command"])
    done = subprocess.run(
        [sys.executable, moved[folder]],
        cwd=work,
        env=clean | own,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [entry["bundle"] for entry in result["results"]] == ["hu_threshold"]
    # 4/3 pi 12^3 = 7.24 mL
    assert result["results"][0]["findings"][0]["volume_ml"] == pytest.approx(7.24, rel=0.02)
    written = [pydicom.dcmread(path) for path in (work / "output").glob("*.dcm")]
    assert sorted(dataset.Modality for dataset in written) == ["SEG", "SR"]
    # It was the packed code that ran, not this checkout's.
    compiled = {path.name.split(".")[0] for path in (context.folder / "app").rglob("*.pyc")}
    assert {"graph", "oneshot", "bundle", "seg", "sr"} <= compiled


def test_a_second_run_replaces_its_own_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADLOOP_STATE_DIR", str(tmp_path / "state"))
    out = tmp_path / "context"
    first = write_context(out, tag="hospital/radloop:1")
    (out / "stale").write_text("")

    again = write_context(out, tag="hospital/radloop:1")

    assert again == first and not (out / "stale").exists()
    assert "hospital/radloop:1" in (out / "Dockerfile").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["context"]

    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.txt").write_text("years of work")
    with pytest.raises(ContextUnwritable, match="it holds other things"):
        write_context(other)
    with pytest.raises(ContextUnwritable, match="it is a file"):
        write_context(other / "chapter1.txt")
    assert (other / "chapter1.txt").read_text() == "years of work"


def test_changed_weights_are_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(TEST_BUNDLES, tmp_path / "bundles")
    with (tmp_path / "bundles" / "hu_threshold" / "models" / "model.pt").open("ab") as weights:
        weights.write(b"\0")
    monkeypatch.setenv("RADLOOP_BUNDLES", str(tmp_path / "bundles"))

    with pytest.raises(WeightsChanged, match="hu_threshold"):
        write_context(tmp_path / "context")
    assert [path.name for path in tmp_path.iterdir()] == ["bundles"]


def test_missing_weights_are_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(TEST_BUNDLES, tmp_path / "bundles")
    (tmp_path / "bundles" / "hu_threshold" / "models" / "model.pt").unlink()
    monkeypatch.setenv("RADLOOP_BUNDLES", str(tmp_path / "bundles"))

    context = write_context(tmp_path / "context")

    assert "hu_threshold" not in context.packed and SHIPPED in context.packed
    assert any("hu_threshold: RL-0402" in line for line in context.left_out)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that say what the image holds, to be spoilt."""
    for name in ("app.yaml", "constraints.txt", "pyproject.toml", "LICENSE"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def test_a_package_that_the_lock_lacks_is_named(checkout: Path) -> None:
    lock = checkout / "constraints.txt"
    lock.write_text(re.sub(r"(?m)^networkx==.*\n", "", lock.read_text()))  # torch needs it

    with pytest.raises(Unpinned, match="does not pin networkx,"):
        requirements(checkout)


def test_two_versions_are_refused(checkout: Path) -> None:
    assert project_version(checkout) == version()
    config = checkout / "app.yaml"
    config.write_text(config.read_text().replace(f'"{version()}"', "0.9"))

    with pytest.raises(VersionsDiffer, match=r"app\.yaml says version 0\.9"):
        project_version(checkout)


def test_an_installed_wheel_is_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(NoCheckout, match=r"lacks app\.yaml, constraints\.txt"):
        write_context(tmp_path / "context", root=tmp_path)


@pytest.mark.parametrize(
    "tag", ["radloop", "Radloop:1", "rad loop:1", ":1", "radloop:", "h:5000/r:1"]
)
def test_a_tag_that_docker_would_not_take_is_refused(tmp_path: Path, tag: str) -> None:
    with pytest.raises(TagInvalid):
        write_context(tmp_path / "context", tag=tag)


def test_the_command_says_that_nothing_was_built_and_what_comes_next(tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RADLOOP_")}
    done = subprocess.run(
        [sys.executable, "-m", "app.cli.main", "package", "-o", "a context", "--tag", "h.de/r:1"],
        cwd=tmp_path,
        env={**clean, "PATH": "/nowhere", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert f"packed: {SHIPPED}" in done.stdout
    assert "build context written to a context, not built: that needs docker" in done.stdout
    command = done.stdout.strip().splitlines()[-1]
    assert command.startswith("docker buildx build ") and "--tag h.de/r:1 " in command
    assert command.endswith(" 'a context'")
    assert (tmp_path / "a context" / "map" / "pkg.json").is_file()
