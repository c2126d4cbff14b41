"""Write a network for another runtime, and hold that runtime's answers against torch's.

What does not pass is not written: an export is in its place, with its record, or is not.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.models.runtimes.interface import RUNTIME_OF, Format, Precision, Serving, Subject
from operators.models.runtimes.machine import (
    cpu_has_bfloat16,
    cpu_model,
    import_package,
)
from operators.models.runtimes.record import (
    Checks,
    PartRecord,
    Record,
    exports_of,
    file_sha256,
    runtime_versions,
    write_record,
)
from operators.models.runtimes.refusals import CheckNeeded, NotExportable, PrecisionUnfit
from operators.models.runtimes.serve import load
from operators.models.runtimes.shapes import Shape, common_shape

if TYPE_CHECKING:
    import torch

OPSET = 17
# Of the largest answer: float32 does not hold smaller ones to MAX_RELATIVE_DIFFERENCE.
RESOLVED = 1e-4


@dataclass(frozen=True)
class Part:
    """A network, or a part of one that is called apart.

    Attributes
    ----------
    name : str
        Of the part.
    module : torch.nn.Module
        Evaluating, on the CPU.
    samples : tuple of tuple of torch.Tensor
        Two calls of it. An axis whose length differs between them may have any.
    labels : callable or None
        What its (first) output means as a mask or labels; None: nothing by itself.
    """

    name: str
    module: torch.nn.Module
    samples: tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]
    labels: Callable[[torch.Tensor], torch.Tensor] | None

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """What it is exported for, one shape for each input."""
        return tuple(common_shape(a.shape, b.shape) for a, b in zip(*self.samples, strict=True))


def check_format(
    bundle: str, format_: Format, precision: Precision, *, compares_real: bool
) -> None:
    """Whether that is a thing to make at all, before anything heavy is done.

    Raises
    ------
    PackageMissing
        Its runtime is not installed.
    PrecisionUnfit
        Its runtime or the CPU does not have the number format.
    CheckNeeded
        Fewer bits than float32, and no real images.
    """
    if format_ == "torch" and precision == "float32":
        raise PrecisionUnfit("torch", "float32", "as an export: it serves so without one")
    if format_ == "onnx" and precision == "bfloat16":
        raise PrecisionUnfit("onnxruntime", "bfloat16", "its CPU kernels are float32")
    if precision == "bfloat16" and not cpu_has_bfloat16():
        raise PrecisionUnfit(RUNTIME_OF[format_], "bfloat16", "this CPU has no avx512_bf16 or amx")
    import_package(RUNTIME_OF[format_])
    if format_ == "onnx":
        import_package("onnx")
    if precision == "bfloat16" and not compares_real:
        raise CheckNeeded(bundle, "none was given")


def export_network(
    parts: Sequence[Part],
    subject: Subject,
    format_: Format,
    precision: Precision,
    exports: Path,
    *,
    compare_real: Callable[[Serving], Mapping[str, float]] | None = None,
) -> tuple[Path, Record]:
    """Write all parts of a network, compare, and put them in place.

    Parameters
    ----------
    parts : sequence of Part
        The network.
    subject : Subject
        Whose it is.
    format_, precision : Format, Precision
        As `check_format` takes them.
    exports : Path
        ``exports`` of a state folder; made if missing.
    compare_real : callable or None
        Given the export, ready to be called: Dice against torch by structure.

    Returns
    -------
    folder : Path
        The export's; one that was there is replaced.
    record : Record
        What was found.

    Raises
    ------
    NotExportable
        The network can't be written in that format.
    CheckFailed, CheckNeeded
        Its answers are not torch's; nothing is changed then.
    """
    import torch

    home = exports_of(exports, subject)
    home.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".making-", dir=home))
    try:
        with torch.no_grad():
            written = [_write(part, format_, staged, subject.bundle) for part in parts]
        record = Record(
            subject=subject,
            format=format_,
            precision=precision,
            device="cpu",
            cpu=cpu_model(),
            versions=runtime_versions(format_),
            parts=tuple(written),
            checks=Checks(0.0, 0.0, 0.0, None),
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        modules = {part.name: part.module for part in parts}
        serving = load(record, staged, modules, torch.device("cpu"))
        checks = compare(parts, serving)
        if compare_real is not None:
            checks = replace(checks, real=compare_real(serving))
        checks.verify(subject.bundle, precision)
        record = replace(record, checks=checks)
        write_record(staged, record)
        return _put_in_place(staged, home / f"{format_}-{precision}"), record
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _put_in_place(staged: Path, place: Path) -> Path:
    staged.chmod(0o755)
    if place.exists():
        aside = Path(tempfile.mkdtemp(prefix=".old-", dir=place.parent))
        place.replace(aside / place.name)
        staged.replace(place)
        shutil.rmtree(aside)
    else:
        staged.replace(place)
    return place


def _write(part: Part, format_: Format, folder: Path, bundle: str) -> PartRecord:
    """Write one part; its record, without any comparison yet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, about shapes that are fixed on purpose
            found = part.module(*part.samples[0])
            outputs = found if isinstance(found, tuple) else (found,)
            import torch

            if not all(isinstance(value, torch.Tensor) for value in outputs):
                raise NotExportable(bundle, format_, "it gives something else than tensors")
            if format_ == "onnx":
                names = _write_onnx(part, len(outputs), folder)
            elif format_ == "openvino":
                names = _write_openvino(part, folder)
            else:
                names = []
    except NotExportable:
        raise
    except Exception as error:  # tracers raise whatever they meet
        why = f"its {part.name} can't be traced ({type(error).__name__})"
        raise NotExportable(bundle, format_, why) from error
    return PartRecord(
        name=part.name,
        shapes=part.shapes,
        sample=tuple(tuple(value.shape) for value in part.samples[0]),
        files={name: file_sha256(folder / name) for name in names},
    )


