"""`radloop worker`: one more worker on the queue of a running service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def worker(
    config: Annotated[
        Path | None,
        typer.Option(help="Settings file; instead of RADLOOP_CONFIG or /etc/radloop/radloop.yaml."),
    ] = None,
    slot: Annotated[
        str,
        typer.Option(
            help="Name of this worker on this machine; keep it over restarts, so that what it "
            "had in work is its own again."
        ),
    ] = "1",
) -> None:
    """Analyse and deliver beside `radloop serve`, from the same queue, with the same settings.

    Needs the service's spool, output_dir and state_dir, and more memory: it loads the
    models itself. A worker that dies is noticed after 15 s, and the others take its
    studies over. Ends on Ctrl-C or SIGTERM within stop_seconds, handing back.

    Exit codes: 0 stopped on request; 1 could not start, reason on stderr; 2 wrong usage.

    Example: RADLOOP_DATABASE_URL=postgresql://radloop@db/radloop radloop worker --slot 2
    """
    from app.cli.serve import leave, say
    from app.delivery import from_settings
    from app.settings import CONFIG_VARIABLE, load_settings
    from app.worker.analysis import AnalysisFactory
    from app.workflow.alone import run_alone

    if config is not None:
        os.environ[CONFIG_VARIABLE] = str(config)
    settings = load_settings()
    run_alone(
        settings,
        factory=AnalysisFactory.of_site(settings),
        destinations=from_settings(settings),
        slot=slot,
        say=say,
    )
    leave()
