"""What stands beside an export, and whether the export may be used.

An export lies in ``exports/BUNDLE/WEIGHTS/FORMAT-PRECISION/`` of the state folder, with
`export.json`: of which weights and config it was made, the sha256 of each of its files,
and how its answers differed from torch's. It is used only where all of that still
holds on this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from operators.models.runtimes.interface import RUNTIME_OF, Format, Precision, Subject
from operators.models.runtimes.machine import cpu_model, package_version
from operators.models.runtimes.refusals import CheckFailed, CheckNeeded, ExportUnusable
from operators.models.runtimes.shapes import Shape

RECORD_FILE = "export.json"
SCHEMA = 1
# Other orders of adding up move float32 by some 1e-5 of the largest answer; a wrong operator
# by more than 1e-2.
MAX_RELATIVE_DIFFERENCE = 1e-3
MIN_PHANTOM_DICE = 0.999
# Two readers' contours of one organ agree by some .9: a loss of .02 is far below that.
MIN_REAL_DICE = 0.98
_NAME_LENGTH = 16  # of a sha256 that names a folder; the record has the whole


@dataclass(frozen=True)
class PartRecord:
    """One part of a network.

    Attributes
    ----------
    name : str
        Of the part.
    shapes : tuple of tuple of int
        What it was exported for, one for each input; -1: any length.
    sample : tuple of tuple of int
        One such call, to measure its time by.
    files : mapping of str to str
        Name and sha256; the first is what the runtime opens. Empty for torch.
    """

    name: str
    shapes: tuple[Shape, ...]
    sample: tuple[Shape, ...]
    files: Mapping[str, str]


@dataclass(frozen=True)
class Checks:
    """How the export's answers differ from those of torch in float32.

    Attributes
    ----------
    max_abs_difference : float
        On the phantom, over all parts and outputs.
    largest : float
        Largest absolute value of torch's answers, of the part, and of its channel where
        channels are labels, where the difference is largest in relation to it.
    phantom_dice : float or None
        Of the labels on the phantom, all structures together; None: neither found any.
    real : mapping of str to float, or None
        Dice on real images by name of the structure; None: not compared.
    """

    max_abs_difference: float
    largest: float
    phantom_dice: float | None
    real: Mapping[str, float] | None

    def verify(self, bundle: str, precision: Precision) -> None:
        """Hold the differences against the limits.

        Raises
        ------
        CheckFailed
            One is past its limit.
        CheckNeeded
            Fewer bits than float32, and nothing real was compared.
        """
        if precision == "float32":
            relative = self.max_abs_difference / max(self.largest, 1e-12)
            # Written so that a NaN fails.
            if not relative <= MAX_RELATIVE_DIFFERENCE:
                what = "largest difference to torch, in parts of the largest answer of its channel,"
                raise CheckFailed(bundle, what, relative, MAX_RELATIVE_DIFFERENCE)
            if self.phantom_dice is not None and not self.phantom_dice >= MIN_PHANTOM_DICE:
                what = "Dice against torch on the phantom"
                raise CheckFailed(bundle, what, self.phantom_dice, MIN_PHANTOM_DICE)
        elif not self.real:
            raise CheckNeeded(bundle, "none was made")
        for name, dice in (self.real or {}).items():
            if not dice >= MIN_REAL_DICE:
                what = f"Dice against torch of {name} on real images"
                raise CheckFailed(bundle, what, dice, MIN_REAL_DICE)


@dataclass(frozen=True)
class Record:
    """One export.

    Attributes
    ----------
    subject : Subject
        Whose network.
    format : Format
        Which runtime reads it.
    precision : Precision
        In which it is to run.
    device : str
        ``cpu`` or ``cuda``: where it was compared.
    cpu : str
        On which processor it was compared.
    versions : mapping of str to str
        Of torch, of monai, whose networks bundles name, and of the runtime.
    parts : tuple of PartRecord
        All parts of the network.
    checks : Checks
        The comparison.
    made_at : str
        ISO 8601, UTC.
    """

    subject: Subject
    format: Format
    precision: Precision
    device: str
    cpu: str
    versions: Mapping[str, str]
    parts: tuple[PartRecord, ...]
    checks: Checks
    made_at: str


def exports_of(exports: Path, subject: Subject) -> Path:
    """Folder of all exports of one bundle with one set of weights."""
    return exports / subject.bundle / subject.weights_sha256[:_NAME_LENGTH]


def runtime_versions(format_: Format) -> dict[str, str]:
    """Versions that the answers of an export depend on."""
    names = {"torch", "monai", RUNTIME_OF[format_]}
    return {name: package_version(name) or "absent" for name in sorted(names)}


def file_sha256(file: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with file.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()


def write_record(folder: Path, record: Record) -> None:
    """Write `export.json` into an export's folder, durably."""
    write_durably(folder / RECORD_FILE, {"schema": SCHEMA, **asdict(record)})


