"""Runtimes beside torch: the same answers, or none."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from operators.models.runtimes import export as export_module
from operators.models.runtimes import serve as serve_module
from operators.models.runtimes.export import Part, check_format, compare, export_network
from operators.models.runtimes.interface import WHOLE, Serving, Subject
from operators.models.runtimes.machine import import_package
from operators.models.runtimes.network import largest_channel, phantom, whole_network
from operators.models.runtimes.record import MAX_RELATIVE_DIFFERENCE, RECORD_FILE, exports_of
from operators.models.runtimes.refusals import (
    CheckFailed,
    CheckNeeded,
    ExportRefusal,
    NoRuntime,
    NotExportable,
    PackageMissing,
    PrecisionUnfit,
    WindowUnfit,
)
from operators.models.runtimes.serve import CHOICE_FILE, fastest, serve

CPU = torch.device("cpu")
SUBJECT = Subject("small", "a" * 64, "b" * 64)
ALL = ("torch", "onnxruntime", "openvino")
WINDOW = (1, 2, 16, 16, 16)
SLOWEST_FIRST = {"torch": 3.0, "onnx": 2.0, "openvino": 1.0}


def network(seed: int = 0) -> torch.nn.Module:
    """Two channels in, three labels out."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv3d(2, 4, 3, padding=1),
        torch.nn.InstanceNorm3d(4),
        torch.nn.ReLU(),
        torch.nn.Conv3d(4, 3, 3, padding=1),
    ).eval()


def part(module: torch.nn.Module, shapes: tuple = (WINDOW, WINDOW)) -> Part:
    first, second = (phantom(shape, seed) for seed, shape in enumerate(shapes))
    return Part(WHOLE, module, ((first,), (second,)), largest_channel)


def exported(exports: Path, format_: str, module: torch.nn.Module, **changes) -> Path:
    subject = replace(SUBJECT, **changes)
    folder, _ = export_network([part(module)], subject, format_, "float32", exports)
    return folder


def served(exports: Path | None, module: torch.nn.Module, allowed=ALL, subject=SUBJECT) -> Serving:
    return serve({WHOLE: module}, CPU, subject, exports, allowed)


@pytest.fixture
def timed(monkeypatch):
    """Times are given, not taken: OpenVINO is fastest, torch slowest. Counts the measurements."""
    asked = []

    def measure(candidates, _record):
        asked.append(sorted(candidates))
        return {
            name: next(s for kind, s in SLOWEST_FIRST.items() if name.startswith(kind))
            for name in candidates
        }

    monkeypatch.setattr(serve_module, "measure", measure)
    return asked


@pytest.mark.parametrize("format_", ["onnx", "openvino"])
def test_an_export_answers_as_torch_does_on_windows_that_it_never_saw(tmp_path, format_):
    module = network()
    exported(tmp_path, format_, module)

    serving = served(tmp_path, module, allowed=(ALL[1 if format_ == "onnx" else 2],))

    windows = torch.randn(3, *WINDOW[1:], generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        right, found = module(windows), serving.parts[WHOLE](windows)
    assert found.shape == right.shape and found.dtype == torch.float32
    assert (found - right).abs().max() <= MAX_RELATIVE_DIFFERENCE * right.abs().max()
    kind = "onnxruntime" if format_ == "onnx" else "openvino"
    assert serving.name.startswith(f"{kind}-cpu-float32-")


@pytest.mark.parametrize("format_", ["onnx", "openvino"])
def test_what_comes_out_is_not_overwritten_by_the_next_call(tmp_path, format_):
    module = network()
    exported(tmp_path, format_, module)
    runtime = served(tmp_path, module, ("onnxruntime", "openvino")).parts[WHOLE]

    first = runtime(torch.zeros(WINDOW))
    kept = first.clone()
    runtime(torch.ones(WINDOW))

    assert torch.equal(first, kept)


@pytest.mark.parametrize("format_", ["onnx", "openvino"])
def test_two_threads_get_their_own_answers(tmp_path, format_):
    module = network()
    exported(tmp_path, format_, module)
    runtime = served(tmp_path, module, ("onnxruntime", "openvino")).parts[WHOLE]
    windows = [torch.full(WINDOW, float(n)) + phantom(WINDOW, n) for n in range(8)]
    with torch.inference_mode():
        right = [module(window) for window in windows]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(runtime, windows * 4))

    for n, answer in enumerate(found):
        assert torch.allclose(answer, right[n % 8], atol=1e-4)


