"""`radloop confirm`, `reject` and `verdicts`: what readers say about results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from app.verdicts.record import VerdictKind

RESULT: Any = typer.Argument(
    help="SOP Instance UID of the result's SR; or a Study Instance UID, if it has one result.",
    show_default=False,
)
READER: Any = typer.Option("--as", help="Who says so: a key of the setting `readers`.")
JSON: Any = typer.Option("--json", help="Print the record as JSON.")
CODES = """Exit codes: 0 the verdict is recorded (now or before); 1 it is not, reason on stderr;
    2 wrong usage; 130 interrupted: give the same command again, nothing is doubled."""


def confirm(
    result: Annotated[str, RESULT],
    reader: Annotated[str, READER],
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Confirm a result: a VERIFIED SR in Orthanc, and a line in the record of verdicts.

    From then on the result may be learnt from. The reader's name goes into the SR only.

    Example: radloop confirm 2.25.1234 --as ada
    """
    _give(result, "confirmed", reader, None, as_json)


def reject(
    result: Annotated[str, RESULT],
    reader: Annotated[str, READER],
    because: Annotated[
        str,
        typer.Option(
            help="What is wrong with it. Stands in the SR and in the record: no patient data.",
            show_default=False,
        ),
    ],
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Reject a result: a VERIFIED SR that says so, without measurements, and a line in the record.

    A later verdict replaces an earlier one; nothing is removed.

    Example: radloop reject 2.25.1234 --as ada --because "left and right are swapped"
    """
    _give(result, "rejected", reader, because, as_json)


confirm.__doc__ = f"{confirm.__doc__}\n    {CODES}"
reject.__doc__ = f"{reject.__doc__}\n    {CODES}"


def verdicts(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List all verdicts, oldest first; the latest on each result counts.

    Exit codes: 0; 1 the record is damaged, reason on stderr.

    Example: radloop verdicts --json
    """
    from dataclasses import asdict

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from app.settings import load_settings
    from app.verdicts.record import latest_verdicts, read_verdicts

    given = read_verdicts(load_settings().state_dir)
    counting = latest_verdicts(given).values()
    if as_json:
        typer.echo(json.dumps([{**asdict(v), "counts": v in counting} for v in given], indent=1))
        return
    if not given:
        typer.echo("No verdict was given yet: `radloop confirm --help`.")
        return
    table = Table("time (UTC)", "verdict", "reader", "bundle", Column("study", overflow="fold"))
    for verdict in given:
        colour = "green" if verdict.verdict == "confirmed" else "red"
        counts = f"[{colour}]{verdict.verdict}[/]"
        state = counts if verdict in counting else f"[dim]{verdict.verdict}, replaced[/]"
        table.add_row(
            verdict.at[:19].replace("T", " "),
            state,
            escape(verdict.reader),
            escape(verdict.bundle),
            verdict.study_instance_uid,
        )
    Console().print(table)


def _give(
    result: str, verdict: VerdictKind, reader: str, because: str | None, as_json: bool
) -> None:
    from dataclasses import asdict

    from app.settings import load_settings
    from app.verdicts.give import give_verdict

    given = give_verdict(load_settings(), result, verdict=verdict, reader=reader, because=because)
    record = given.verdict
    if as_json:
        typer.echo(json.dumps({**asdict(record), "new": given.new}, indent=1))
        return
    when = "" if given.new else f" already, {record.at}: nothing new was written"
    typer.echo(
        f"{record.verdict} by {record.reader}{when}\n"
        f"result       {record.sr.sop_instance_uid} ({record.bundle})\n"
        f"study        {record.study_instance_uid}\n"
        f"verified SR  {record.verified_sr.sop_instance_uid} in {given.where}"
    )
