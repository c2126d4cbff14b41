"""Ctrl-C while a graph runs: holoscan installs its own handlers, and ends the process with 1.

So SIGINT is blocked for every thread, and one thread waits for it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.cli.exit_codes import Exit
from app.oneshot import not_there, remove_empty

LOOK_SECONDS = 0.1
SHOW_CURSOR = "\r\x1b[K\x1b[?25h"  # a progress bar hides it, and has no time to end


@contextmanager
def interruptible(output: Path) -> Iterator[None]:
    """End with 130 at a SIGINT within the block, whatever native code is at work.

    Nothing is unwound: what is being written stays as it is, and a second run writes it
    anew. An output folder that this command made and that is empty goes.

    Parameters
    ----------
    output : Path
        Where the command's results go.
    """
    ended, made = threading.Event(), not_there(output)

    def watch() -> None:
        while not ended.is_set():
            if signal.sigtimedwait({signal.SIGINT}, LOOK_SECONDS) is not None:
                remove_empty(made)
                sys.stderr.write((SHOW_CURSOR if sys.stderr.isatty() else "") + "interrupted\n")
                sys.stderr.flush()
                os._exit(Exit.INTERRUPTED)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    watcher = threading.Thread(target=watch, name="interrupt", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