FROM_A_FOREIGN_THREAD = """
import ctypes, sys
from pathlib import Path
import torch
from operators.models.runtimes.in_openvino import OpenVinoRuntime
(file,) = Path(sys.argv[1]).glob("*.xml")
runtime = OpenVinoRuntime(file, ((1, 2, 16, 16, 16),), "float32")

@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
def call(_):
    print(tuple(runtime(torch.zeros(1, 2, 16, 16, 16)).shape), flush=True)
    return 0

threads, thread = ctypes.CDLL("libpthread.so.0"), ctypes.c_ulong()
for _ in range(3):
    threads.pthread_create(ctypes.byref(thread), None, call, None)
    threads.pthread_join(thread, None)
"""


def test_openvino_survives_the_end_of_a_thread_that_python_did_not_start(tmp_path):
    # As the graph's are. In a process of its own: what is tested took the process with it.
    folder = exported(tmp_path, "openvino", network())
    done = subprocess.run(
        [sys.executable, "-c", FROM_A_FOREIGN_THREAD, folder], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(1, 3, 16, 16, 16)"] * 3


@pytest.mark.parametrize("format_", ["onnx", "openvino"])
def test_an_axis_that_differed_between_the_samples_may_have_any_length(tmp_path, format_):
    module = network()
    shapes = ((1, 2, 16, 16, 16), (1, 2, 16, 24, 16))
    _, record = export_network([part(module, shapes)], SUBJECT, format_, "float32", tmp_path)
    assert record.parts[0].shapes == ((1, 2, 16, -1, 16),)
    runtime = served(tmp_path, module, ("onnxruntime", "openvino")).parts[WHOLE]

    window = phantom((1, 2, 16, 40, 16), 3)
    with torch.inference_mode():
        assert torch.allclose(runtime(window), module(window), atol=1e-4)
    with pytest.raises(WindowUnfit, match="16 x any x 16, and is asked 1 x 2 x 18 x 16 x 16"):
        runtime(torch.zeros(1, 2, 18, 16, 16))


def test_without_an_export_the_module_itself_answers(tmp_path, timed):
    module = network()
    for exports in (None, tmp_path, tmp_path / "nowhere"):
        serving = served(exports, module)
        assert serving.parts[WHOLE] is module and serving.name == "torch-cpu-float32"
    assert not timed


def test_the_choice_is_measured_once_and_kept(tmp_path, timed):
    module = network()
    exported(tmp_path, "onnx", module)

    first = served(tmp_path, module)
    assert first.name.startswith("onnxruntime-") and len(timed) == 1
    assert served(tmp_path, module).name == first.name and len(timed) == 1

    exported(tmp_path, "openvino", module)  # another question
    second = served(tmp_path, module)
    assert second.name.startswith("openvino-cpu-float32-") and len(timed) == 2
    assert served(tmp_path, module).name == second.name and len(timed) == 2
    answer = json.loads((exports_of(tmp_path, SUBJECT) / CHOICE_FILE).read_text())
    assert answer["chosen"] == second.name and len(answer["seconds"]) == 3


@pytest.mark.usefixtures("timed")
def test_a_choice_that_was_kept_outlives_other_times(tmp_path, monkeypatch):
    module = network()
    exported(tmp_path, "onnx", module)
    first = served(tmp_path, module).name
    monkeypatch.setitem(SLOWEST_FIRST, "torch", 0.1)

    assert served(tmp_path, module).name == first

    monkeypatch.setattr(serve_module, "cpu_model", lambda: "another processor")
    assert served(tmp_path, module).name == "torch-cpu-float32"


def test_real_times_choose_one_of_the_candidates(tmp_path):
    module = network()
    exported(tmp_path, "onnx", module)

    answer_name = served(tmp_path, module).name

    answer = json.loads((exports_of(tmp_path, SUBJECT) / CHOICE_FILE).read_text())
    assert answer["chosen"] == answer_name
    assert all(0 < seconds < 60 for seconds in answer["seconds"].values())


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"torch-cpu-float32": 1.0, "openvino-x": 0.97}, "torch-cpu-float32"),
        ({"torch-cpu-float32": 1.0, "openvino-x": 0.9}, "openvino-x"),
        ({"torch-cpu-float32": 1.0, "openvino-x": 2.0}, "torch-cpu-float32"),
        ({"onnxruntime-x": 1.0, "openvino-x": 0.99}, "openvino-x"),
    ],
)
def test_torch_stays_where_another_is_not_clearly_faster(seconds, chosen):
    assert fastest(seconds) == chosen


