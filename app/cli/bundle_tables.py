"""What `radloop bundles list` and `show` say of a bundle: one mapping, for people and machines."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from app.bundles.known import Known, State
    from operators.models.card import Card

COMMERCIAL_USE = {
    "yes": "commercial use allowed",
    "no": "no commercial use",
    "unclear": "whether commercial use is allowed is not clear",
}
WIDE, WIDE_ONLY = 100, frozenset({"version", "licence"})
LACKING = "weights not here"
RUNS = "nothing known is in the way (`radloop bundles verify` tries what is installed)"
HASH_STATES = {
    "published": "as its publisher says",
    "pinned": "unverified: pinned at the import, no publisher's hash vouches for them",
    "shipped": "as radloop's own card says",
    "unpinned": "not pinned: it will be at the first import",
}


def facts(known: Known) -> dict[str, Any]:
    """All but the labels, as `--json` gives it."""
    from app.bundles.known import hindrance

    card, weights = known.card, known.weights()
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
        "state": _state(known.state, weights.said),
        "weights": weights.said,
        "brought_by": weights.remedy or None,
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
    """One line a bundle, in 80 columns; with version and licence in 100, and into a pipe.

    Below, what brings weights that an installed bundle lacks, and why some can't run here.
    """
    from rich.console import Console
    from rich.table import Column, Table

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=WIDE)
    wide = console.width >= WIDE
    names = ("bundle", "version", "finds", "licence", "commerce", "state")
    table = Table(
        # No cell is folded: a name has to be copied, a line to be found by grep.
        *(
            Column(name, no_wrap=True, max_width=10 if name == "licence" else None)
            for name in names
            if wide or name not in WIDE_ONLY
        ),
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for row in rows:
        state = _short_state(row)
        colour = {"installed": "green", "can't run here": "yellow"}.get(state, "dim")
        colour = "red" if state.startswith("wrong") else colour
        cells = {
            **{name: str(row[name]) for name in ("bundle", "version", "finds")},
            "licence": _short_licence(row["licence"]),
            "commerce": row["commercial_use"],
            "state": f"[{colour}]{state}[/]",
        }
        table.add_row(*(cells[name] for name in names if wide or name not in WIDE_ONLY))
    console.print(table)
    for row in rows:
        if row["state"] == LACKING:
            console.print(f"[yellow]{row['bundle']}[/]: {LACKING}: {row['brought_by']}")
    for row in rows:
        if not row["runs_here"]:
            console.print(f"[yellow]{row['bundle']}[/] can't run here. {row['why_not']}")


def print_details(known: Known, said: dict[str, Any]) -> None:
    """One bundle, from what it is for to its codes; `said`: its `details`."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    card = known.card
    console = Console(highlight=False)
    console.print(f"[bold]{card.title}[/] ({card.name} {card.version}, {card.manufacturer})")
    console.print(f"\n[bold]Intended use:[/] {escape(card.intended_use)}")
    for limit in card.limits:
        console.print(f"[yellow]Limit:[/] {escape(limit)}")
    console.print(f"\n[bold]Accepts:[/] {card.accepts.describe()}")
    console.print(f"[bold]Licence:[/] {card.licence} ({COMMERCIAL_USE[card.commercial_use]})")
    hindered = f"no. {said['why_not']}" if said["why_not"] else RUNS
    console.print(f"[bold]Runs here:[/] {hindered}")
    brought = f": {said['brought_by']}" if said["brought_by"] else ""
    console.print(f"[bold]State:[/] {said['state']}{brought}", soft_wrap=True)
    console.print(f"[bold]Origin:[/] {escape(card.origin)}")
    console.print(f"[bold]Weights:[/] {_weights(known, said)}", soft_wrap=True)
    for file in _published(card):
        at = f" ({file.url})" if file.url else ""
        hashed = f"{file.path}, {file.hash_type} {file.hash_val}{at}"
        console.print(f"[bold]Published:[/] {hashed}", soft_wrap=True)
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


def _state(state: State, weights: str) -> str:
    """Of the bundle and of its weights, in one word or three."""
    return LACKING if state != "not installed" and weights == "not here" else state


def _short_state(row: dict[str, Any]) -> str:
    if row["weights"].startswith("wrong"):
        return str(row["weights"])
    return str(row["state"]) if row["runs_here"] else "can't run here"


def _weights(known: Known, said: dict[str, Any]) -> str:
    """Which are right, whether they are here, and who says so."""
    card = known.card
    # Those of a tuned bundle may be here, and only the ones that they complete not.
    absent = said["state"] == LACKING and not card.weights_file.is_file()
    text = f"{card.weights_file.name}{', not here' if absent else ''}"
    if card.weights_sha256:
        text += f", sha256 {'must be ' if absent else ''}{card.weights_sha256}"
    completed = f", completes those of {card.base.bundle}" if card.base else ""
    return f"{text} ({HASH_STATES[known.hash_state]}){completed}"


def _published(card: Card) -> tuple[Any, ...]:
    if card.published is None:
        return ()
    archive = () if card.published.archive is None else (card.published.archive,)
    return (*archive, *card.published.files)


def _code(code: Any) -> list[str] | None:
    return [code.scheme, code.value, code.meaning] if code else None
