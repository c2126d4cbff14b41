"""Progress of what takes long, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer

VALUES = ("train_loss", "metric")
STAGES = {
    "models": "loading models",
    "study": "reading headers",
    "selection": "matching bundles",
    "volume": "building volumes",
    "inference": "running bundles",
    "findings": "measuring",
    "evidence": "writing SEG and SR",
}


@contextmanager
def graph_progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that takes the name of the stage that begins.

    Parameters
    ----------
    quiet : bool
        Show nothing (for `--json`).
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<20}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as bar:
        task = bar.add_task("starting", total=len(STAGES))

        def begin(stage: str) -> None:
            done = list(STAGES).index(stage)
            bar.update(task, completed=done, description=STAGES[stage])

        yield begin


@contextmanager
def named_stages(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that takes what is being done now, for work without known steps."""
    from rich.console import Console

    if quiet:
        yield lambda stage: None
        return
    with Console(stderr=True).status("starting") as status:
        yield status.update


@contextmanager
def counted(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that takes how many are done, and of how many.

    Parameters
    ----------
    what : str
        Shown beside the bar.
    quiet : bool
        Show nothing (for `--json`).
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@dataclass(frozen=True)
class Downloading:
    """Where a download tells how it goes.

    Attributes
    ----------
    told : callable
        Takes a file's name, its bytes that are here, and of how many (None: not known).
    waits : callable
        Takes why a try failed and when the next one comes.
    """

    told: Callable[[str, int, int | None], None]
    waits: Callable[[str], None]


@contextmanager
def downloaded(quiet: bool) -> Iterator[Downloading]:
    """Yield what shows a download: a bar a file, and a line before each new try.

    Parameters
    ----------
    quiet : bool
        Show nothing; nor is anything shown where stderr is no terminal.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    quiet = quiet or not console.is_terminal
    with Progress(*columns, console=console, disable=quiet, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def tell(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        def wait(why: str) -> None:
            bar.console.print(why, style="dim", highlight=False, soft_wrap=True)

        yield Downloading(tell, (lambda why: None) if quiet else wait)


@contextmanager
def told(what: str, quiet: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that takes an epoch's numbers (`training.run.fine_tune`)."""
    with counted(what, quiet) as count:

        def tell(entry: dict[str, Any]) -> None:
            count(entry["epoch"], entry["epochs"])
            if not quiet:
                number = f"epoch {entry['epoch']}/{entry['epochs']}"
                values = (f"{name} {entry[name]:.4f}" for name in VALUES if name in entry)
                typer.echo(f"{number}: {', '.join(values)}", err=True)

        yield tell
