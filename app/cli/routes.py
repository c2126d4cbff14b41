"""`radloop routes`: what the routes file says, asked before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.exit_codes import Exit

if TYPE_CHECKING:
    from app.routes.explain import StudyExplained
    from app.routes.model import Routes, Site

routes = typer.Typer(
    no_args_is_help=True, help="Which studies go to which bundles and destinations, and why."
)

RoutesFile = Annotated[
    Path | None,
    typer.Option(
        "--routes", help="Routes file; instead of the setting routes.", show_default=False
    ),
]


@routes.command("check")
def check(
    file: Annotated[
        Path | None,
        typer.Argument(help="Routes file; instead of the setting routes.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Read a routes file as `radloop serve` would: every mistake, each with its line.

    Names of bundles and destinations are checked against what is installed and configured
    here. Exit codes: 0 the file can be used; 1 it can't, reasons on stderr; 2 wrong usage.

    Example: radloop routes check /etc/radloop/routes.yaml
    """
    from app.routes.load import RoutesInvalid, load_routes
    from app.routes.site import read_site
    from app.settings import load_settings

    settings = load_settings()
    site, _ = read_site(settings)
    file = file or settings.routes
    try:
        loaded = load_routes(file, site)
    except RoutesInvalid as refusal:
        if not as_json and len(refusal.problems) == 1:
            raise
        if as_json:
            problems = [
                {"line": problem.line, "what": problem.what} for problem in refusal.problems
            ]
            typer.echo(json.dumps({"file": str(file), "usable": False, "problems": problems}))
        else:
            for problem in refusal.problems:
                typer.secho(f"{file}:{problem.line}: {problem.what}", err=True, fg="red")
            typer.secho(f"{refusal.code}: {len(refusal.problems)} problems", err=True, fg="red")
        raise typer.Exit(Exit.FAILED) from None
    if as_json:
        typer.echo(
            json.dumps({"file": str(file) if file else None, "usable": True, "problems": []})
        )
        return
    typer.echo(f"{file or 'no file: everything by the cards'}: can be used")
    for line in _listed(loaded, site):
        typer.echo(line)


def _listed(loaded: Routes, site: Site) -> list[str]:
    lines = []
    for route in loaded.routes:
        goes = (
            "all destinations" if route.deliver is None else ", ".join(route.deliver) or "nowhere"
        )
        lines.append(
            f"  {route.id}: {', '.join(route.bundles)}"
            + (
                ""
                if route.bundles == ("none",)
                else f"; {route.priority}; after {route.quiet_seconds or site.quiet_seconds:g} s; "
                f"to {goes}"
            )
        )
    return lines


@routes.command("explain")
def explain(
    study_dir: Annotated[
        Path, typer.Argument(help="Folder of DICOM files, read recursively.", show_default=False)
    ],
    calling_aet: Annotated[
        str, typer.Option(help="As if this AE title had sent it.", show_default=False)
    ] = "",
    called_aet: Annotated[
        str, typer.Option(help="As if it had called this AE title.", show_default=False)
    ] = "",
    source: Annotated[
        str, typer.Option(help="As if it had come by this door: listener or orthanc.")
    ] = "listener",
    routes_file: RoutesFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Say for every series and route which condition matched, and which failed on what value.

    Then what the bundles' cards say to what the routes let through, and what the study's
    plan would be. Runs nothing. Values of headers are shown, patients are not.

    Exit codes: 0 something would run; 1 routes or settings are wrong; 2 wrong usage;
    3 nothing would run.

    Example: radloop routes explain /media/cd/DICOM --calling-aet CT_ER
    """
    from app.routes.explain import explain_folder
    from app.routes.load import load_routes
    from app.routes.model import SOURCES
    from app.routes.site import read_site
    from app.settings import load_settings

    if source not in SOURCES:
        raise typer.BadParameter(f"one of {', '.join(SOURCES)}", param_hint="--source")
    if not study_dir.is_dir() or not any(path.is_file() for path in study_dir.rglob("*")):
        said = f"{study_dir} is no folder with files. Give the folder that holds the DICOM files."
        typer.secho(said, err=True, fg=typer.colors.RED)
        raise typer.Exit(Exit.USAGE)
    settings = load_settings()
    site, cards = read_site(settings)
    loaded = load_routes(routes_file or settings.routes, site)
    accepts = {name: card.accepts for name, card in cards.items() if not card.prompted}
    studies, refused = explain_folder(
        study_dir,
        loaded,
        site,
        accepts,
        calling_aet=calling_aet,
        called_aet=called_aet,
        source=source,
    )
    if as_json:
        told = {"file": str(loaded.file) if loaded.file else None, "refused": refused}
        typer.echo(json.dumps(told | {"studies": [study.as_dict() for study in studies]}, indent=1))
    else:
        _print(studies, refused, loaded)
    runs = any(end.runs for study in studies for series in study.series for end in series.ends)
    raise typer.Exit(Exit.OK if runs else Exit.NO_MATCH)


def _print(studies: list[StudyExplained], refused: list[dict[str, str]], loaded: Routes) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)

    def line(text: str) -> None:
        console.print(text, soft_wrap=True)

    line(f"routes: {escape(str(loaded.file or 'no file, everything by the cards'))}")
    for study in studies:
        line(f"[bold]study {study.study_instance_uid}[/]")
        for series in study.series:
            line(
                f"  [bold]series {series.series_instance_uid}[/] "
                f"{escape(series.modality)}, {series.instances} images"
            )
            for judged in series.routes:
                said = {"decides": "[green]decides[/]", "no": "[red]no[/]"}.get(
                    judged.outcome, judged.outcome
                )
                where = f" (line {judged.line})" if judged.line else ""
                line(f"    route {judged.id}{where}: {said}")
                for answer in judged.answers:
                    mark = "[green]matched[/]" if answer.holds else "[red]failed[/] "
                    line(
                        f"      {mark} {answer.condition}: {escape(answer.wanted)} "
                        f"[dim]found[/] {escape(answer.found)}"
                    )
            for end in series.ends:
                colour = "green" if end.runs else "yellow"
                line(f"    [{colour}]{end.bundle}[/]: {escape(end.says)}")
        _print_plan(line, study.plan)
    for entry in refused:
        line(f"[red]refused[/] {escape(entry['what'])}: {escape(entry['reason'])}")


def _print_plan(line: Any, plan: Any) -> None:
    if not plan.runs:
        line("  plan: no route wants this study")
        return
    to = ", ".join(plan.destinations) or "the output folder only"
    line(
        f"  plan: {plan.priority}; complete after {plan.quiet_seconds:g} quiet seconds; "
        f"deliver to {to}"
    )
