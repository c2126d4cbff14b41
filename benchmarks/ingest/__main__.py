"""``python -m benchmarks.ingest``: one series by C-STORE into radloop, Orthanc and storescp.

The sender is dcmtk's storescu, one process for each association, the series dealt
out among them. Every measurement begins with an empty receiver, which has answered
a C-ECHO. The receivers take turns within a round, so that a busy moment of the
machine meets all of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.ingest.receivers import LISTENERS, NO_NAGLE, RECEIVERS, Receiver
from benchmarks.ingest.series import make_series
from operators.models.runtimes.machine import cpu_model

PAGE = Path(__file__).with_name("RESULTS.md")
STORESCU, ECHOSCU = "/usr/bin/storescu", "/usr/bin/echoscu"
ASSOCIATIONS = (1, 8, 32)
START_SECONDS = 30.0
# Images/s of radloop as a multiple of the peer's, by associations.
GOALS = {("Orthanc", 1): 0.5, ("Orthanc", 8): 1.3, ("Orthanc", 32): 1.3}
GOALS |= {("storescp", 8): 1.0, ("storescp", 32): 1.0}
LIMITS = """What limits radloop is its processor time: what an image costs stands in the table, and
the senders run on the same cores. storescp neither digests nor syncs, and keeps no journal. Before
BLAKE3 took SHA-256's place, a run without any fsync was no faster, and one association of storescu,
which proposes 128 contexts, cost 3 ms more; neither was measured again.

"""


def wait_until_it_answers(port: int) -> None:
    """Until a C-ECHO succeeds."""
    deadline = time.monotonic() + START_SECONDS
    command = [ECHOSCU, "-to", "5", "127.0.0.1", str(port)]
    while subprocess.run(command, capture_output=True, env=NO_NAGLE, check=False).returncode:
        if time.monotonic() > deadline:
            raise SystemExit(f"port {port} does not answer")
        time.sleep(0.1)


def send(receiver: Receiver, files: list[Path], associations: int) -> tuple[float, float]:
    """Images/s, and CPU seconds of the receiver per image."""
    before, began = receiver.cpu_s(), time.perf_counter()
    senders = [
        subprocess.Popen(
            [STORESCU, "127.0.0.1", str(receiver.port), *files[share::associations]],
            env=NO_NAGLE,
            stderr=subprocess.DEVNULL,
        )
        for share in range(associations)
    ]
    failed = sum(sender.wait() != 0 for sender in senders)
    seconds = time.perf_counter() - began
    if failed:
        raise SystemExit(f"{failed} of {associations} senders failed")
    time.sleep(0.2)  # storescp's children end after their last answer
    cpu_s = receiver.cpu_s() - before
    if (held := receiver.count()) != len(files):
        raise SystemExit(f"{held} of {len(files)} instances arrived")
    return len(files) / seconds, cpu_s / len(files)


def measure(files: list[Path], folder: Path, rounds: int) -> dict[tuple[str, int], list[tuple]]:
    """All receivers at all numbers of associations, `rounds` times."""
    found: dict[tuple[str, int], list[tuple]] = {}
    for number in range(rounds):
        for associations in ASSOCIATIONS:
            for name, start in RECEIVERS.items():
                with (
                    tempfile.TemporaryDirectory(dir=folder) as empty,
                    start(Path(empty)) as receiver,
                ):
                    wait_until_it_answers(receiver.port)
                    rate, cpu_s = send(receiver, files, associations)
                found.setdefault((name, associations), []).append((rate, cpu_s))
                print(
                    f"round {number + 1}, {associations} associations, {name}: "
                    f"{rate:.0f} images/s, {cpu_s * 1000:.1f} ms CPU each",
                    flush=True,
                )
    return found


def page(found: dict[tuple[str, int], list[tuple]], count: int, rounds: int) -> str:
    """The table, the goals and what they were measured on."""
    rows, goals = [], []
    for associations in ASSOCIATIONS:
        for name in RECEIVERS:
            runs = found[name, associations]
            ours = found["radloop", associations]
            ratios = [mine[0] / theirs[0] for mine, theirs in zip(ours, runs, strict=True)]
            ratio = statistics.median(ratios)
            rate, cpu_s = (statistics.median(column) for column in zip(*runs, strict=True))
            versus = "" if name == "radloop" else f"**{ratio:.2f}** ({min(ratios):.2f} to "
            versus += "" if name == "radloop" else f"{max(ratios):.2f})"
            rows.append(
                f"| {associations} | {name} | {rate:.0f} | {cpu_s * 1000:.1f} ms | {versus} |"
            )
            if (goal := GOALS.get((name, associations))) is not None:
                met = "met" if ratio >= goal else "**missed**"
                goals.append(
                    f"- {associations} associations, ≥ {goal} of {name}: {ratio:.2f}, {met}"
                )
    dcmtk = subprocess.run([STORESCU, "--version"], capture_output=True, text=True, check=False)
    return (
        "# Receiving by C-STORE\n\n"
        f"One series of {count} x 0.5 MB from dcmtk's storescu, on loopback, into an empty "
        "receiver.\n"
        f"radloop: {LISTENERS} listeners, every instance fsynced, its folder fsynced and a journal "
        "row committed\nbefore the answer. Orthanc: SyncStorageArea on. storescp: --fork, +B, "
        "which never syncs. All with\n"
        f"TCP_NODELAY=1. {rounds} rounds in turn, medians; the ratio is of images/s, round by "
        "round, and above 1\nin radloop's favour.\n\n"
        "| associations | receiver | images/s | receiver's CPU per image | radloop / it |\n"
        "| --- | --- | --- | --- | --- |\n"
        + "\n".join(rows)
        + "\n\nGoals:\n\n"
        + "\n".join(goals)
        + "\n\n"
        + LIMITS
        + f"{time.strftime('%Y-%m-%d')}, {cpu_model()}, {os.cpu_count()} cores, "
        f"{platform.system()} {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, pynetdicom "
        f"{version('pynetdicom')}, {dcmtk.stdout.splitlines()[0].strip('$ ')}. "
        "Again: `make bench`.\n"
    )


def main() -> None:
    """Measure and print; write the page unless this is the short mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="60 images, one round, no page")
    short = parser.parse_args().short
    count, rounds = (60, 1) if short else (300, 5)
    with tempfile.TemporaryDirectory() as name:
        files = make_series(Path(name) / "series", count)
        found = measure(files, Path(name), rounds)
    text = page(found, count, rounds)
    print("\n" + text)
    if not short:
        PAGE.write_text(text, encoding="utf-8")
        print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
