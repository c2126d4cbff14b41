"""`radloop package`: the build context of a MONAI Application Package."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def package(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the build context; replaced.")
    ] = Path("var/map"),
    tag: Annotated[
        str | None,
        typer.Option(help="NAME:TAG of the image. Default: radloop:VERSION.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Write the build context of the MONAI Application Package (MAP); builds no image.

    Runs `monai-deploy package` up to the step that needs docker: Dockerfile, application,
    pinned requirements, manifests, and every bundle whose weights are right. Needs a
    checkout of radloop, but neither docker nor a network.

    Exit codes: 0 written; 1 refused, reason on stderr; 2 wrong usage; 130 interrupted.

    Example: radloop package -o map-context --tag hospital/radloop:0.1.0
    """
    from app.packaging.context import write_context

    context = write_context(output, tag=tag)
    if as_json:
        content = asdict(context) | {"folder": str(context.folder), "next": context.next_command}
        typer.echo(json.dumps(content, indent=1))
        return
    for name in context.packed:
        typer.echo(f"packed: {name}")
    for line in context.left_out:
        typer.echo(f"left out: {line}")
    typer.echo(f"build context written to {context.folder}, not built: that needs docker. Next:")
    typer.echo(context.next_command)
