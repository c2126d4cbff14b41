"""What `radloop bundles list` and `show` say of a bundle: one mapping, for people and machines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from app.bundles.known import Known
    from operators.models.card import Card

COMMERCIAL_USE = {
    "yes": "commercial use allowed",
    "no": "no commercial use",
    "unclear": "whether commercial use is allowed is not clear",
}
HASH_STATES = {
    "published": "as its publisher says",
    "pinned": "unverified: pinned at the import, no publisher's hash vouches for them",
    "shipped": "as radloop's own card says",
    "unpinned": "not pinned: it will be at the first import",
}


def facts(known: Known) -> dict[str, Any]:
    """All but the labels, as `--json` gives it."""
    from app.bundles.known import hindrance

    card = known.card
    return {
        "bundle": card.name,
        "version": card.version,
        "title": card.title,
        "finds": _finds(card),
        "segments": len(card.segments),
        "licence": card.licence,
        "commercial_use": card.commercial_use,
        "runs_here": not hindrance(card),
        "why_not": hindrance(card) or None,
        "state": known.state,
        "weights": known.weights(),
        "weights_sha256": card.weights_sha256 or None,
        "hash_state": known.hash_state,
        "origin": card.origin,
    }


def details(known: Known) -> dict[str, Any]:
    """`facts`, and what else the card says."""
    card = known.card
    segments = [
        {
            "number": segment.number,
            "name": segment.name,
            "label": segment.label,
            "code": [segment.type.scheme, segment.type.value, segment.type.meaning],
            "laterality": segment.laterality.meaning if segment.laterality else None,
        }
        for segment in card.segments
    ]
    classes = [
        {"name": entry.name, "label": entry.label, "code": _code(entry.code)}
        for entry in card.run.classes
    ]
    return {
        **facts(known),
        "manufacturer": card.manufacturer,
        "accepts": card.accepts.describe(),
        "intended_use": card.intended_use,
        "limits": list(card.limits),
        "labels": segments,
        "classes": classes,
        "published": [vars(file) for file in _published(card)],
    }


def print_list(rows: Sequence[dict[str, Any]]) -> None:
    """One line a bundle, in 100 columns; below, why some can't run here."""
    from rich.console import Console
    from rich.table import Column, Table

    name = Column("bundle", no_wrap=True)  # it has to be copied
    licence = Column("licence", no_wrap=True, overflow="ellipsis", max_width=10)
    table = Table(
        *(name, "version", "finds", licence, "commerce", "runs", "state"),
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for row in rows:
        wrong = str(row["weights"]).startswith("wrong")
        state = row["weights"] if wrong else _short_state(row)
        colour = "red" if wrong else {"installed": "green"}.get(state, "dim")
        table.add_row(
            *(row["bundle"], row["version"], row["finds"], _short_licence(row["licence"])),
            row["commercial_use"],
            "yes" if row["runs_here"] else "[yellow]no[/]",
            f"[{colour}]{state}[/]",
        )
    console = Console()
    console.print(table)
    for row in rows:
        if not row["runs_here"]:
            console.print(f"[yellow]{row['bundle']}[/] can't run here. {row['why_not']}")


def print_details(known: Known) -> None:
    """One bundle, from what it is for to its codes."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    card, said = known.card, facts(known)
    console = Console(highlight=False)
    console.print(f"[bold]{card.title}[/] ({card.name} {card.version}, {card.manufacturer})")
    console.print(f"\n[bold]Intended use[/] {escape(card.intended_use)}")
    for limit in card.limits:
        console.print(f"[yellow]limit[/] {escape(limit)}")
    console.print(f"\n[bold]Accepts[/] {card.accepts.describe()}")
    console.print(f"[bold]Licence[/] {card.licence} ({COMMERCIAL_USE[card.commercial_use]})")
    console.print(f"[bold]Runs here[/] {'yes' if said['runs_here'] else 'no. ' + said['why_not']}")
    console.print(f"[bold]State[/] {known.state}")
    console.print(f"[bold]Origin[/] {escape(card.origin)}")
    pinned = f", sha256 {card.weights_sha256}" if card.weights_sha256 else ""
    weights = f"{card.weights_file.name}{pinned} ({HASH_STATES[known.hash_state]})"
    console.print(f"[bold]Weights[/] {weights}", soft_wrap=True)
    for file in _published(card):
        at = f" ({file.url})" if file.url else ""
        hashed = f"{file.path}, {file.hash_type} {file.hash_val}{at}"
        console.print(f"[bold]Published[/] {hashed}", soft_wrap=True)
    table = Table("number", "segment", "code")
    for segment in card.segments:
        side = f", {segment.laterality.meaning}" if segment.laterality else ""
        code = f"{segment.type.meaning}{side} ({segment.type.scheme} {segment.type.value})"
        table.add_row(str(segment.number), segment.label, code)
    for number, entry in enumerate(card.run.classes):
        code = (
            f"{entry.code.meaning} ({entry.code.scheme} {entry.code.value})" if entry.code else ""
        )
        table.add_row(str(number), entry.label, code)
    if table.row_count:
        console.print(table)


def warn_of_wrong(rows: Sequence[dict[str, Any]]) -> bool:
    """Say on stderr that weights are wrong; whether any are."""
    wrong = any(str(row["weights"]).startswith("wrong") for row in rows)
    if wrong:
        typer.echo(
            "Weights marked wrong are missing or changed: `radloop bundles show NAME`.", err=True
        )
    return wrong


def _finds(card: Card) -> str:
    if card.prompted:
        return "prompted"
    return (
        str(len(card.segments)) if card.segments else card.run.output.value * bool(card.run.classes)
    )


def _short_licence(licence: str) -> str:
    return re.split(r"[;(,]", licence.removeprefix("Weights: "))[0].strip()


def _short_state(row: dict[str, Any]) -> str:
    return "not here" if row["weights"] == "not here" else str(row["state"])


def _published(card: Card) -> tuple[Any, ...]:
    if card.published is None:
        return ()
    archive = () if card.published.archive is None else (card.published.archive,)
    return (*archive, *card.published.files)


def _code(code: Any) -> list[str] | None:
    return [code.scheme, code.value, code.meaning] if code else None
