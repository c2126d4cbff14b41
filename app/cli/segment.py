"""`radloop segment`: structures from what a person marked, once, in this process."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.exit_codes import TABLE, Exit
from app.cli.run import PRIOR, exit_code, print_result

if TYPE_CHECKING:
    from operators.models.medsam.region import Region

BUNDLE = "medsam_lite"


def segment(
    study_dir: Annotated[
        Path,
        typer.Argument(
            help="Folder of DICOM files, read recursively, or one DICOM file.", show_default=False
        ),
    ],
    box: Annotated[
        list[str] | None,
        typer.Option(
            help="x0,y0,x1,y1: left, top, right and bottom edge in pixels of the DICOM image; 0,0 "
            "is the outer corner of its first pixel, x counts columns, y rows, and the edge after "
            "pixel n is n+1. Draw it a few pixels too large rather than too small. Again with "
            "another --slice: one structure with boxes on several slices.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--slice",
            help="Which image the box is on: its InstanceNumber (what viewers show as I:31), or "
            "its SOP Instance UID. One for each box, in their order. Not needed for the only 2D "
            "image of a series.",
            show_default=False,
        ),
    ] = None,
    frame: Annotated[
        int | None,
        typer.Option(
            help="Which frame of a 2D image with frames (ultrasound, slide), from 1.",
            show_default=False,
        ),
    ] = None,
    propose: Annotated[
        bool,
        typer.Option(
            "--propose",
            help="Instead of a mark: regions of one X-ray, ultrasound frame, slide tile or "
            "photograph that the model proposes; nothing is assessed.",
        ),
    ] = False,
    point: Annotated[
        list[str] | None,
        typer.Option(
            help="x,y of a point in the structure, or x,y,- of one that is not in it; again for "
            "more. Instead of a box, with one --slice; a box is more exact.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A file of marks instead: a DICOM SR with measurements (each becomes a result), "
            "an RTSTRUCT or a binary SEG (to refine).",
            show_default=False,
        ),
    ] = None,
    structure: Annotated[
        str | None,
        typer.Option(
            "--structure",
            "--segment",
            help="Which part of the file: name or number of a structure, number of a segment, "
            "tracking UID of a measurement.",
            show_default=False,
        ),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option(
            help="Series Instance UID; needed where the folder holds several.", show_default=False
        ),
    ] = None,
    bundle: Annotated[
        str,
        typer.Option(help="Prompted bundle to ask, as `radloop bundles list` names it."),
    ] = BUNDLE,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where results go; made if missing.")
    ] = Path("radloop-out"),
    label: Annotated[
        str | None,
        typer.Option(
            help="What the structure is called in the SEG; without it: what the file of --from "
            "calls it, else Selected region.",
            show_default=False,
        ),
    ] = None,
    prior: Annotated[Path | None, PRIOR] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print result.json instead of tables.")
    ] = False,
) -> None:
    """Segment what is marked: on a CT, MR or PET image through all its slices, or on one X-ray,
    ultrasound frame, slide tile or photograph.

    Example: radloop segment DICOM --box 61,48,103,92 --slice 31 --label "Left kidney" -o results

    With a report that OHIF made: radloop segment DICOM --from measurements.dcm -o results
    """
    from app.cli.interrupt import interruptible
    from app.cli.progress import graph_progress
    from app.oneshot import Nothing, segment_folder
    from app.rules import site_rulebook
    from app.settings import load_settings

    settings = load_settings()
    rules = site_rulebook(settings)
    slices = [text.strip() for text in image or []]
    regions: tuple[Region, ...] = ()
    if not propose:
        regions = _regions(box or [], point or [], slices, source, structure, label)
    elif box or point or source or label is not None or len(slices) > 1:
        from operators.models.medsam.proposals import ProposalsAlone

        raise ProposalsAlone
    try:
        with interruptible(output), graph_progress(quiet=as_json) as progress:
            result = segment_folder(
                study_dir,
                output,
                regions,
                bundle=bundle,
                series_uid=series,
                image=next(iter(slices), ""),
                frame=frame,
                rules=rules,
                progress=progress,
                extra=settings.extra_evidence,
                prior=prior,
            )
    except Nothing as nothing:
        typer.secho(nothing.reason, err=True, fg=typer.colors.RED)
        raise typer.Exit(Exit.USAGE) from None
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        print_result(result)
    raise typer.Exit(exit_code(result))


def _regions(
    boxes: list[str],
    points: list[str],
    slices: list[str],
    source: Path | None,
    structure: str | None,
    label: str | None,
) -> tuple[Region, ...]:
    """What the command line asks for.

    Raises
    ------
    ModelRefusal
        It can't be understood, or the file can't be used.
    """
    from operators.models.medsam.mark_file import MarkFile, MarksUnusable, read_regions
    from operators.models.medsam.region import SourcesMixed, of_marks, parse_point
    from operators.models.medsam.request import DEFAULT_LABEL, parse_box

    called = None if label is None else label.strip()
    if source is None:
        return (
            of_marks(
                [parse_box(text) for text in boxes],
                [parse_point(text) for text in points],
                # The only image of a series needs no name.
                slices or [""],
                DEFAULT_LABEL if called is None else called,
            ),
        )
    if boxes or points or slices:
        raise SourcesMixed
    if not source.is_file():  # before a reader advises on permissions
        raise MarksUnusable(f"{source} {'is no file' if source.exists() else 'does not exist'}")
    return read_regions(MarkFile(source, structure, called))


segment.__doc__ = f"{inspect.getdoc(segment)}\n\n{TABLE}"
