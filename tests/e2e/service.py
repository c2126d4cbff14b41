"""`radloop serve` with another job in its worker: `python -m tests.e2e.service JOB [SLOT]`.

With a slot: `radloop worker` of that slot. TEST_WORKFLOW_VERSION: that of another release.
"""

from __future__ import annotations

import os
import sys

from app.cli.serve import leave, say
from app.delivery import from_settings
from app.serve import Service
from app.settings import load_settings
from app.workflow import engine
from app.workflow.alone import run_alone
from operators.errors import Refusal
from tests.app import jobs

if __name__ == "__main__":
    settings = load_settings()
    engine.VERSION = os.environ.get("TEST_WORKFLOW_VERSION", engine.VERSION)
    job, destinations = getattr(jobs, sys.argv[1]), from_settings(settings)
    try:
        if sys.argv[2:]:
            run_alone(settings, factory=job, destinations=destinations, slot=sys.argv[2], say=say)
        else:
            Service(settings, factory=job, destinations=destinations, say=say).run()
        leave()
    except Refusal as refusal:
        print(refusal.reason, file=sys.stderr)
        sys.exit(1)
