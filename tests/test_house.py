"""House rules that a reviewer would otherwise have to remember."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("app", "operators", "training", "bundles", "benchmarks", "tests")
MAX_LINES = 500


def test_no_file_of_ours_is_longer_than_500_lines() -> None:
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    long = {
        str(file.relative_to(ROOT)): lines
        for file in files
        if (lines := len(file.read_text().splitlines())) > MAX_LINES
    }
    assert not long


def test_only_the_worker_s_rooms_import_torch_or_monai() -> None:
    """A whole-file search: at the head of a module or inside a function of `app`, both count."""
    # The import command tries a bundle out, in its own short-lived process.
    allowed = {ROOT / "operators" / "models", ROOT / "app" / "bundles" / "install.py"}
    guilty = [
        str(file.relative_to(ROOT))
        for room in ("app", "operators")
        for file in (ROOT / room).rglob("*.py")
        if not any(file.is_relative_to(home) for home in allowed)
        for line in file.read_text().splitlines()
        if line.strip().startswith(("import torch", "from torch", "import monai", "from monai"))
        and "monai.deploy" not in line
    ]
    assert not guilty