def _write_onnx(part: Part, outputs: int, folder: Path) -> list[str]:
    import torch

    name = f"{part.name}.onnx"
    inputs = [f"input_{n}" for n in range(len(part.shapes))]
    free = {
        name: {axis: f"{name}_{axis}" for axis, length in enumerate(shape) if length < 0}
        for name, shape in zip(inputs, part.shapes, strict=True)
    }
    torch.onnx.export(
        part.module,
        part.samples[0],
        str(folder / name),
        dynamo=False,
        opset_version=OPSET,
        input_names=inputs,
        output_names=[f"output_{n}" for n in range(outputs)],
        # Fixed axes are left out of it; what comes out follows from what goes in.
        dynamic_axes={name: axes for name, axes in free.items() if axes} or None,
    )
    return [name]


def _write_openvino(part: Part, folder: Path) -> list[str]:
    openvino = import_package("openvino")
    example = part.samples[0] if len(part.shapes) > 1 else part.samples[0][0]
    shapes = [openvino.PartialShape(list(shape)) for shape in part.shapes]
    model = openvino.convert_model(part.module, example_input=example, input=shapes)
    name = f"{part.name}.xml"
    # float16 would save half of the disk and round every weight.
    openvino.save_model(model, str(folder / name), compress_to_fp16=False)
    return [name, f"{part.name}.bin"]


def compare(parts: Iterable[Part], serving: Serving) -> Checks:
    """Differences between an export and its modules in torch, float32, on the parts' samples."""
    import torch

    worst, largest, relative = 0.0, 1.0, -1.0
    agree, found = 0, 0
    for part in parts:
        for inputs in part.samples:
            with torch.inference_mode():
                right, asked = part.module(*inputs), serving.parts[part.name](*inputs)
            pairs = list(zip(_tensors(right), _tensors(asked), strict=True))
            for expected, value in pairs:
                by_channel = part.labels is not None and value is pairs[0][1]
                for difference, scale in _differences(expected, value, by_channel=by_channel):
                    # NaN compares as not smaller, so that it is kept and fails.
                    if not difference / scale <= relative:
                        worst, largest, relative = difference, scale, difference / scale
            if part.labels is not None:
                ours, theirs = (part.labels(value) for value in pairs[0])
                agree += int(((ours == theirs) & (ours > 0)).sum())
                found += int((ours > 0).sum()) + int((theirs > 0).sum())
    return Checks(worst, largest, 2 * agree / found if found else None, None)


def _differences(
    expected: torch.Tensor, value: torch.Tensor, *, by_channel: bool
) -> Iterator[tuple[float, float]]:
    """Largest difference and its scale: of all, or of each channel (axis 1) by itself.

    A background's large answers must not hide that a structure's small ones are wrong.
    """
    floor = max(RESOLVED * float(expected.abs().max()), 1e-12)
    apart = by_channel and expected.ndim > 2
    pairs = zip(expected.unbind(1), value.unbind(1), strict=True) if apart else [(expected, value)]
    for right, found in pairs:
        yield float((right - found).abs().max()), max(float(right.abs().max()), floor)


def _tensors(value: Any) -> tuple[torch.Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)
