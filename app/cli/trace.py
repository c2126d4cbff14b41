"""`radloop trace`: where an output came from, without a word about the patient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from operators.evidence.trace import Trace

_SHOWN = 5  # images, in the table
_UNKNOWN = "not in this file"


def trace(
    file: Annotated[
        Path,
        typer.Argument(
            help="SEG, SR, RTSTRUCT, key image, PDF or result.json.",
            show_default=False,
            dir_okay=False,
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list, with every source image.")
    ] = False,
) -> None:
    """Say which model, code and images an output of radloop came from.

    Read from the file alone; nothing of the patient is printed. Anybody may write our name
    into a file: what radloop delivered is in the register of its state folder.

    Exit codes: 0; 1 the file is not ours or can't be read, reason on stderr; 2 wrong usage.

    Example: radloop trace results/head_neck_oar_ct-0123456789abcdef.seg.dcm
    """
    from dataclasses import asdict

    from operators.evidence.trace import trace_file

    traces = trace_file(file)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in traces], indent=1))
        return
    for one in traces:
        _print(one)


def _print(one: Trace) -> None:
    lines = [
        (one.kind, one.sop_instance_uid),
        ("series", one.series_instance_uid),
        ("study", one.study_instance_uid),
        ("written by", f"radloop {one.radloop_version or _UNKNOWN}"),
        ("record", _time(one.recorded_at)),
    ]
    if one.model is None:
        lines.append(("model", "none had a share in it"))
    else:
        lines += [
            ("model", f"{one.model.name} {one.model.version}"),
            ("weights sha256", one.model.weights_sha256 or _UNKNOWN),
            ("config sha256", one.model.config_sha256 or _UNKNOWN),
            ("runtime", one.model.runtime),
            ("source series", one.source_series_uid or _UNKNOWN),
        ]
    images = list(one.source_sop_uids[:_SHOWN])
    if left := len(one.source_sop_uids) - len(images):
        images.append(f"and {left} more: --json lists all")
    lines += _listed("source images", images)
    lines += _listed("tracking UIDs", one.tracking_uids)
    if not one.file_there:
        lines.append(("", "The object's own file is not beside result.json: trace that for more."))
    for name, value in lines:
        typer.echo(f"{name:<16}{value}")
    typer.echo()


def _listed(name: str, values: list[str] | tuple[str, ...]) -> list[tuple[str, str]]:
    if not values:
        return [(name, _UNKNOWN)]
    return [(name if n == 0 else "", value) for n, value in enumerate(values)]


def _time(stamp: str) -> str:
    if not stamp:
        return _UNKNOWN
    day, hour = stamp[:8], stamp[8:]
    return f"{day[:4]}-{day[4:6]}-{day[6:]} {hour[:2]}:{hour[2:4]}:{hour[4:]}"
