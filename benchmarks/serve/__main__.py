"""``python -m benchmarks.serve``: start the service, send one study, watch its memory.

Memory is the proportional set size (PSS: pages that several processes share are
divided among them), summed over the service and its children, sampled four times a
second. Who holds torch is read from the kernel's map of each process, not asked.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from app.demo.orthanc import free_port
from app.demo.patient import make_demo_patient
from app.demo.service import Service

PAGE = Path(__file__).with_name("RESULTS.md")
SAMPLE_SECONDS = 0.25
IDLE_SECONDS = 5.0
MODEL_LIBRARY = "libtorch_cpu"


@dataclass
class Peak:
    """Highest memory seen, MB, in all and by process title."""

    total_mb: float = 0.0
    by_process: dict[str, float] = field(default_factory=dict)

    def sample(self, service: psutil.Process) -> None:
        """Look once at the service and its children."""
        found: dict[str, float] = {}
        for process in (service, *service.children(recursive=True)):
            try:
                name, held = title(process), process.memory_full_info().pss / 2**20
                found[name] = found.get(name, 0.0) + held
            except psutil.Error:
                continue  # it ended while we looked
        self.total_mb = max(self.total_mb, sum(found.values()))
        for name, value in found.items():
            self.by_process[name] = max(self.by_process.get(name, 0.0), value)


def title(process: psutil.Process) -> str:
    """What a process is, from what it has mapped and started with."""
    if holds_models(process):
        return "worker"
    if "resource_tracker" in " ".join(process.cmdline()):
        return "Python's resource tracker"
    if "serve" in process.cmdline():
        return "service"
    # A spawned child's command line says nothing; only the API has imported FastAPI.
    mapped = Path(f"/proc/{process.pid}/maps").read_text()
    return "API" if "pydantic_core" in mapped else "listeners"


def holds_models(process: psutil.Process) -> bool:
    """Whether torch is mapped into it."""
    return MODEL_LIBRARY in Path(f"/proc/{process.pid}/maps").read_text()


def watch(peak: Peak, service: psutil.Process, until: float) -> None:
    """Sample up to a moment of the monotonic clock."""
    while time.monotonic() < until:
        peak.sample(service)
        time.sleep(SAMPLE_SECONDS)


def main() -> None:
    """Measure and print; write the page unless this is the short mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="no page")
    short = parser.parse_args().short
    idle, busy = Peak(), Peak()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        patient = make_demo_patient(folder / "patient")
        slices = len(patient.labels)
        service = Service(folder / "service", free_port(), {"RADLOOP_API_PORT": str(free_port())})
        try:
            service.wait_for("worker: ready", 120.0)
            process = psutil.Process(service.pid)
            watch(idle, process, time.monotonic() + IDLE_SECONDS)
            service.send(sorted(patient.dicom_dir.iterdir()))
            while ": done" not in service.log.read_text():
                if why := service.ended():
                    raise SystemExit(why)
                watch(busy, process, time.monotonic() + SAMPLE_SECONDS)
            everyone = (process, *process.children(recursive=True))
            with_torch = sum(holds_models(one) for one in everyone)
        finally:
            service.stop()
    rows = [
        f"| {who} | {idle.by_process.get(who, 0.0):.0f} MB | {highest:.0f} MB |"
        for who, highest in sorted(busy.by_process.items(), key=lambda item: -item[1])
    ]
    text = (
        "# Memory of `radloop serve`\n\n"
        f"One demo study ({slices} x 512 x 512 CT) through head_neck_oar_ct, with the API on.\n"
        "Proportional set size, summed over all processes, highest of four samples a second.\n\n"
        "| | idle, models loaded | one study in work |\n| --- | --- | --- |\n"
        f"| **all processes** | **{idle.total_mb:.0f} MB** | **{busy.total_mb:.0f} MB** |\n"
        + "\n".join(rows)
        + f"\n\nProcesses with torch (and so monai) in memory: {with_torch} of {len(everyone)}."
        + f"\n\n{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.system()} "
        f"{platform.release().split('-')[0]}, Python {platform.python_version()}. "
        "Again: `make bench`.\n"
    )
    print(text)
    if not short:
        PAGE.write_text(text)
        print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
