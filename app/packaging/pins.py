"""What the image installs: the lock's exact versions of all that serving needs.

The packager's Dockerfile runs `pip install -r requirements.txt`, then installs
`monai-deploy-app-sdk` once more, which takes any version of what it needs:
everything that could come must therefore be pinned here. Extras (training,
tests) stay out: mlflow and transformers double the time of `import monai`.
"""

from __future__ import annotations

import importlib.metadata
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.packaging.refusals import Unpinned

# The base image's Ubuntu 24.04, for which the packager's Dockerfile is written.
IMAGE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.12.3",
    "python_version": "3.12",
    "sys_platform": "linux",
}
# What torch's build on PyPI brings along; an environment with a CPU build has none of it.
CUDA_BUILD = ("nvidia-", "cuda-", "triton")


def requirements(root: Path) -> list[str]:
    """Lines of the image's `requirements.txt`.

    Parameters
    ----------
    root : Path
        Checkout with `pyproject.toml` and `constraints.txt`.

    Returns
    -------
    list of str
        ``name==version``, sorted by name.

    Raises
    ------
    Unpinned
        The lock lacks a package that is needed.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = read_lock(root / "constraints.txt")
    needed = closure(Requirement(line) for line in project["dependencies"])
    if missing := sorted(needed - locked.keys()):
        raise Unpinned(missing)
    cuda = {name for name in locked if name.startswith(CUDA_BUILD[:2]) or name == CUDA_BUILD[2]}
    return [f"{name}=={locked[name]}" for name in sorted(needed | cuda)]


def read_lock(file: Path) -> dict[str, str]:
    """Canonical name → version of every line that applies to the image."""
    lines = file.read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(dict(IMAGE))
    }


def closure(roots: Iterable[Requirement]) -> set[str]:
    """Canonical names of some requirements and of all that they need, in the image.

    What is not installed here is a name without needs of its own.
    """
    waiting = [(need, extra) for need in roots for extra in ("", *need.extras)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        need, extra = waiting.pop()
        name = str(canonicalize_name(need.name))
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for further in map(Requirement, lines):
            if further.marker is None or further.marker.evaluate(IMAGE | {"extra": extra}):
                waiting += [(further, wanted) for wanted in ("", *further.extras)]
    return {name for name, _ in seen}
