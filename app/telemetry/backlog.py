"""Audit messages that the audit file would not take, kept until it does, in order.

A file in the spool, readable by its owner only: the spool holds the images
themselves, so a Patient ID in it is no more than is there already. A message is
repeated until the audit file has it; a crash between the two may repeat it once more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

MAX_BYTES = 64 << 20  # some 40,000 messages
AT_ONCE = 500  # messages handed over in one write: each write is a sync


class BacklogFullError(OSError):
    """It holds as much as it may."""


class Backlog:
    """The messages that wait.

    Parameters
    ----------
    file : Path
        One message a line; absent while none waits.
    max_bytes : int
        It grows no larger.
    """

    def __init__(self, file: Path, max_bytes: int = MAX_BYTES) -> None:
        self._file, self._max_bytes = file, max_bytes

    def __len__(self) -> int:
        return len(self._lines())

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._file.exists()

    def add(self, line: bytes) -> None:
        """Keep one line, durably.

        Raises
        ------
        BacklogFullError
            It is full.
        OSError
            It can't be written.
        """
        size = self._file.stat().st_size if self._file.exists() else 0
        if size + len(line) > self._max_bytes:
            raise BacklogFullError(f"{size} bytes of audit messages wait already")
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            written = os.write(descriptor, line)
            if written != len(line):
                os.ftruncate(descriptor, size)  # no half a message before the next
                raise OSError("the disk took a part of a message only")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def hand_over(self, write: Callable[[bytes], None]) -> None:
        """Give all lines to `write`, oldest first, many at once; forget those that it took.

        Raises
        ------
        OSError
            What `write` or the file said; the lines from there on stay.
        """
        lines = self._lines()
        for start in range(0, len(lines), AT_ONCE):
            try:
                write(b"".join(lines[start : start + AT_ONCE]))
            except OSError:
                if start:
                    self._replace(lines[start:])
                raise
        self._file.unlink(missing_ok=True)

    def _lines(self) -> list[bytes]:
        if self.is_empty:
            return []
        # A crash may have cut the last one off: it was not acknowledged to anybody.
        return [line for line in self._file.read_bytes().splitlines(True) if line.endswith(b"\n")]

    def _replace(self, lines: list[bytes]) -> None:
        unfinished = self._file.with_suffix(".new")
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._file)
