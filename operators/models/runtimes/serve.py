"""Which runtime serves a network: chosen among those that may, by one measurement.

The measurement is made once for a machine and a network, and kept in the state folder;
as long as nothing that it depends on has changed, the same runtime serves, so that the
same study gives the same bytes. Another export, another version of a runtime, another
processor or another number of cores is another question, and is measured anew.
"""

from __future__ import annotations

import fcntl
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.models.runtimes.in_onnxruntime import in_onnxruntime
from operators.models.runtimes.in_openvino import in_openvino
from operators.models.runtimes.in_torch import in_torch
from operators.models.runtimes.interface import RUNTIME_OF, Serving, Subject
from operators.models.runtimes.machine import cpu_model, package_version, usable_cores
from operators.models.runtimes.record import (
    RECORD_FILE,
    Record,
    exports_of,
    file_sha256,
    read_usable,
    write_durably,
)
from operators.models.runtimes.refusals import ExportRefusal, ExportUnusable, NoRuntime

if TYPE_CHECKING:
    import torch

log = logging.getLogger("radloop.models")

CHOICE_FILE = "choice.json"
ROUNDS = 5
BUDGET_SECONDS = 20.0
# torch stays unless another is clearly faster: a tie must not decide how results are named.
WORTH_IT = 0.95


def serve(
    parts: Mapping[str, torch.nn.Module],
    device: torch.device,
    subject: Subject,
    exports: Path | None,
    allowed: Sequence[str],
) -> Serving:
    """The runtime for a network.

    Parameters
    ----------
    parts : mapping of str to torch.nn.Module
        The loaded network, evaluating, on `device`.
    device : torch.device
        Where torch runs it.
    subject : Subject
        Whose network it is.
    exports : Path or None
        ``exports`` of the state folder; None, or nothing in it: torch.
    allowed : sequence of str
        Runtimes that the card allows, by their names.

    Raises
    ------
    NoRuntime
        The card does not allow torch, and no other runtime can be used; says why.
    """
    candidates: dict[str, Serving] = {}
    if "torch" in allowed:
        plain = in_torch(parts, device)
        candidates[plain.name] = plain
    folders = _folders(exports, subject)
    records: dict[str, tuple[Record, Path]] = {}
    reasons = []
    for folder in folders:
        try:
            record = read_usable(folder, subject, device.type)
            if RUNTIME_OF[record.format] not in allowed:
                continue
            serving = load(record, folder, parts, device)
        except ExportRefusal as refusal:
            log.warning("event=export_not_used bundle=%s why=%s", subject.bundle, refusal.code)
            reasons.append(refusal.why if isinstance(refusal, ExportUnusable) else str(refusal))
            continue
        candidates[serving.name], records[serving.name] = serving, (record, folder)
    if not candidates:
        raise NoRuntime(subject.bundle, allowed, reasons)
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    assert exports is not None  # only there a second one was found
    return candidates[_choice(exports_of(exports, subject), subject, candidates, records)]


def _folders(exports: Path | None, subject: Subject) -> list[Path]:
    if exports is None:
        return []
    return sorted(file.parent for file in exports_of(exports, subject).glob(f"*/{RECORD_FILE}"))


def load(
    record: Record, folder: Path, parts: Mapping[str, torch.nn.Module], device: torch.device
) -> Serving:
    """Make an export ready to be called.

    Parameters
    ----------
    record : Record
        Of `read_usable`.
    folder : Path
        Where its files are.
    parts : mapping of str to torch.nn.Module
        The network, for torch with fewer bits.
    device : torch.device
        For torch.

    Raises
    ------
    PackageMissing, ExportUnusable
        The runtime is not there, or does not take the files.
    """
    if record.format == "torch":
        return in_torch(parts, device, record.precision)
    files = {part.name: folder / next(iter(part.files)) for part in record.parts}
    shapes = {part.name: part.shapes for part in record.parts}
    try:
        if record.format == "onnx":
            return in_onnxruntime(files, shapes)
        return in_openvino(files, shapes, record.precision)
    except ExportRefusal:
        raise
    except Exception as error:  # each runtime has errors of its own
        why = f"is not taken by {RUNTIME_OF[record.format]} ({type(error).__name__})"
        raise ExportUnusable(folder, why) from error


def _choice(
    folder: Path,
    subject: Subject,
    candidates: Mapping[str, Serving],
    records: Mapping[str, tuple[Record, Path]],
) -> str:
    """Name of the candidate that serves: as decided earlier, or measured now and kept."""
    exported = {name: file_sha256(at / RECORD_FILE) for name, (_, at) in records.items()}
    question = {
        "bundle": subject.bundle,
        "weights_sha256": subject.weights_sha256,
        "config_sha256": subject.config_sha256,
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "torch": package_version("torch"),
        "candidates": {name: exported.get(name, "") for name in sorted(candidates)},
    }
    try:
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another worker that measures would disturb both
            kept = _kept(folder / CHOICE_FILE, question)
            if kept in candidates:
                return kept
            sample = next(iter(records.values()))[0]
            seconds = measure(candidates, sample)
            chosen = fastest(seconds)
            answer = {"schema": 1, "question": question, "seconds": seconds, "chosen": chosen}
            write_durably(folder / CHOICE_FILE, answer)
            return chosen
    except OSError as error:
        # What can't be kept would be measured again tomorrow, perhaps with another result.
        settled = sorted(candidates, key=lambda name: (not _is_torch(name), name))[0]
        log.warning("event=choice_not_kept bundle=%s errno=%s", subject.bundle, error.errno)
        return settled


def _kept(file: Path, question: Mapping[str, Any]) -> str:
    """What was chosen when the same was asked; "" where it was not."""
    try:
        answer = json.loads(file.read_text(encoding="utf-8"))
        return str(answer["chosen"]) if answer["question"] == question else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def fastest(seconds: Mapping[str, float]) -> str:
    """Which runtime is to serve, by the seconds that each took."""
    best = min(seconds, key=lambda name: (seconds[name], name))
    own = [name for name in seconds if _is_torch(name)]
    plain = min(own, key=seconds.__getitem__, default=best)
    return best if seconds[best] < WORTH_IT * seconds[plain] else plain


def _is_torch(name: str) -> bool:
    return name.startswith("torch-")


def measure(
    candidates: Mapping[str, Serving],
    record: Record,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Shortest time of one call of all parts, s, for each candidate; they take turns.

    Parameters
    ----------
    candidates : mapping of str to Serving
        What is compared.
    record : Record
        Says the shapes of a call.
    clock : callable
        Seconds.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    calls = {
        part.name: [torch.rand(shape, generator=generator) for shape in part.sample]
        for part in record.parts
    }

    def once(serving: Serving) -> float:
        began = clock()
        for name, inputs in calls.items():
            serving.parts[name](*inputs)
        return clock() - began

    best: dict[str, float] = {}
    with torch.inference_mode():
        for serving in candidates.values():
            once(serving)  # the first call allocates, and compiles
        began = clock()
        for done in range(ROUNDS):
            for name, serving in candidates.items():
                best[name] = min(best.get(name, float("inf")), once(serving))
            if clock() - began > BUDGET_SECONDS * (done + 1) / (done + 2):
                break
    return best