def write_durably(file: Path, content: Mapping[str, Any]) -> None:
    """Put JSON in a file's place by one rename; on the disk when this returns."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    with unfinished.open("w", encoding="utf-8") as writer:
        writer.write(json.dumps(content, indent=1, allow_nan=False) + "\n")
        writer.flush()
        os.fsync(writer.fileno())
    unfinished.replace(file)
    descriptor = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_usable(folder: Path, subject: Subject, device: str) -> Record:
    """The record of an export that may be used here and now for this network.

    Parameters
    ----------
    folder : Path
        Of one export.
    subject : Subject
        The network that is to run.
    device : str
        Where it is to run.

    Raises
    ------
    ExportUnusable
        Anything about it does not hold; says what.
    """
    record = _read(folder)
    if record.subject != subject:
        for name, mine in asdict(record.subject).items():
            if mine != getattr(subject, name):
                why = f"was made of another {name} ({str(mine)[:12]}…)"
                raise ExportUnusable(folder, why)
    if record.device != device:
        raise ExportUnusable(folder, f"was compared on {record.device}, this is {device}")
    for name in runtime_versions(record.format):
        if name not in record.versions:
            raise ExportUnusable(folder, f"does not say with which {name} it was compared")
    for name, version in record.versions.items():
        here = package_version(name)
        if here is None:
            raise ExportUnusable(folder, f"needs {name}, which is not installed")
        if here != version:
            raise ExportUnusable(folder, f"was compared with {name} {version}, here is {here}")
    # float32 rounds alike everywhere; how products of fewer bits are added is the CPU's own.
    if record.precision != "float32" and record.cpu != cpu_model():
        raise ExportUnusable(folder, "was compared on another processor")
    for part in record.parts:
        for name, sha256 in part.files.items():
            file = folder / name
            if file.parent != folder or not file.is_file() or file_sha256(file) != sha256:
                raise ExportUnusable(folder, f"has another {name} than was compared")
    try:
        record.checks.verify(subject.bundle, record.precision)
    except (CheckFailed, CheckNeeded) as failed:
        raise ExportUnusable(folder, f"did not pass its comparison ({failed.code})") from failed
    return record


def _read(folder: Path) -> Record:
    try:
        content = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        if content.pop("schema") != SCHEMA:
            raise ExportUnusable(folder, "has a record of another schema")
        parts = tuple(
            PartRecord(
                name=part["name"],
                shapes=tuple(tuple(map(int, shape)) for shape in part["shapes"]),
                sample=tuple(tuple(map(int, shape)) for shape in part["sample"]),
                files=dict(part["files"]),
            )
            for part in content.pop("parts")
        )
        subject, checks = Subject(**content.pop("subject")), Checks(**content.pop("checks"))
        if content["format"] not in RUNTIME_OF or content["precision"] not in (
            "float32",
            "bfloat16",
        ):
            raise ExportUnusable(folder, "has a record of an unknown format")
        return Record(subject=subject, parts=parts, checks=checks, **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportUnusable(folder, f"has no readable {RECORD_FILE}") from error
