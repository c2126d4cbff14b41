"""A progress bar over the stages of the graph, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
