"""`radloop demo`: the whole line once, on a patient who does not exist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.exit_codes import Exit

PORTS: dict[str, Any] = {"min": 1, "max": 65535}


def demo(
    study: Annotated[
        Path | None,
        typer.Option(help="Folder of your own DICOM instead of the made patient."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where pictures and objects go.")
    ] = Path("demo-out"),
    seed: Annotated[int, typer.Option(min=0, help="Another seed makes another patient.")] = 0,
    port: Annotated[int, typer.Option(help="radloop's C-STORE port.", **PORTS)] = 11112,
    orthanc_http: Annotated[int, typer.Option(help="Orthanc's HTTP port.", **PORTS)] = 8042,
    orthanc_dicom: Annotated[int, typer.Option(help="Orthanc's C-STORE port.", **PORTS)] = 4242,
    stay: Annotated[
        bool | None,
        typer.Option(
            "--stay/--no-stay",
            help="Keep Orthanc running at the end, to look at it. Default: if this is a terminal.",
            show_default=False,
        ),
    ] = None,
    loop: Annotated[
        bool,
        typer.Option(
            "--loop", help="Go on with seven more patients: confirm all, fine-tune, gate."
        ),
    ] = False,
) -> None:
    """Make a patient, send it by C-STORE, get SEG and SR back, draw the overlays, confirm.

    With --loop the whole way round: eight patients, a manifest, a short fine-tune by the
    bundle's own config, and the gate's report. Nothing is promoted.

    A private Orthanc is started on loopback where one is installed, else a small
    built-in archive. A port that is taken is replaced by a free one, and said so.

    Exit codes: 0 the results came back; 1 they did not, reason on stderr; 2 wrong usage;
    130 interrupted (everything that was started is stopped).

    Example: radloop demo --seed 7
    """
    import signal
    import sys

    from app.demo.tour import Tour

    # Orthanc and the service have sessions of their own: a plain SIGTERM would orphan them.
    # And a shell that started us in the background has SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)

    stays = sys.stdout.isatty() and sys.stdin.isatty() if stay is None else stay
    try:
        Tour(
            study=study,
            output=output,
            seed=seed,
            port=port,
            orthanc_http=orthanc_http,
            orthanc_dicom=orthanc_dicom,
            stay=stays,
            loop=loop,
        ).run()
    except KeyboardInterrupt:
        typer.secho("interrupted: everything that the demo started is stopped", err=True)
        raise typer.Exit(Exit.INTERRUPTED) from None