@pytest.mark.usefixtures("timed")
def test_a_card_chooses_among_what_it_allows(tmp_path):
    module = network()
    exported(tmp_path, "onnx", module)
    exported(tmp_path, "openvino", module)

    assert served(tmp_path, module, ("torch",)).name == "torch-cpu-float32"
    assert served(tmp_path, module, ("onnxruntime",)).name.startswith("onnxruntime-")
    with pytest.raises(NoRuntime, match="allows only openvino: nothing was exported"):
        served(tmp_path / "empty", module, ("openvino",))


def spoil(folder: Path, how: str) -> None:
    """Make one thing about an export untrue."""
    record = json.loads((folder / RECORD_FILE).read_text())
    match how:
        case "file":
            (file,) = folder.glob("*.onnx")
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(bytes(content))
        case "file gone":
            next(folder.glob("*.onnx")).unlink()
        case "weights":
            record["subject"]["weights_sha256"] = "c" * 64
        case "config":
            record["subject"]["config_sha256"] = "c" * 64
        case "difference":
            record["checks"]["max_abs_difference"] = 0.1 * record["checks"]["largest"]
        case "dice":
            record["checks"]["phantom_dice"] = 0.99
        case "version":
            record["versions"]["onnxruntime"] = "0.1"
        case "device":
            record["device"] = "cuda"
        case "escape":
            record["parts"][0]["files"] = {"../x.onnx": "0" * 64}
        case "no record":
            record = None
    (folder / RECORD_FILE).write_text("{" if record is None else json.dumps(record))


