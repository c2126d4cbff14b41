"""`radloop studies`: what became of every study, and what a person may do about it."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from app.intake.ledger import StudyVersion

studies = typer.Typer(no_args_is_help=True, help="What became of every study; try again, choose.")

STUDY: Any = typer.Argument(help="Study Instance UID, or the beginning of one.", show_default=False)
JSON: Any = typer.Option("--json", help="Print JSON.")


class Visible(StrEnum):
    """What a person sees of a state."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"
    DISCARDED = "discarded"
    SUPERSEDED = "superseded"


COLOURS = {"done": "green", "failed": "red", "pending": "yellow"}
CHANGED = """Exit codes: 0 done; 1 it can't be, reason on stderr; 2 wrong usage.
    The running `radloop serve` goes on with it at once; the next one to start does otherwise."""


@studies.command("list")
def list_(
    state: Annotated[Visible | None, typer.Option(help="Only these.", show_choices=True)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Superseded versions as well.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """List all studies with their states and reasons, the latest change last.

    A study is pending, failed, not applicable (no bundle wants it), done or discarded.

    Exit codes: 0; 1 the spool can't be read, reason on stderr; 2 wrong usage.

    Example: radloop studies list --state failed
    """
    from app.settings import load_settings
    from app.workflow.triage import opened

    with opened(load_settings().spool) as ledger:
        found = [
            study
            for study in ledger.all()
            if (everything or study.state != "superseded")
            and (state is None or state == _visible(study))
        ]
    if as_json:
        typer.echo(json.dumps([_record(study) for study in found], indent=1))
    elif not found:
        typer.echo("No study" + (f" is {state}." if state else " was received yet."))
    else:
        _print_table(found)


@studies.command()
def show(study: Annotated[str, STUDY], as_json: Annotated[bool, JSON] = False) -> None:
    """Show every version of a study: state, reason, instances, results.

    Exit codes: 0; 1 no such study, reason on stderr; 2 wrong usage.

    Example: radloop studies show 1.2.840.113619.2.1
    """
    from app.settings import load_settings
    from app.workflow.triage import find, opened

    with opened(load_settings().spool) as ledger:
        newest = find(ledger, study)
        versions = [
            found
            for number in range(1, newest.version + 1)
            if (found := ledger.find(newest.study_uid, number)) is not None
        ]
        records = [
            {**_record(version), "instances": len(ledger.inputs(version))} for version in versions
        ]
        records[-1]["rejected"] = ledger.rejected(newest)
    if as_json:
        typer.echo(json.dumps(records, indent=1))
        return
    for record in records:
        typer.echo(f"study {record.pop('study_instance_uid')} v{record.pop('version')}")
        for name, value in record.items():
            shown = ", ".join(value) if isinstance(value, list) else value
            typer.echo(f"  {name.replace('_', ' '):12} {shown if shown != '' else '-'}")


def retry(study: Annotated[str, STUDY]) -> None:
    """Analyse a failed, discarded or finished study once more.

    Example: radloop studies retry 1.2.840.113619.2.1
    """
    from app.workflow import triage

    _change(study, triage.retry)


def release(
    study: Annotated[str, STUDY],
    keep: Annotated[
        str, typer.Option(help="Beginning of the digest of the right content.", show_default=False)
    ] = "",
    newer: Annotated[
        bool, typer.Option("--newer", help="The patient was corrected: what came last is right.")
    ] = False,
    older: Annotated[
        bool, typer.Option("--older", help="Sent under a wrong patient: what came first is right.")
    ] = False,
) -> None:
    """Let a study go on of which SOP Instance UIDs came with two contents.

    --keep: for one UID. --newer, --older: for all at once, where they differ only in who
    the patient is. The content that you keep is analysed; the other stays in the spool, unused.

    Example: radloop studies release 1.2.840.113619.2.1 --keep 3fa9c1
    """
    from app.workflow import triage

    if [bool(keep), newer, older].count(True) != 1:
        raise typer.BadParameter("give one of --keep DIGEST, --newer, --older")

    def decide(ledger: Any, found: StudyVersion) -> StudyVersion:
        if keep:
            return triage.release(ledger, found, keep)
        confirmed = _confirmed(found.study_uid)
        return triage.release_identity(ledger, found, newer=newer, confirmed=confirmed)

    _change(study, decide)


def discard(study: Annotated[str, STUDY]) -> None:
    """Give up a failed study: it no longer counts as failed. `retry` takes it back.

    Nothing is deleted.

    Example: radloop studies discard 1.2.840.113619.2.1
    """
    from app.workflow import triage

    _change(study, triage.discard)


for _command in (retry, release, discard):
    _command.__doc__ = f"{_command.__doc__}\n    {CHANGED}"
    studies.command()(_command)


def _change(asked: str, change: Any) -> None:
    from app.settings import load_settings
    from app.workflow.triage import find, opened

    with opened(load_settings().spool) as ledger:
        now = change(ledger, find(ledger, asked))
    typer.echo(f"study {now.study_uid} v{now.version}: {now.state}: {now.reason}")


def _confirmed(study_uid: str) -> list[str]:
    from app.settings import load_settings
    from app.verdicts.record import latest_verdicts, read_verdicts

    given = latest_verdicts(read_verdicts(load_settings().state_dir)).values()
    return [
        verdict.sr.sop_instance_uid
        for verdict in given
        if verdict.verdict == "confirmed" and verdict.study_instance_uid == study_uid
    ]


def _visible(study: StudyVersion) -> str:
    from app.intake.ledger import PENDING

    return "pending" if study.state in PENDING else str(study.state)


def _record(study: StudyVersion) -> dict[str, Any]:
    return {
        "study_instance_uid": study.study_uid,
        "version": study.version,
        "visible": _visible(study),
        "state": str(study.state),
        "reason": study.reason,
        "tries": study.trial,
        "results": list(study.results),
        "undelivered": list(study.undelivered),
    }


def _print_table(found: list[StudyVersion]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    table = Table(
        Column("study", overflow="fold"), "version", "state", Column("reason", overflow="fold")
    )
    for study in found:
        visible = _visible(study)
        state = visible if visible == study.state else f"{visible} ({study.state})"
        colour = COLOURS.get(visible, "default")
        table.add_row(
            study.study_uid,
            str(study.version),
            f"[{colour}]{state}[/]",
            escape(study.reason),
        )
    Console().print(table)
