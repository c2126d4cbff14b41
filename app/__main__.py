"""Entry point of the MAP: one shot, folders from HOLOSCAN_*, fails loudly.

``python -m app`` reads HOLOSCAN_INPUT_PATH and writes HOLOSCAN_OUTPUT_PATH
(MONAI Application Package specification); HOLOSCAN_MODEL_PATH is a folder of
more bundles. Exit codes are those of `radloop run`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from app.cli.exit_codes import Exit
from app.cli.run import exit_code
from app.oneshot import Nothing, analyse_folder
from app.quiet import silence_libraries
from app.rules import site_rulebook
from app.settings import load_settings
from operators.errors import Refusal
from operators.models.champion import CHAMPIONS


def main() -> int:
    """Run once; the result is printed as JSON."""
    silence_libraries()
    try:
        source = Path(os.environ["HOLOSCAN_INPUT_PATH"])
        target = Path(os.environ["HOLOSCAN_OUTPUT_PATH"])
    except KeyError as missing:
        print(f"{missing.args[0]} is not set: it names a folder (MAP contract)", file=sys.stderr)
        return Exit.USAGE
    if models := os.environ.get("HOLOSCAN_MODEL_PATH"):
        os.environ["RADLOOP_BUNDLES"] = models
    try:
        settings = load_settings()
        result = analyse_folder(
            source,
            target,
            champions=settings.state_dir / CHAMPIONS,
            extra=settings.extra_evidence,
            rules=site_rulebook(settings),
        )
    except Nothing as nothing:
        print(nothing.reason, file=sys.stderr)
        return Exit.USAGE
    except Refusal as refusal:
        print(refusal.reason, file=sys.stderr)
        return Exit.FAILED
    print(json.dumps(result, indent=1))
    return exit_code(result)


if __name__ == "__main__":
    sys.exit(main())
