"""`radloop bundles verify`: does a bundle run here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.exit_codes import Exit

if TYPE_CHECKING:
    from operators.models.trial import Trial


def verify(
    name: Annotated[
        str | None,
        typer.Argument(help="An installed bundle; without it and --zoo: all.", show_default=False),
    ] = None,
    zoo: Annotated[
        Path | None,
        typer.Option(
            help="Checkout of the MONAI model zoo: its bundles, with random weights.",
            show_default=False,
        ),
    ] = None,
    bundle: Annotated[
        str | None, typer.Option(help="Of the zoo: only this one.", show_default=False)
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            help="File of what is done: a run that was stopped goes on from it.",
            show_default=False,
        ),
    ] = None,
    only_kept: Annotated[
        bool, typer.Option("--only-kept", help="Run nothing: print what --keep holds so far.")
    ] = False,
    seconds: Annotated[float, typer.Option(help="Longest time for one bundle.")] = 600.0,
    memory_mb: Annotated[float, typer.Option(help="Most memory for one bundle, MB.")] = 12000.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/zoo.md instead of a table.")
    ] = False,
) -> None:
    """Run bundles once on a small synthetic volume and say of each what came, or why not.

    Each runs in a process of its own, which is stopped at its limits. A bundle's config is code
    that runs here. Exit code 1 where one failed; "not here" (a package, a GPU, no analysis) is
    no failure.

    Example: radloop bundles verify --zoo model-zoo --markdown
    """
    from app.bundle_folders import ZOO_CARDS, bundle_folders
    from app.bundles.verify import (
        Limits,
        as_markdown,
        read_kept,
        zoo_bundles,
        zoo_commit,
    )
    from app.bundles.verify import as_json as in_json
    from app.bundles.verify import verify as verify_all
    from app.cli.progress import counted
    from operators.models.card import BundleUnknown, load_cards

    commit = None
    if zoo is not None:
        folders = zoo_bundles(zoo, bundle or name)
        commit = zoo_commit(zoo)
    else:
        cards = load_cards(bundle_folders())
        if name is not None and name not in cards:
            raise BundleUnknown(name, sorted(cards))
        folders = [card.folder for key, card in sorted(cards.items()) if name in (None, key)]
    untried: list[str] = []
    if only_kept:
        done = read_kept(keep) if keep else {}
        untried = [folder.name for folder in folders if folder.name not in done]
        folders = [folder for folder in folders if folder.name in done]
    with counted("bundles", quiet=as_json) as progress:
        trials = verify_all(folders, Limits(seconds, memory_mb), progress, keep, ZOO_CARDS)
    if as_json:
        typer.echo(in_json(trials, commit))
    elif markdown:
        typer.echo(as_markdown(trials, commit or "unknown", untried), nl=False)
    else:
        _print(trials)
    if any(trial.outcome == "failed" for trial in trials):
        raise typer.Exit(Exit.FAILED)


def _print(trials: Sequence[Trial]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    colours = {"ran": "green", "not here": "yellow", "failed": "red"}
    table = Table(Column("bundle", no_wrap=True), "version", "shape", "result", "detail", "s")
    for trial in trials:
        table.add_row(
            trial.bundle,
            trial.version,
            trial.shape,
            f"[{colours[trial.outcome]}]{trial.outcome}[/]",
            escape(trial.detail),
            f"{trial.seconds:.0f}",
        )
    Console().print(table)
