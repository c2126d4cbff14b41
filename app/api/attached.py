"""Run a command that ends with us: `python -m app.api.attached PROGRAM ARGUMENT…`.

The API process blocks the parent's signals, and a child inherits that; and a child
whose parent is killed lives on. Both are put right here, before the command replaces
this process, rather than between fork and exec of a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from app.child import PARENTS_SIGNALS

PR_SET_PDEATHSIG = 1  # Linux, prctl(2); it survives the exec


def main() -> None:
    """Become the command."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PARENTS_SIGNALS)
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
