"""`python -m scripts.run BUNDLE CONFIG…`: MONAI's own `run`, whose command line needs `fire`."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai.bundle import run


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("configs", nargs="+", help="names in its configs folder; a later one wins")
    given = parser.parse_args()
    configs = given.bundle / "configs"
    run(
        bundle_root=str(given.bundle),
        config_file=[str(configs / f"{name}.yaml") for name in given.configs],
        logging_file=str(configs / "logging.conf"),
    )


if __name__ == "__main__":
    main()
