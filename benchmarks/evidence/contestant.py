"""One contestant in its own process: ``contestant WHO PART SEGMENTS IN OUT N``, by `python -m`.

PART is ``measured`` (files on disk to SEG and SR on disk, with all that radloop measures),
``whole`` (the same, what the reports say known before) or ``write`` (the volume too is in
memory; create and save SEG and SR). Prints one JSON line a pass: seconds, size
of the files, and how far the resident set rose (the kernel's own high-water mark, set back
before the pass) above where it stood before the pass, and above where it stood after
everything was ready: what an earlier pass left behind counts in the second only.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path

from benchmarks.evidence.phantom import labels_of
from benchmarks.evidence.plain_highdicom import highdicom
from benchmarks.evidence.radloop_writer import radloop
from benchmarks.evidence.sdk_writer import sdk

STATUS = Path("/proc/self/status")
CONTESTANTS = {"radloop": radloop, "sdk": sdk, "highdicom": highdicom}


def memory_kb(field: str) -> int:
    """VmRSS or VmHWM of this process, kB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def main() -> None:
    """Run as many passes as asked."""
    who, part, segments, source, target, passes = sys.argv[1:]
    labels = labels_of(len(list(Path(source).iterdir())), int(segments))
    once = CONTESTANTS[who](labels, int(segments), Path(source), part=part)
    gc.collect()
    ready_kb = memory_kb("VmRSS")
    for number in range(int(passes)):
        out = Path(target) / str(number)
        out.mkdir(parents=True)
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
        before_kb = memory_kb("VmRSS")
        started = time.perf_counter()
        once(out)
        seconds = time.perf_counter() - started
        peak_kb = memory_kb("VmHWM")
        measured = {
            "seconds": seconds,
            "added_mb": (peak_kb - before_kb) / 1024,
            "held_mb": (peak_kb - ready_kb) / 1024,
            "file_mb": sum(file.stat().st_size for file in out.rglob("*.dcm")) / 1e6,
        }
        print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
