"""Comparisons in a process of their own: a decoder that crashes takes nothing with it.

`python -m app.intake.comparer` reads pairs of paths, one JSON list a line, and answers
each with a line. It ends with its input, so with whoever asked.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

from app.intake.same import Comparison, compare

PAIR_SECONDS = 60.0
MAX_ADDRESS_BYTES = 4 << 30  # a bomb behind a pixel encoding ends as MemoryError
IDLE_SECONDS = 10.0
CRASHED = Comparison("other", "can't be compared decoded (its decoder crashed)")
TOO_LONG = Comparison("other", f"can't be compared decoded (not within {PAIR_SECONDS:g} s)")


class Comparer:
    """Asks the process, which is started when there is something to ask.

    Parameters
    ----------
    patience_s : float
        How long one question waits for its answer, s; then it has to be put again.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._child: subprocess.Popen[bytes] | None = None
        self._pair: tuple[Path, Path] | None = None
        self._since = self._used = 0.0

    def ask(self, first: Path, second: Path) -> Comparison | None:
        """What the two are to each other; None while that is being found out. Never raises."""
        self._used = time.monotonic()
        if self._pair != (first, second):
            if self._pair is not None:
                self.close()
            self._pair, self._since = (first, second), self._used
            try:
                self._put(f"{json.dumps([str(first), str(second)])}\n".encode("ascii"))
            except OSError:  # it can't be started now, or has ended while it had nothing to do
                self.close()
                return None
        assert self._child is not None and self._child.stdout is not None
        answered = select.poll()
        answered.register(self._child.stdout, select.POLLIN)
        if answered.poll(self._patience_s * 1000):
            line = self._child.stdout.readline()
            return self._answer(Comparison(*json.loads(line)) if line else CRASHED)
        if time.monotonic() - self._since > PAIR_SECONDS:
            return self._answer(TOO_LONG)
        return None

    def rest(self) -> None:
        """Nothing is to be asked now; the process ends if that has been so for long."""
        if self._child is not None and time.monotonic() - self._used > IDLE_SECONDS:
            self.close()

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
        self._child = self._pair = None

    def _put(self, line: bytes) -> None:
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "app.intake.comparer"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # warnings of a parser name values
            )
        assert self._child.stdin is not None
        self._child.stdin.write(line)
        self._child.stdin.flush()

    def _answer(self, found: Comparison) -> Comparison:
        self._pair = None
        if found in (CRASHED, TOO_LONG):
            self.close()
        return found


def main() -> None:
    """Answer until the input ends; a signal to the whole group must not look like a crash."""
    import resource

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    answers: TextIO = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a decoder may print
    for line in sys.stdin:
        first, second = json.loads(line)
        found = compare(Path(first), Path(second))
        print(json.dumps([found.relation, found.why]), file=answers, flush=True)


if __name__ == "__main__":
    main()
