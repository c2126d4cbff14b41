"""pyproject.toml and constraints.txt say the same, and the environment is what they say."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent


def locked() -> dict[str, str]:
    """Name → version of every line of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    return {
        canonicalize_name(pin.name): str(next(iter(pin.specifier)).version)
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }


def asked() -> list[Requirement]:
    """Every requirement of the project and its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    return [need for need in map(Requirement, lines) if need.name != project["name"]]


def test_every_requirement_is_locked_to_a_version_it_allows():
    pins = locked()
    for need in asked():
        pin = pins.get(canonicalize_name(need.name))
        assert pin, f"{need.name} is not in constraints.txt: `make lock`"
        assert need.specifier.contains(pin), f"{need} is locked to {pin}: `make lock`"


def test_what_is_installed_is_what_is_locked():
    wrong = []
    for name, pin in locked().items():
        try:
            found = version(name)
        except PackageNotFoundError:
            continue  # an extra or another platform's
        if Version(found).public != Version(pin).public:
            wrong.append(f"{name} {found}, locked {pin}")
    assert not wrong, f"{wrong}: `make setup` again"


def test_the_lock_names_no_index():
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text and "--" not in text and "+" not in text
