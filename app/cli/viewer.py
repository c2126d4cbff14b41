"""`radloop viewer`: OHIF before Orthanc, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.exit_codes import Exit

if TYPE_CHECKING:
    from app.viewer.proxy import OrthancAddress

LISTED = 20


def viewer(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Loopback port; 0 takes a free one.")
    ] = 3000,
    orthanc: Annotated[
        str | None,
        typer.Option(help="Orthanc's REST root; instead of orthanc_url.", show_default=False),
    ] = None,
    ohif: Annotated[Path, typer.Option(help="OHIF's build, as `make ohif` fetches it.")] = Path(
        "var/ohif"
    ),
    study: Annotated[
        str | None,
        typer.Option(help="Print the link to this Study Instance UID only.", show_default=False),
    ] = None,
) -> None:
    """Show Orthanc's studies, with SEG and SR, in the browser; reading only.

    Serves the OHIF viewer and Orthanc's DICOMweb under one origin on 127.0.0.1, and
    prints a link for each study. Orthanc's user and password (orthanc_user,
    orthanc_password) stay here. Saving from the viewer is refused. Ends on Ctrl-C.

    Exit codes: 0 stopped on request; 1 could not start, reason on stderr; 2 wrong usage.

    Example: radloop viewer --orthanc http://127.0.0.1:8042
    """
    import signal
    import threading

    from app.settings import load_settings
    from app.viewer.proxy import OrthancAddress
    from app.viewer.server import running_viewer

    # A shell that started us in the background has SIGINT ignored; SIGTERM ends as Ctrl-C does.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    settings = load_settings(**({} if orthanc is None else {"orthanc_url": orthanc}))
    address = OrthancAddress.from_settings(settings)
    try:
        with running_viewer(ohif, address, port) as root:
            _print_links(root, address, study)
            typer.echo("press Ctrl-C to stop")
            threading.Event().wait()
    except KeyboardInterrupt:
        typer.echo("stopped")
    raise typer.Exit(Exit.OK)


def _print_links(root: str, address: OrthancAddress, study: str | None) -> None:
    from app.viewer.refusals import OrthancSilent, StudyUnknown
    from app.viewer.server import study_link
    from app.viewer.studies import list_studies

    typer.echo(f"viewer: {root}/")
    try:
        found = list_studies(address, limit=LISTED + 1, study_uid=study)
    except OrthancSilent as silent:  # it may come up later: the viewer stays
        typer.secho(silent.reason, err=True, fg=typer.colors.YELLOW)
        if study is not None:
            typer.echo(study_link(root, study))
        return
    if study is not None and not found:
        raise StudyUnknown(study, address.url)
    for line in found[:LISTED]:
        link = study_link(root, line.study_instance_uid)
        typer.echo(f"{link}  {' '.join(line.modalities)}".rstrip())
    if len(found) > LISTED:
        typer.echo(f"and more: {root}/ lists all")
    if not found:
        typer.echo("Orthanc holds no study yet")