@pytest.mark.parametrize(
    "how",
    [
        "file", "file gone", "weights", "config", "difference", "dice", "version", "device",
        "escape", "no record",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("timed")
def test_an_export_of_which_anything_is_untrue_is_not_used(tmp_path, how):
    module = network()
    folder = exported(tmp_path, "onnx", module)
    assert served(tmp_path, module).name.startswith("onnxruntime-")

    spoil(folder, how)

    assert served(tmp_path, module).name == "torch-cpu-float32"
    with pytest.raises(NoRuntime, match="onnx-float32"):
        served(tmp_path, module, ("onnxruntime",))


@pytest.mark.usefixtures("timed")
def test_other_weights_of_the_bundle_are_not_served_by_this_export(tmp_path):
    module = network()
    exported(tmp_path, "onnx", module)

    other = replace(SUBJECT, weights_sha256="d" * 64)

    assert served(tmp_path, network(1), subject=other).name == "torch-cpu-float32"


@pytest.mark.parametrize("format_", ["onnx", "openvino"])
def test_an_export_that_answers_otherwise_is_not_written(tmp_path, monkeypatch, format_):
    module = network()
    right = export_module._write

    def wrong(part, *arguments):
        return right(replace(part, module=network(1)), *arguments)

    monkeypatch.setattr(export_module, "_write", wrong)
    with pytest.raises(CheckFailed, match="largest difference to torch"):
        exported(tmp_path, format_, module)
    assert not list(exports_of(tmp_path, SUBJECT).iterdir())


class Untraceable(torch.nn.Module):
    """Answers with a dictionary, as a detector does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(2, 3, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"boxes": self.conv(x)}


def test_a_network_that_gives_no_tensor_is_refused(tmp_path):
    with pytest.raises(NotExportable, match="something else than tensors"):
        exported(tmp_path, "onnx", Untraceable().eval())


def test_fewer_bits_need_real_images(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "cpu_has_bfloat16", lambda: True)
    with pytest.raises(CheckNeeded, match="--check STUDY_DIR"):
        check_format("small", "openvino", "bfloat16", compares_real=False)
    with pytest.raises(CheckNeeded):
        export_network([part(network())], SUBJECT, "torch", "bfloat16", tmp_path)
    with pytest.raises(CheckFailed, match=r"Dice against torch of spleen on real images is 0\.97"):
        export_network(
            [part(network())], SUBJECT, "torch", "bfloat16", tmp_path,
            compare_real=lambda serving: {"liver": 0.999, "spleen": 0.97},
        )  # fmt: skip
    assert served(tmp_path, network()).name == "torch-cpu-float32"


@pytest.mark.usefixtures("timed")
def test_bfloat16_that_passed_may_serve_on_this_processor_only(tmp_path, monkeypatch):
    module = network()
    monkeypatch.setitem(SLOWEST_FIRST, "torch", 1.0)
    export_network(
        [part(module)], SUBJECT, "torch", "bfloat16", tmp_path,
        compare_real=lambda serving: {"liver": 0.999},
    )  # fmt: skip
    monkeypatch.setattr(serve_module, "fastest", lambda seconds: "torch-cpu-bfloat16")

    serving = served(tmp_path, module)

    assert serving.name == "torch-cpu-bfloat16"
    with torch.inference_mode():
        found, right = serving.parts[WHOLE](phantom(WINDOW, 0)), module(phantom(WINDOW, 0))
    assert found.dtype == torch.float32 and 0 < (found - right).abs().max() < 0.1
    monkeypatch.setattr("operators.models.runtimes.record.cpu_model", lambda: "another")
    assert served(tmp_path, module).name == "torch-cpu-float32"


def test_number_formats_that_a_runtime_lacks_are_refused(monkeypatch):
    with pytest.raises(PrecisionUnfit, match="onnxruntime does not run bfloat16"):
        check_format("small", "onnx", "bfloat16", compares_real=True)
    monkeypatch.setattr(export_module, "cpu_has_bfloat16", lambda: False)
    with pytest.raises(PrecisionUnfit, match="no avx512_bf16"):
        check_format("small", "openvino", "bfloat16", compares_real=True)


@pytest.mark.parametrize(
    ("format_", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")]
)
@pytest.mark.usefixtures("timed")
def test_without_its_package_torch_serves_and_a_card_that_insists_is_refused(
    tmp_path, monkeypatch, format_, package
):
    module = network()
    exported(tmp_path, format_, module)
    monkeypatch.setitem(sys.modules, package, None)  # an import of it fails now

    assert served(tmp_path, module).name == "torch-cpu-float32"
    with pytest.raises(NoRuntime, match=r"pip install 'radloop\[runtimes\]'"):
        served(tmp_path, module, (package,))
    with pytest.raises(PackageMissing, match=r"pip install 'radloop\[runtimes\]'"):
        check_format("small", format_, "float32", compares_real=False)


@pytest.mark.usefixtures("timed")
def test_a_state_folder_that_can_not_be_written_means_torch(tmp_path, monkeypatch):
    module = network()
    exported(tmp_path, "onnx", module)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(serve_module, "write_durably", full)
    assert served(tmp_path, module).name == "torch-cpu-float32"


def test_the_window_is_found_without_running_the_network():
    from monai.inferers import SimpleInferer, SlidingWindowInferer

    module = network()
    sliding = SlidingWindowInferer(roi_size=(16, 16, 32), sw_batch_size=4, overlap=0.5)
    found = whole_network(module, sliding, {}, overlapping=False)
    assert found.shapes == ((1, 2, 16, 16, 32),)
    twice = whole_network(module, lambda image, net: sliding(image, net), {}, overlapping=False)
    assert twice.shapes == found.shapes
    whole = whole_network(torch.nn.Conv2d(3, 2, 1), SimpleInferer(), {}, overlapping=False)
    assert whole.shapes == ((1, 3, -1, -1),)


ASKS_NOBODY = """
import socket, sys
asked = []
def never(*arguments, **named):
    asked.append(arguments)
    raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = never
import urllib.request
urllib.request.urlopen = never
from operators.models.runtimes.machine import import_package
openvino = import_package("openvino")
import torch
openvino.convert_model(torch.nn.Conv2d(1, 1, 1).eval(), example_input=torch.zeros(1, 1, 8, 8))
from openvino.tools.ovc import telemetry_utils
print("STUB", telemetry_utils.tm.__name__.endswith("telemetry_stub"), len(asked))
import threading
print([t.name for t in threading.enumerate() if "ThreadPool" in t.name])
"""


def test_openvino_tells_nobody_that_it_runs(tmp_path):
    """A home without a consent file, and no CI variable: what makes its telemetry send."""
    import os

    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD")}
    done = subprocess.run(
        [sys.executable, "-c", ASKS_NOBODY],
        capture_output=True, text=True, check=False, env={**environment, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "STUB True 0" in done.stdout and "[]" in done.stdout
    assert not list(tmp_path.iterdir())  # no client ID was made either


def test_every_refusal_has_its_own_code():
    kinds = ExportRefusal.__subclasses__()
    assert len({kind.code for kind in kinds}) == len(kinds) == 8
    assert import_package("json").__name__ == "json"


class Scaled(torch.nn.Module):
    """Background 5000 everywhere, and a structure whose small answers may be left out."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(image, 5000.0), self.factor * image], dim=1)


def test_a_dead_channel_is_seen_beside_a_large_one_and_nothing_found_is_no_dice():
    shape = (1, 1, 16, 16, 16)
    dead = compare([part(Scaled(4.0), (shape, shape))], Serving("x", {WHOLE: Scaled(0.0)}))
    same = compare([part(Scaled(4.0), (shape, shape))], Serving("x", {WHOLE: Scaled(4.0)}))

    with pytest.raises(CheckFailed, match="of its channel, is 1"):
        dead.verify("small", "float32")
    same.verify("small", "float32")
    assert same.phantom_dice is None and dead.phantom_dice is None
