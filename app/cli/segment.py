"""`radloop segment`: one structure from one box, once, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from app.cli.exit_codes import TABLE, Exit
from app.cli.run import exit_code, print_result

BUNDLE = "medsam_lite"


def segment(
    study_dir: Annotated[
        Path,
        typer.Argument(help="Folder of DICOM files, read recursively.", show_default=False),
    ],
    box: Annotated[
        str,
        typer.Option(
            help="x0,y0,x1,y1: left, top, right and bottom edge in pixels of the DICOM image; 0,0 "
            "is the outer corner of its first pixel, x counts columns, y rows, and the edge after "
            "pixel n is n+1. Draw it a few pixels too large rather than too small.",
            show_default=False,
        ),
    ],
    image: Annotated[
        str,
        typer.Option(
            "--slice",
            help="Which image the box is on: its InstanceNumber (what viewers show as I:31), or "
            "its SOP Instance UID.",
            show_default=False,
        ),
    ],
    series: Annotated[
        str | None,
        typer.Option(
            help="Series Instance UID; needed where the folder holds several.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where results go; made if missing.")
    ] = Path("radloop-out"),
    label: Annotated[
        str | None,
        typer.Option(
            help="What the structure is called in the SEG [Selected region].", show_default=False
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print result.json instead of tables.")
    ] = False,
) -> None:
    """Segment what one box on one CT, MR or PET image holds, through all its slices.

    Example: radloop segment DICOM --box 61,48,103,92 --slice 31 --label "Left kidney" -o results
    """
    from app.cli.interrupt import interruptible
    from app.cli.progress import graph_progress
    from app.oneshot import Nothing, segment_folder
    from operators.models.medsam.request import DEFAULT_LABEL, BoxPrompt, parse_box

    prompt = BoxPrompt(
        image.strip(), parse_box(box), DEFAULT_LABEL if label is None else label.strip()
    )
    try:
        with interruptible(output), graph_progress(quiet=as_json) as progress:
            result = segment_folder(
                study_dir, output, prompt, bundle=BUNDLE, series_uid=series, progress=progress
            )
    except Nothing as nothing:
        typer.secho(str(nothing), err=True, fg=typer.colors.RED)
        raise typer.Exit(Exit.USAGE) from None
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        print_result(result)
    raise typer.Exit(exit_code(result))


segment.__doc__ = f"{segment.__doc__}\n\n    {TABLE}"
