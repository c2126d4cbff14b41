"""`radloop --help` and shell completion stay light: a fact of sys.modules, not of a clock."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "monai",
    "holoscan",
    "mlflow",
    "transformers",
    "highdicom",
    "pynetdicom",
    "fastapi",
    "anthropic",
)
REPORT = f"""
import atexit, sys
def report():
    print("LOADED", *sorted(m for m in {HEAVY!r} if m in sys.modules), file=sys.stderr)
atexit.register(report)
from app.cli.main import main
sys.argv = ["radloop", *sys.argv[1:]]
main()
"""


def loaded_by(*arguments: str, **environment: str) -> list[str]:
    """Heavy modules that are loaded when the command ends."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stderr.splitlines() if line.startswith("LOADED"))
    return line.split()[1:]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["serve", "--help"],
        ["demo", "--help"],
        ["doctor", "--help"],
        ["viewer", "--help"],
        ["package", "--help"],
        ["bundles", "--help"],
        ["train", "--help"],
        ["trace", "--help"],
        ["bundles", "list"],
        ["routes", "--help"],
        ["routes", "check"],
    ],
)
def test_help_loads_nothing_heavy(arguments):
    assert loaded_by(*arguments) == []


def test_completion_loads_nothing_heavy():
    loaded = loaded_by(_RADLOOP_COMPLETE="complete_bash", COMP_WORDS="radloop bun", COMP_CWORD="1")
    assert loaded == []


def test_the_report_sees_a_heavy_module():
    """The check can fail: `run` on a folder does load them."""
    done = subprocess.run(
        [sys.executable, "-c", "import operators.core, sys; print('holoscan' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "True"
