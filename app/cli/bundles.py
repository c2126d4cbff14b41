"""`radloop bundles`: what is installed, and what it is for."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.exit_codes import Exit

bundles = typer.Typer(
    no_args_is_help=True, help="Installed MONAI bundles: what they accept and find."
)


@bundles.command("list")
def list_bundles() -> None:
    """Every installed bundle, with its licence and whether its weights are right.

    Example: radloop bundles list
    """
    from rich.console import Console
    from rich.table import Column, Table

    from app.bundle_folders import bundle_folders
    from operators.errors import ModelRefusal
    from operators.models.card import load_cards

    name_column = Column("bundle", no_wrap=True)  # it has to be copied
    table = Table(name_column, "version", "title", "segments", "licence", "weights")
    wrong = False
    for name, card in load_cards(bundle_folders()).items():
        try:
            card.verify_weights()
            state = "[green]right[/]"
        except ModelRefusal as refusal:
            state, wrong = f"[red]wrong: {refusal.code}[/]", True
        table.add_row(name, card.version, card.title, str(len(card.segments)), card.licence, state)
    Console().print(table)
    if wrong:
        typer.echo("Weights marked red are missing or changed: `radloop bundles show NAME`.")
        raise typer.Exit(Exit.FAILED)


@bundles.command("show")
def show_bundle(
    name: Annotated[str, typer.Argument(help="Name as in `radloop bundles list`.")],
) -> None:
    """One bundle: intended use, limits, labels, weights.

    Example: radloop bundles show head_neck_oar_ct
    """
    from rich.console import Console
    from rich.table import Table

    from app.bundle_folders import bundle_folders
    from operators.models.card import BundleUnknown, load_cards

    cards = load_cards(bundle_folders())
    if name not in cards:
        raise BundleUnknown(name, sorted(cards))
    card = cards[name]
    console = Console()
    console.print(f"[bold]{card.title}[/] ({card.name} {card.version}, {card.manufacturer})")
    console.print(f"\n[bold]Intended use[/] {card.intended_use}")
    for limit in card.limits:
        console.print(f"[yellow]limit[/] {limit}")
    console.print(f"\n[bold]Accepts[/] {card.accepts.describe()}")
    console.print(f"[bold]Licence[/] {card.licence}")
    console.print(f"[bold]Weights[/] {card.weights_file.name}, sha256 {card.weights_sha256}")
    table = Table("number", "segment", "code")
    for segment in card.segments:
        side = f", {segment.laterality.meaning}" if segment.laterality else ""
        table.add_row(
            str(segment.number),
            segment.label,
            f"{segment.type.meaning}{side} ({segment.type.scheme} {segment.type.value})",
        )
    console.print(table)
    card.verify_weights()
