"""What `radloop package` refuses.

PackageRefusal          RL-1600
├── NoCheckout          RL-1601   installed as a wheel: no constraints.txt, no app.yaml
├── Unpinned            RL-1602   a needed package is not in the lock
├── ContextUnwritable   RL-1603   the output folder is somebody else's, or can't be written
├── PackagerFailed      RL-1604   holoscan's packager gave up
├── NothingToPack       RL-1605   no bundle that could run
├── VersionsDiffer      RL-1606   app.yaml and pyproject.toml
└── TagInvalid          RL-1607   no name:tag that docker takes
"""

from __future__ import annotations

from pathlib import Path

from operators.errors import Refusal


class PackageRefusal(Refusal):
    """No build context is written."""

    code = "RL-1600"


class NoCheckout(PackageRefusal):
    """The lock and the application's configuration are not there."""

    code = "RL-1601"

    def __init__(self, root: Path, missing: list[str]) -> None:
        super().__init__(
            f"{root} lacks {', '.join(missing)}: a package is made from a checkout of radloop, "
            "not from an installed wheel. Clone the repository, `make setup`, and run it there."
        )


class Unpinned(PackageRefusal):
    """A package that would be installed in whatever version there is that day."""

    code = "RL-1602"

    def __init__(self, names: list[str]) -> None:
        super().__init__(
            f"constraints.txt does not pin {', '.join(names)}, which the image needs: `make lock`."
        )


class ContextUnwritable(PackageRefusal):
    """The output can't be written."""

    code = "RL-1603"

    def __init__(self, output: Path, why: str) -> None:
        super().__init__(
            f"the build context can't go to {output} ({why}). Choose another folder with -o."
        )


class PackagerFailed(PackageRefusal):
    """`monai-deploy package` did not reach its end."""

    code = "RL-1604"

    def __init__(self, why: str) -> None:
        super().__init__(
            f"monai-deploy package failed: {why}. Nothing was written; "
            "`pip show holoscan-cli` must say 4.2.0 (`make setup`)."
        )


class NothingToPack(PackageRefusal):
    """Not one bundle could run in the image."""

    code = "RL-1605"

    def __init__(self, left_out: list[str]) -> None:
        why = "; ".join(left_out) or "none is installed"
        super().__init__(f"no bundle to package: {why}. `radloop bundles list` shows their state.")


class VersionsDiffer(PackageRefusal):
    """The image would call itself by another version than the code."""

    code = "RL-1606"

    def __init__(self, in_app_yaml: str, in_project: str) -> None:
        super().__init__(
            f"app.yaml says version {in_app_yaml}, pyproject.toml {in_project}: "
            "write the same in both (in app.yaml within quotes)."
        )


class TagInvalid(PackageRefusal):
    """Docker would not take the image's name."""

    code = "RL-1607"

    def __init__(self, tag: str) -> None:
        super().__init__(
            f"{tag!r} is no image name: write NAME:TAG, the name in lower case and without a "
            "port, e.g. hospital/radloop:0.1.0."
        )
