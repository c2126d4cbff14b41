"""`radloop serve` with another job in its worker: `python -m tests.e2e.service JOB`."""

from __future__ import annotations

import sys

from app.cli.serve import say
from app.delivery import from_settings
from app.serve import Service
from app.settings import load_settings
from operators.errors import Refusal
from tests.app import jobs

if __name__ == "__main__":
    settings = load_settings()
    try:
        Service(
            settings,
            factory=getattr(jobs, sys.argv[1]),
            destinations=from_settings(settings),
            say=say,
        ).run()
    except Refusal as refusal:
        print(refusal.reason, file=sys.stderr)
        sys.exit(1)
