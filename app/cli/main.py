"""`radloop`: one command a file; nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys

import typer

from app.cli.bundles import bundles
from app.cli.bundles_verify import verify
from app.cli.demo import demo
from app.cli.doctor import doctor
from app.cli.exit_codes import Exit
from app.cli.package import package
from app.cli.routes import routes
from app.cli.rules import rules
from app.cli.run import run
from app.cli.segment import segment
from app.cli.serve import serve
from app.cli.studies import studies
from app.cli.trace import trace
from app.cli.train import train
from app.cli.verdict import confirm, reject, verdicts
from app.cli.viewer import viewer
from app.cli.worker import worker
from app.quiet import silence_libraries
from operators.errors import Refusal

cli = typer.Typer(
    name="radloop",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="DICOM studies in, SEG and SR out, beside your PACS. "
    "Research use: not for diagnosis until validated locally.",
)
cli.command()(demo)
cli.command()(run)
cli.command()(segment)
cli.command()(serve)
cli.command()(worker)
cli.command()(confirm)
cli.command()(reject)
cli.command()(verdicts)
cli.command()(trace)
cli.command()(viewer)
cli.command()(package)
cli.command()(doctor)
bundles.command("verify")(verify)
cli.add_typer(bundles, name="bundles")
cli.add_typer(studies, name="studies")
cli.add_typer(routes, name="routes")
cli.add_typer(rules, name="rules")
cli.add_typer(train, name="train")


@cli.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"radloop {installed('radloop')}")
        raise typer.Exit(Exit.OK)


def main() -> None:
    """Entry point: a refusal is one sentence on stderr, never a traceback."""
    silence_libraries()
    try:
        cli()
    except Refusal as refusal:
        typer.secho(refusal.reason, err=True, fg=typer.colors.RED)
        sys.exit(Exit.FAILED)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)


if __name__ == "__main__":
    main()
