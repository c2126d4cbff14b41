"""`radloop run`: one folder of DICOM, once, in this process."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.exit_codes import TABLE, Exit

PRIOR = typer.Option(
    help="Folder with earlier results of the same patient (SEG, SR) to compare with.",
    show_default=False,
)


def run(
    study_dir: Annotated[
        Path,
        typer.Argument(
            help="Folder of DICOM files, read recursively, or one DICOM file.", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where results go; made if missing.")
    ] = Path("radloop-out"),
    bundle: Annotated[
        str | None,
        typer.Option(help="Run this bundle whatever BodyPartExamined says.", show_default=False),
    ] = None,
    key_images: Annotated[
        bool, typer.Option("--key-images", help="Write pictures of what was found as well.")
    ] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Write a one-page PDF as well.")] = False,
    rtstruct: Annotated[
        bool,
        typer.Option(
            "--rtstruct",
            help="Write an RTSTRUCT as well, for bundles whose card says outputs: [RTSTRUCT].",
        ),
    ] = False,
    prior: Annotated[Path | None, PRIOR] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print result.json instead of tables.")
    ] = False,
) -> None:
    """Analyse a folder of DICOM and write SEG, SR and result.json.

    Example: radloop run /media/cd/DICOM -o results
    """
    from app.cli.interrupt import interruptible
    from app.cli.progress import graph_progress
    from app.oneshot import Nothing, analyse_folder
    from app.rules import site_rulebook
    from app.settings import load_settings
    from operators.models.champion import CHAMPIONS

    settings = load_settings()
    champions = settings.state_dir / CHAMPIONS
    extra = set(settings.extra_evidence)
    if key_images:
        extra.add("key_images")
    if pdf:
        extra.add("pdf")
    if rtstruct:
        extra.add("rtstruct")
    rules = site_rulebook(settings)
    try:
        with interruptible(output), graph_progress(quiet=as_json) as progress:
            result = analyse_folder(
                study_dir,
                output,
                bundle=bundle,
                champions=champions,
                rules=rules,
                progress=progress,
                extra=extra,
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


run.__doc__ = f"{inspect.getdoc(run)}\n\n{TABLE}"


def exit_code(result: dict[str, Any]) -> Exit:
    """What the command says to a shell about a result."""
    if result["refused"]:
        return Exit.REFUSED
    return Exit.OK if result["results"] or result["readings"] else Exit.NO_MATCH


def print_result(result: dict[str, Any]) -> None:
    """Tables for a person: what was measured, what was left out and why, what was written."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for entry in result["results"]:
        table = Table(
            title=f"{entry['bundle']} {entry['version']} · weights {entry['weights_sha256'][:12]}",
            title_justify="left",
        )
        table.add_column("segment")
        planar = entry["image"] is not None
        table.add_column("area" if planar else "volume mL", justify="right")
        if not planar:
            table.add_column(f"mean {entry['unit']}", justify="right")
        table.add_column("severity")
        for finding in entry["findings"]:
            mean = f"{finding['mean']:.0f}" if finding["mean"] is not None else ""
            size = size_in_words(finding)
            table.add_row(finding["label"], size, *(() if planar else (mean,)), finding["severity"])
        console.print(table)
        for finding in entry["findings"]:
            for said in finding["rules"]:
                standing = "proposed" if said["proposed"] else f"accepted by {said['accepted_by']}"
                told = f"{finding['label']}, {said['rule']} ({standing}): {said['statement']}"
                console.print(f"[cyan]rule[/] {escape(told)}", highlight=False, soft_wrap=True)
        _print_comparison(console, entry.get("comparison"))
        for flag in entry["quality"]:
            console.print(f"[yellow]quality[/] {escape(flag['text'])}")
        for item in entry["evidence"]:
            console.print(f"[green]{item['kind']:<9}[/] {escape(item['path'])}", soft_wrap=True)
    for entry in result["readings"]:
        _print_reading(console, entry)
    _print_left_out(console, "no bundle matches", result["unmatched"])
    _print_left_out(console, "refused", result["refused"])
    for warning in result["warnings"]:
        console.print(f"[yellow]warning[/] {warning}", highlight=False)
    if not result["results"] and not result["readings"] and not result["refused"]:
        console.print("No series matches a bundle: nothing was analysed.")


def _print_comparison(console: Any, comparison: dict[str, Any] | None) -> None:
    """A line for each structure that is in the earlier result as well, or could be."""
    from rich.markup import escape

    if comparison is None or comparison["prior"] is None:
        return
    when = f"{comparison['prior']['study_date']}, {comparison['interval_days']} days earlier"
    lines = []
    for pair in comparison["pairs"]:
        volume = pair["changes"][0]
        judged = {True: "more than", False: "within", None: "not judged against"}
        lines.append(
            f"{pair['label']}: {volume['prior']:.4g} mL then, {volume['change_percent']:+.1f} %, "
            f"{judged[volume['exceeds_uncertainty']]} the uncertainty"
        )
    lines += [f"{one['label']}: {one['reason']}" for one in comparison["not_matched"]]
    for line in lines:
        console.print(f"[cyan]since[/] {when}: {escape(line)}", highlight=False, soft_wrap=True)


def size_in_words(finding: dict[str, Any]) -> str:
    """Volume in mL; of a 2D image the area in mm2, or in pixels where its scale is not known."""
    if not finding["voxels"]:
        return "not found"
    if finding["volume_ml"] is not None:
        return f"{finding['volume_ml']:.1f}"
    if finding["area_mm2"] is not None:
        return f"{finding['area_mm2']:.4g} mm2"
    return f"{finding['voxels']} pixels"


def _print_reading(console: Any, entry: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    title = f"{entry['bundle']} {entry['version']} · weights {entry['weights_sha256'][:12]}"
    table = Table(title=title, title_justify="left")
    for column in ("what", "where", "score (no probability)", "severity"):
        table.add_column(column)
    for said in entry["classes"]:
        where = _image_in_words(said)
        scores = said["scores"]
        if said["name"] is None:  # then none stands out: all are shown
            number = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
        else:
            number = f"{scores[said['name']]:.3f}"
        table.add_row(said["label"] or "no class said", where, number, said["severity"])
    for box in entry["boxes"]:
        where = "LPS mm " + ", ".join(f"{value:.1f}" for value in box["centre_lps_mm"])
        table.add_row(box["label"], where, f"{box['score']:.3f}", box["severity"])
    if entry["detector"] and not entry["boxes"]:
        table.add_row("nothing found", "", "", "")
    console.print(table)
    for flag in entry["quality"]:
        console.print(f"[yellow]quality[/] {escape(flag['text'])}")
    for item in entry["evidence"]:
        console.print(f"[green]{item['kind']:<9}[/] {escape(item['path'])}", soft_wrap=True)


def _image_in_words(said: dict[str, Any]) -> str:
    """Which image some scores are about: by its number, else by its UID."""
    if said["sop_instance_uid"] is None:
        return "volume"
    if said["instance_number"] is None:
        return str(said["sop_instance_uid"])
    return f"image {said['instance_number']}"


def _print_left_out(console: Any, title: str, entries: list[dict[str, str]]) -> None:
    from rich.markup import escape

    for entry in entries:
        console.print(
            f"[red]{title}[/] {escape(entry['what'])}: {escape(entry['reason'])}",
            highlight=False,
            soft_wrap=True,
        )
