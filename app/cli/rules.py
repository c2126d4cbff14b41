"""`radloop rules`: guideline rules, who accepted them, and what they said in a result."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.exit_codes import Exit

if TYPE_CHECKING:
    from operators.findings.guideline import Rule, Rulebook

rules = typer.Typer(
    no_args_is_help=True, help="Guideline rules: their sources, and what the site has accepted."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@rules.command("list")
def list_rules(as_json: AsJson = False) -> None:
    """All rules: severity, whether anybody at the site accepted them, who verified them.

    Exit codes: 0 printed; 1 a guideline file or the settings are wrong.

    Example: radloop rules list
    """
    book = _book()
    if as_json:
        typer.echo(json.dumps([_as_dict(rule, book) for rule in book.rules], indent=1))
        return
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    for rule in book.rules:
        console.print(
            f"[bold]{escape(rule.id)}[/]  {rule.severity}  {escape(_standing(rule, book))}  "
            f"[dim]digest {rule.digest}[/]",
            soft_wrap=True,
        )
        console.print(f"    {escape(_verified(rule))}; {escape(rule.citation)}", soft_wrap=True)


@rules.command("show")
def show(
    rule_id: Annotated[str, typer.Argument(metavar="RULE", help="As `rules list` prints it.")],
    as_json: AsJson = False,
) -> None:
    """One rule, whole: what it is about, its conditions, what it says and where that is printed.

    Exit codes: 0 printed; 1 no such rule, or a file is wrong.

    Example: radloop rules show spleen_volume/above_range
    """
    book = _book()
    rule = book.rule(rule_id)
    if as_json:
        typer.echo(json.dumps(_as_dict(rule, book), indent=1))
        return
    about = ", ".join(
        f"{one.meaning} ({one.scheme} {one.value}, side: {one.laterality})"
        for one in rule.structures
    )
    only = [
        "/".join(rule.modalities),
        *(["no contrast agent named in the headers"] if rule.unenhanced else []),
        *(["the structure touches no side of the volume"] if rule.whole else []),
    ]
    lines = {
        "rule": rule.id,
        "title": rule.title,
        "source": rule.citation,
        "verified": _verified(rule),
        "standing": _standing(rule, book),
        "digest": rule.digest,
        "about": about,
        "only": "; ".join(only),
        "when": " and ".join(
            f"{one.measurement} {one.relation.replace('_', ' ')} {one.limit:g} {one.unit}"
            for one in rule.conditions
        ),
        "severity": f"{rule.severity} (graded by {rule.severity_from})",
        "says": rule.statement,
        "differentials": "; ".join(rule.differentials) or "none",
        "recommendations": "; ".join(rule.recommendations) or "none",
    }
    for name, value in lines.items():
        typer.echo(f"{name:<16}{value}")


@rules.command("explain")
def explain(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT_JSON", help="The result.json of a run.")
    ],
    as_json: AsJson = False,
) -> None:
    """For each structure of a result: which rule said what, from which numbers, by which source.

    Reads the file alone: the rules as they were when it was written.

    Exit codes: 0 printed; 2 the file is no result.json; 3 no rule said anything.

    Example: radloop rules explain results/result.json
    """
    try:
        findings = [
            {"bundle": entry["bundle"], **finding}
            for entry in json.loads(result.read_text(encoding="utf-8"))["results"]
            for finding in entry["findings"]
        ]
        told = [
            {key: finding[key] for key in ("bundle", "label", "severity", "rules")}
            for finding in findings
        ]
    except (OSError, ValueError, KeyError, TypeError):
        typer.secho(f"{result} is no result.json of a run with rules.", err=True, fg="red")
        raise typer.Exit(Exit.USAGE) from None
    if as_json:
        typer.echo(json.dumps(told, indent=1))
    else:
        for finding in told:
            _print_finding(finding)
    raise typer.Exit(Exit.OK if any(one["rules"] for one in told) else Exit.NO_MATCH)


def _print_finding(finding: dict[str, Any]) -> None:
    typer.echo(f"{finding['label']} ({finding['bundle']}): severity {finding['severity']}")
    if not finding["rules"]:
        typer.echo("  no rule says anything to it")
    for said in finding["rules"]:
        standing = f"accepted by {said['accepted_by']}" if said["accepted_by"] else "proposed"
        typer.echo(f"  {said['rule']} ({standing}, {said['severity']})")
        typer.echo(f"    {said['statement']}")
        typer.echo(f"    decided by: {', '.join(said['decided_by'])}")
        typer.echo(f"    source: {said['citation']}")
        for name in ("differentials", "recommendations"):
            if said[name]:
                typer.echo(f"    {name}: {'; '.join(said[name])}")


def _book() -> Rulebook:
    from app.rules import site_rulebook
    from app.settings import load_settings

    return site_rulebook(load_settings())


def _as_dict(rule: Rule, book: Rulebook) -> dict[str, Any]:
    return asdict(rule) | {"accepted_by": book.accepted_by(rule)}


def _standing(rule: Rule, book: Rulebook) -> str:
    if by := book.accepted_by(rule):
        return f"accepted by {by}"
    if rule.id in book.accepted:
        return "proposed: it was accepted as it stood before, and has changed"
    return "proposed"


def _verified(rule: Rule) -> str:
    return f"verified by {rule.verified_by}" if rule.verified_by else "not verified by anybody"
