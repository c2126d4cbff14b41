"""`radloop doctor`: what is there, what is missing, and how to get it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.exit_codes import Exit

if TYPE_CHECKING:
    from app.doctor import Check
    from app.settings import Settings


def doctor(
    config: Annotated[
        Path | None,
        typer.Option(help="Settings file; instead of RADLOOP_CONFIG or /etc/radloop/radloop.yaml."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Check this machine and the settings: what is missing, and how to get it.

    Asks configured destinations who they are; changes nothing, imports no network.

    Exit codes: 0 everything required is there (a warning is no error); 1 something
    required is missing; 2 wrong usage.

    Example: RADLOOP_ORTHANC_URL=http://127.0.0.1:8042 radloop doctor
    """
    from app.doctor import examine
    from app.settings import CONFIG_VARIABLE

    if config is not None:
        os.environ[CONFIG_VARIABLE] = str(config)
    checks, settings = examine()
    if as_json:
        _print_json(checks, settings)
    else:
        _print_tables(checks, settings)
    raise typer.Exit(Exit.FAILED if missing(checks) else Exit.OK)


def missing(checks: list[Check]) -> list[Check]:
    """Required checks that are not met."""
    return [check for check in checks if check.required and check.status == "missing"]


def _print_json(checks: list[Check], settings: Settings | None) -> None:
    import json
    from dataclasses import asdict

    content = {
        "schema": 1,
        "ok": not missing(checks),
        "checks": [asdict(check) for check in checks],
        "settings": settings.model_dump(mode="json") if settings else None,  # secrets as stars
    }
    typer.echo(json.dumps(content, indent=1))


def _print_tables(checks: list[Check], settings: Settings | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    signs = {"ok": "[green]ok[/]", "missing": "[red]missing[/]", "warning": "[yellow]warning[/]"}
    console = Console()
    table = Table("", "what", "found, and how to get what is not")
    for check in checks:
        text = escape(check.found)
        if check.status != "ok":
            text += f"\n[dim]{escape(check.purpose)}[/]\n→ {escape(check.remedy)}"
        table.add_row(signs[check.status], escape(check.name), text)
    console.print(table)
    if settings is not None:
        values = Table("setting", "value")
        for name, value in settings.model_dump(mode="json").items():
            values.add_row(name, escape("" if value is None else str(value)))
        console.print(values)
    wanting = missing(checks)
    if wanting:
        console.print(f"[red]{len(wanting)} required thing(s) missing:[/]")
        for check in wanting:
            console.print(escape(f"  {check.name}: {check.remedy}"))
    else:
        console.print("[green]Everything required is there.[/]")
