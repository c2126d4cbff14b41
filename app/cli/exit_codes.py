"""What `radloop` exits with, in one place."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command.

    USAGE is what typer itself uses for a wrong option.
    """

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_MATCH = 3
    REFUSED = 4
    INTERRUPTED = 130


TABLE = """\
Exit codes: 0 every matching series has a result; 1 failed, reason on stderr; 2 wrong usage;
3 no series matches a bundle; 4 something was refused (what has a result is written all the same);
130 interrupted."""
