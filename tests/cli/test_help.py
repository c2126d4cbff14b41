"""Every command explains itself: what it does, an example that is one, and how it says no."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from app.cli.main import cli

ROOT_COMMAND: Any = typer.main.get_command(cli)


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands that do something, by their path."""
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))
    if not hasattr(command, "commands"):
        yield path, command


ALL = dict(commands(ROOT_COMMAND))


def test_the_walk_finds_the_commands() -> None:
    assert ("run",) in ALL and ("bundles", "show") in ALL and len(ALL) > 10


@pytest.mark.parametrize("path", sorted(ALL), ids=" ".join)
def test_a_command_has_help_an_example_and_help_for_every_option(path: tuple[str, ...]) -> None:
    command = ALL[path]
    assert command.help and len(command.help.split()) > 8
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert getattr(parameter, "help", None), f"{path}: {parameter.name} has no help"
    example = re.search(rf"Example: (?:\S+=\S+ )*(radloop {' '.join(path)}.*)", command.help)
    assert example, f"{path}: no example that begins with it"


@pytest.mark.parametrize("path", sorted(ALL), ids=" ".join)
def test_an_example_is_understood(path: tuple[str, ...]) -> None:
    """The example's own words pass the parser: no option in it is misspelt or gone."""
    command = ALL[path]
    found = re.search(rf"Example: (?:\S+=\S+ )*radloop {' '.join(path)}(.*)", command.help or "")
    assert found
    words = shlex.split(found[1].replace("…", "x"))
    command.make_context(path[-1], words)


@pytest.mark.parametrize("path", sorted(ALL), ids=" ".join)
def test_an_option_that_is_not_there_is_a_wrong_usage(path: tuple[str, ...]) -> None:
    said = CliRunner().invoke(cli, [*path, "--no-such-option"])
    assert said.exit_code == 2
    assert "--no-such-option" in said.output and "Traceback" not in said.output


@pytest.mark.parametrize("path", sorted(ALL), ids=" ".join)
def test_help_is_shown_as_it_is_written(path: tuple[str, ...]) -> None:
    """Rich takes [words] for markup and drops them; an indented line is shown as it stands."""
    command = ALL[path]
    shown = CliRunner().invoke(cli, [*path, "--help"], env={"COLUMNS": "1000", "TERM": "dumb"})
    said = " ".join(shown.output.split())
    assert not re.search(r"^ +\S", command.help, re.MULTILINE), f"{path}: an indented line"
    for parameter in command.params:
        written = " ".join((getattr(parameter, "help", None) or "").split())
        assert written in said, f"{path}: {parameter.name}"
