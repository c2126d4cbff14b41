"""Which weights serve: one small file per bundle, read before each study.

`champions/BUNDLE.json` names the sha256 of the weights; the weights lie beside it in
`models/SHA256.pt`. No file means that the bundle's own weights serve. A file that
can't be trusted never means that: the bundle is refused until somebody mends it.
The file is what a serving host reads, which has no model registry; `training` writes
it, after the registry.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from operators.errors import ModelRefusal

CHAMPIONS, MODELS = "champions", "models"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[A-Za-z0-9]+(\.[A-Za-z0-9]+)*")


class ChampionInvalid(ModelRefusal):
    """The file that names the serving weights can't be trusted."""

    code = "RL-1301"

    def __init__(self, bundle: str, file: Path, problem: str) -> None:
        super().__init__(
            f"bundle '{bundle}': {file} {problem}. It is not run with other weights instead: "
            "`radloop train status` writes the file again from the registry."
        )


class ChampionWeightsMissing(ModelRefusal):
    """The weights that the registry or a champion file names are not there."""

    code = "RL-1302"

    def __init__(self, bundle: str, file: Path) -> None:
        super().__init__(
            f"bundle '{bundle}': weights {file} are missing. Restore state_dir from its backup, "
            "or `radloop train rollback`."
        )


class ChampionWeightsChanged(ModelRefusal):
    """Weights have other bytes than those that were judged."""

    code = "RL-1303"

    def __init__(self, bundle: str, file: Path, found: str) -> None:
        super().__init__(
            f"bundle '{bundle}': weights {file} have sha256 {found[:12]}… and not that of their "
            "name: changed or damaged. Restore state_dir from its backup, or "
            "`radloop train rollback`."
        )


@dataclass(frozen=True)
class Weights:
    """Weights other than those that a bundle came with.

    Attributes
    ----------
    file : Path
        A state dict; its name is its sha256.
    sha256 : str
        What it must hash to.
    version : str
        Of the registry, e.g. ``"mlflow.3"``; follows the bundle's own version.
    """

    file: Path
    sha256: str
    version: str

    def verify(self, bundle: str) -> None:
        """Hash the file.

        Raises
        ------
        ChampionWeightsMissing
            No such file.
        ChampionWeightsChanged
            Another sha256.
        """
        try:
            with self.file.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ChampionWeightsMissing(bundle, self.file) from error
        if found != self.sha256:
            raise ChampionWeightsChanged(bundle, self.file, found)


def weights_of(state_dir: Path, sha256: str, version: int) -> Weights:
    """Weights of one version of the registry: where they lie and what they are called."""
    return Weights(state_dir / MODELS / f"{sha256}.pt", sha256, f"mlflow.{version}")


def read_champion(folder: Path, bundle: str) -> Weights | None:
    """The weights that serve, or None: the bundle's own.

    Parameters
    ----------
    folder : Path
        `champions` in the state folder; may be missing.
    bundle : str
        Name of the bundle.

    Raises
    ------
    ChampionInvalid
        The file is there and unreadable, damaged, or about something else.
    """
    file = folder / f"{bundle}.json"
    try:
        entry = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ChampionInvalid(bundle, file, f"can't be read ({error.strerror})") from error
    except ValueError as error:
        raise ChampionInvalid(bundle, file, "is damaged (no JSON)") from error
    if not isinstance(entry, dict) or entry.get("bundle") != bundle:
        raise ChampionInvalid(bundle, file, "is not about this bundle")
    sha256, version = str(entry.get("sha256")), str(entry.get("version"))
    if not _SHA256.fullmatch(sha256) or not _VERSION.fullmatch(version):
        raise ChampionInvalid(bundle, file, "has no sha256 or no version")
    return Weights(folder.parent / MODELS / f"{sha256}.pt", sha256, version)


def write_champion(folder: Path, bundle: str, weights: Weights) -> None:
    """Let these weights serve: one rename, so that a reader sees the old or the new.

    Durable when this returns. The caller has verified the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"schema": 1, "bundle": bundle, "sha256": weights.sha256, "version": weights.version}
    target = folder / f"{bundle}.json"
    unfinished = folder / f".{bundle}.{os.getpid()}"
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(json.dumps(entry, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(target)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
