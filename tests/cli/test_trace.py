"""`radloop run --rtstruct`, and `radloop trace` on all that a run wrote."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pydicom
import yaml

from tests.series import Ball, centred_grid, render, write_ct_series

SHIPPED = Path(__file__).parent.parent / "bundles" / "hu_threshold"
SHAPE_ZYX = (20, 48, 40)


def radloop(*arguments: str | Path, bundles: Path) -> subprocess.CompletedProcess[str]:
    """The command's entry point, with one bundle beside the shipped ones."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "RADLOOP_BUNDLES": str(bundles), "COLUMNS": "160"},
        check=False,
    )


def test_a_bundle_that_asks_for_contours_gets_them_and_every_file_is_traced(
    tmp_path: Path,
) -> None:
    affine = centred_grid(SHAPE_ZYX, (2.5, 1.0, 1.0))
    array = render([Ball((0, 0, 0), 12.0, 120)], SHAPE_ZYX, affine)
    sources = write_ct_series(tmp_path / "in", array, affine, body_part="PHANTOM")
    bundle = tmp_path / "bundles" / "hu_threshold"
    shutil.copytree(SHIPPED, bundle)
    card = yaml.safe_load((bundle / "card.yaml").read_text())
    (bundle / "card.yaml").write_text(yaml.safe_dump({**card, "outputs": ["RTSTRUCT"]}))
    out = tmp_path / "out"

    done = radloop("run", tmp_path / "in", "-o", out, "--rtstruct", bundles=bundle.parent)

    assert done.returncode == 0, done.stderr
    kinds = {}
    for path in sorted(out.glob("*.dcm")):
        traced = radloop("trace", path, "--json", bundles=bundle.parent)
        assert traced.returncode == 0, traced.stderr
        (found,) = json.loads(traced.stdout)
        kinds[found["kind"]] = found
        assert found["model"]["weights_sha256"] == card["weights"]["sha256"]
        assert len(found["model"]["config_sha256"]) == 64
        assert sorted(found["source_sop_uids"]) == sorted(
            pydicom.dcmread(source).SOPInstanceUID for source in sources
        )
    assert sorted(kinds) == ["RTSTRUCT", "SEG", "SR"]
    assert len({tuple(found["tracking_uids"]) for found in kinds.values()}) == 1

    table = radloop("trace", out / "result.json", bundles=bundle.parent).stdout
    for found in kinds.values():
        assert found["sop_instance_uid"] in table
    assert f"weights sha256  {card['weights']['sha256']}" in table
    assert "and 15 more: --json lists all" in table

    refused = radloop("trace", sources[0], bundles=bundle.parent)
    assert refused.returncode == 1
    assert "RL-0571" in refused.stderr and "Traceback" not in refused.stderr
