"""`radloop serve`: the service beside a PACS."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer


def serve(
    config: Annotated[
        Path | None,
        typer.Option(help="Settings file; instead of RADLOOP_CONFIG or /etc/radloop/radloop.yaml."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of the C-STORE listener; 0 takes a free one."),
    ] = None,
) -> None:
    """Receive studies by C-STORE, analyse them, deliver SEG and SR.

    Every instance that is answered with success is on disk and is analysed, whatever
    is killed in between. All settings: `radloop doctor`; each is also a variable
    (RADLOOP_ORTHANC_URL, RADLOOP_QUIET_SECONDS…). Ends on Ctrl-C or SIGTERM within
    stop_seconds (20 s), handing back the study in work.

    Exit codes: 0 stopped on request; 1 could not start, reason on stderr; 2 wrong usage.

    Example: RADLOOP_ORTHANC_URL=http://127.0.0.1:8042 radloop serve --port 11112
    """
    from app.delivery import from_settings
    from app.serve import Service
    from app.settings import CONFIG_VARIABLE, load_settings
    from app.worker.analysis import AnalysisFactory

    if config is not None:
        os.environ[CONFIG_VARIABLE] = str(config)
    settings = load_settings(**({} if port is None else {"port": port}))
    service = Service(
        settings,
        factory=AnalysisFactory.of_site(settings),
        destinations=from_settings(settings),
        say=say,
    )
    service.run()
    leave()


def leave() -> NoReturn:
    """End the process with status 0, now: threads of workflows may still wait or sleep."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def say(line: str) -> None:
    """Print one line with its time."""
    import contextlib
    import time

    with contextlib.suppress(BrokenPipeError):  # whoever read our output has gone; we have not
        print(time.strftime("%Y-%m-%d %H:%M:%S"), line, flush=True)
