"""`monai-deploy package` up to its last step, with the build context kept.

holoscan-cli 4.2.0 writes Dockerfile, tools, application, models and manifests
into a temporary folder, hands that to `docker buildx` and deletes it. Here its
last step is replaced: the folder is copied out and nothing is built. No docker
and no network are needed; an image was never built from it by us.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import logging
import re
import shlex
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from app.packaging.refusals import (
    ContextUnwritable,
    NoCheckout,
    PackagerFailed,
    TagInvalid,
    VersionsDiffer,
)
from app.packaging.stage import stage

ROOT = Path(__file__).resolve().parents[2]
FILES = ("app.yaml", "constraints.txt", "pyproject.toml", "LICENSE")
PLATFORM = "x86_64"
# What the packager would download for this version of holoscan: which image to build on.
BASE_IMAGE = "nvcr.io/nvidia/cuda:13.0.0-runtime-ubuntu24.04"
# The Dockerfile gives the folders to a user of this name, so it can't be another.
USER, UID, GID = "holoscan", 1000, 1000
MARK = Path("map", "pkg.json")
# What docker and the packager both take; the packager knows no registry with a port.
TAG = re.compile(r"[a-z0-9]+([._/-]+[a-z0-9]+)*:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Context:
    """A build context that was written.

    Attributes
    ----------
    folder : Path
        Where; `docker buildx build` takes it.
    tag : str
        Image name and tag, as docker will know it.
    packed, left_out : tuple of str
        Bundles in it; bundles not in it, with the reason.
    """

    folder: Path
    tag: str
    packed: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def next_command(self) -> str:
        """What builds the image, on a machine with docker."""
        return (
            f"docker buildx build --load --platform linux/amd64 --tag {self.tag} "
            f"--build-arg UNAME={USER} --build-arg UID={UID} --build-arg GID={GID} "
            f"--build-arg GPU_TYPE=dgpu {shlex.quote(str(self.folder))}"
        )


def project_version(root: Path = ROOT) -> str:
    """Version of the checkout.

    Raises
    ------
    NoCheckout
        The files that a package is made of are not there.
    VersionsDiffer
        app.yaml says another.
    """
    if missing := [name for name in FILES if not (root / name).is_file()]:
        raise NoCheckout(root, missing)
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    application = yaml.safe_load((root / "app.yaml").read_text(encoding="utf-8"))["application"]
    if application["version"] != project["version"]:
        raise VersionsDiffer(str(application["version"]), project["version"])
    return str(project["version"])


def write_context(output: Path, *, tag: str | None = None, root: Path = ROOT) -> Context:
    """Write the MAP's build context.

    Parameters
    ----------
    output : Path
        Replaced as a whole by a rename, if it is one of ours or empty.
    tag : str or None
        ``name:tag`` of the image; None is ``radloop:VERSION``.
    root : Path
        Checkout of radloop.

    Raises
    ------
    PackageRefusal
        Something is missing, or the folder is not ours; nothing is written then.
    ModelRefusal
        A bundle's card or weights are wrong.
    """
    version = project_version(root)
    tag = tag or f"radloop:{version}"
    if not TAG.fullmatch(tag):
        raise TagInvalid(tag)
    _check_output(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".radloop-map-") as scratch:
            folder = Path(scratch)
            (folder / "stage").mkdir()
            staged = stage(root, folder / "stage")
            _package(staged.application, staged.models, root / "app.yaml", tag, folder)
            if output.exists():
                output.rename(folder / "replaced")
            (folder / "context").rename(output)
    except OSError as error:
        raise ContextUnwritable(output, error.strerror or type(error).__name__) from error
    return Context(output, tag, staged.packed, staged.left_out)


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise ContextUnwritable(output, "it is a file")
    if output.is_dir() and any(output.iterdir()) and not (output / MARK).is_file():
        raise ContextUnwritable(output, "it holds other things")


def _package(application: Path, models: Path, config: Path, tag: str, folder: Path) -> None:
    from holoscan_cli.__main__ import parse_args
    from holoscan_cli.packager import packager

    sources = folder / "artifacts.json"
    sources.write_text(json.dumps(_artifacts()), encoding="utf-8")
    (folder / "cache").mkdir()
    given = {
        "--config": config,
        "--tag": tag,
        "--platform": PLATFORM,
        "--models": models,
        "--source": sources,
        "--sdk": "monai-deploy",
        "--username": USER,
        "--uid": UID,
        "--gid": GID,
        "--build-cache": folder / "cache",
    }
    options = [str(part) for pair in given.items() for part in pair]
    said = io.StringIO()
    try:
        # Its own lines end in "Succeeded" and "Docker Tag", which would not be true.
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), _quiet():
            arguments = parse_args(["monai-deploy", "package", str(application), *options])
            with _keeping(folder / "context"):
                packager._package_application(arguments)
    except SystemExit as end:
        raise PackagerFailed((said.getvalue().strip().splitlines() or ["no reason"])[-1]) from end
    except OSError:
        raise
    except Exception as error:
        raise PackagerFailed(f"{type(error).__name__}: {error}") from error
    if not (folder / "context" / "Dockerfile").is_file():
        raise PackagerFailed("it wrote no Dockerfile")


@contextlib.contextmanager
def _keeping(target: Path) -> Iterator[None]:
    """Replace the step that calls docker by one that keeps the folder."""
    from holoscan_cli.packager.container_builder import BuilderBase
    from holoscan_cli.packager.parameters import PlatformBuildResults

    def keep(builder: Any, dockerfile: str, platform: Any) -> Any:
        del dockerfile  # it lies in the folder
        shutil.copytree(builder._temp_dir, target)
        result = PlatformBuildResults(platform)
        result.succeeded = True
        return result

    builders: Any = BuilderBase
    original = builders._build_internal
    builders._build_internal = keep
    try:
        yield
    finally:
        builders._build_internal = original


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the packager's log lines."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _artifacts() -> dict[str, Any]:
    """The packager's list of sources, for the installed version of holoscan only."""
    version = importlib.metadata.version("holoscan-cu13")
    return {
        version: {
            "holoscan": {
                "debian-version": version,
                "wheel-version": version,
                "base-images": {"dgpu": BASE_IMAGE},
                "build-images": {"dgpu": {}, "igpu": {}, "cpu": {}},
            }
        }
    }
