"""`radloop bundles export`: let a faster runtime than torch run a bundle on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ExportFormat(StrEnum):
    """What `--format` takes."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    TORCH = "torch"


class ExportType(StrEnum):
    """What `--dtype` takes."""

    FP32 = "fp32"
    BF16 = "bf16"


def export(
    name: Annotated[
        str, typer.Argument(help="Name as in `radloop bundles list`.", metavar="BUNDLE")
    ],
    format_: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="onnx for ONNX Runtime, openvino for OpenVINO; torch only with bf16 (autocast).",
        ),
    ] = ExportFormat.OPENVINO,
    dtype: Annotated[
        ExportType, typer.Option(help="Number format of the products; bf16 needs --check.")
    ] = ExportType.FP32,
    check: Annotated[
        Path | None,
        typer.Option(
            help="A study (folder of DICOM files) on which results are compared with torch's.",
            exists=True,
            file_okay=False,
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write there instead of state_dir/exports, where radloop looks for it.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Write a bundle's network for a faster runtime, and compare its answers with torch's.

    Only what agrees with torch is kept. Then the runtimes are timed once on this machine, and
    the fastest serves the bundle from the next start on. Exit code 1 where it is refused.

    Example: radloop bundles export head_neck_oar_ct --format openvino
    """
    from app.bundle_folders import bundle_folders, exported_bundles
    from app.bundles.export import export_bundle
    from app.cli.progress import named_stages
    from app.settings import load_settings
    from operators.models.card import BundleUnknown, load_cards
    from operators.models.champion import CHAMPIONS, read_champion
    from operators.models.runtimes.interface import Precision

    cards = load_cards(bundle_folders())
    if name not in cards:
        raise BundleUnknown(name, sorted(cards))
    precision: Precision = "bfloat16" if dtype is ExportType.BF16 else "float32"
    with named_stages(quiet=as_json) as progress:
        done = export_bundle(
            cards[name],
            read_champion(load_settings().state_dir / CHAMPIONS, name),
            format_.value,
            precision,
            output or exported_bundles(),
            check=check,
            progress=progress,
        )
    checks = done.record.checks
    if as_json:
        found = {"folder": str(done.folder), "runtime": done.runtime, "checks": asdict(checks)}
        typer.echo(json.dumps(found, indent=1))
        return
    typer.echo(f"exported: {name} as {format_.value} ({dtype.value}) in {done.folder}")
    dice = checks.phantom_dice
    phantom = "nothing found on the phantom" if dice is None else f"Dice on the phantom {dice:.5f}"
    typer.echo(
        f"against torch: largest difference {checks.max_abs_difference:.2g} of {checks.largest:.3g}"
        f", {phantom}"
    )
    for structure, dice in (checks.real or {}).items():
        typer.echo(f"Dice on real images, {structure}: {dice:.4f}")
    typer.echo(f"serving on this machine: {done.runtime}")
