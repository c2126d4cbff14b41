"""Why a network is not exported, or an export not used.

ExportRefusal            RL-1650   anything below
├── PackageMissing       RL-1651   a runtime is not installed
├── NotExportable        RL-1652   the network can't be written in that format
├── CheckFailed          RL-1653   the export answers otherwise than torch
├── CheckNeeded          RL-1654   fewer bits without a comparison on real images
├── NoRuntime            RL-1655   the card allows no runtime that is here
├── ExportUnusable       RL-1656   an export is damaged, or about other weights
├── WindowUnfit          RL-1657   the network is asked in another shape than was exported
└── PrecisionUnfit       RL-1658   a number format that this runtime or CPU does not have
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from operators.errors import ModelRefusal

INSTALL = "pip install 'radloop[runtimes]'"


class ExportRefusal(ModelRefusal):
    """An export can't be made or used."""

    code = "RL-1650"


class PackageMissing(ExportRefusal):
    """The package of a runtime is not installed."""

    code = "RL-1651"

    def __init__(self, package: str) -> None:
        super().__init__(f"{package} is not installed on this machine: {INSTALL}.")


class NotExportable(ExportRefusal):
    """The network can't be written in that format."""

    code = "RL-1652"

    def __init__(self, bundle: str, kind: str, why: str) -> None:
        super().__init__(
            f"bundle '{bundle}' can't be exported to {kind}: {why}. It runs in torch as before."
        )


class CheckFailed(ExportRefusal):
    """The exported network answers otherwise than torch does."""

    code = "RL-1653"

    def __init__(self, bundle: str, what: str, found: float, limit: float) -> None:
        super().__init__(
            f"bundle '{bundle}': {what} is {found:.4g}, the limit {limit:g}. "
            "Nothing was written, and torch goes on serving; try another format or float32."
        )


class CheckNeeded(ExportRefusal):
    """Fewer bits than float32 are taken only where real images say that they do no harm."""

    code = "RL-1654"

    def __init__(self, bundle: str, why: str) -> None:
        super().__init__(
            f"bundle '{bundle}': bf16 needs a comparison on real images: {why}. "
            "Give --check STUDY_DIR, a study that the bundle accepts and finds something in."
        )


class NoRuntime(ExportRefusal):
    """The card names the runtimes that are allowed, and none of them can be used here."""

    code = "RL-1655"

    def __init__(self, bundle: str, allowed: Sequence[str], reasons: Sequence[str]) -> None:
        why = "; ".join(reasons) or "nothing was exported for it"
        super().__init__(
            f"bundle '{bundle}': its card allows only {', '.join(allowed)}: {why}. "
            f"{INSTALL}, then `radloop bundles export {bundle}`, or let the card allow torch "
            "(run.runtimes)."
        )


class ExportUnusable(ExportRefusal):
    """An export is damaged, was made of other weights, or was not checked here."""

    code = "RL-1656"

    def __init__(self, folder: Path, why: str) -> None:
        self.why = f"{folder.name}: {why}"
        super().__init__(f"export {folder} {why}. It is not used: export the bundle again.")


class WindowUnfit(ExportRefusal):
    """A network is asked in another shape than it was exported for."""

    code = "RL-1657"

    def __init__(self, runtime: str, found: Sequence[int], exported: Sequence[int]) -> None:
        wanted = " x ".join("any" if n < 0 else str(n) for n in exported)
        super().__init__(
            f"{runtime}: the network was exported for {wanted}, and is asked "
            f"{' x '.join(map(str, found))}. Remove the bundle's folder in state_dir/exports; "
            "torch takes any shape."
        )


class PrecisionUnfit(ExportRefusal):
    """A number format that this runtime or CPU does not have."""

    code = "RL-1658"

    def __init__(self, kind: str, precision: str, why: str) -> None:
        super().__init__(f"{kind} does not run {precision} here: {why}. Use --dtype fp32.")
