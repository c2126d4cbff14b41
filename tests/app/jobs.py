"""Jobs for the worker: each does one thing a real analysis may do, good or bad."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pydicom

from app.worker.messages import Job, Outcome, Request
from operators.errors import VolumeRefusal


def describe(request: Request, uid_by_name: dict[str, str]) -> None:
    """result.json, as far as the register of written objects reads it."""
    evidence = [
        {"kind": "SR", "path": str(request.output_dir / name), "sop_instance_uid": uid}
        for name, uid in uid_by_name.items()
    ]
    result = {
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.4",
        "part": "",
        "bundle": "stub",
        "weights_sha256": "",
        "evidence": evidence,
    }
    (request.output_dir / "result.json").write_text(
        json.dumps({"recorded_at": request.recorded_at, "results": [result]})
    )


def copy_headers(request: Request) -> Outcome:
    """Writes one small file that names every input: what was analysed can be compared."""
    uids = sorted(
        str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        for path in request.input_dir.iterdir()
    )
    (request.output_dir / "inputs.txt").write_text("\n".join(uids))
    describe(request, {"inputs.txt": f"1.2.3.{request.output_dir.name}"})
    return Outcome("done", results=("inputs.txt",))


def well() -> Job:
    """A worker that works."""
    return copy_headers


def behave(request: Request) -> Outcome:
    """What the input folder's name says."""
    name = request.input_dir.name
    counter = request.output_dir / "tries"
    tries = int(counter.read_text()) + 1 if counter.exists() else 1
    counter.write_text(str(tries))
    if name == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "exit":
        os._exit(7)
    if name == "hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        while True:
            time.sleep(1)
    if name == "defect":
        raise ValueError("could not convert 'Doe^John' to float")
    if name == "refusal":
        raise VolumeRefusal("series 1.2.3: one slice")
    if name == "signals":
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    return Outcome("done", reason=str(os.getpid()))


def behaving() -> Job:
    """A worker whose requests say what happens."""
    return behave


def unfit() -> Job:
    """A worker that can't load its models."""
    raise ImportError("libcudart.so.13")


def slow_start() -> Job:
    """A worker that never gets ready."""
    time.sleep(600)
    return behave


def slow(request: Request) -> Outcome:
    """An analysis of half a minute that leaves a mark when it begins."""
    (request.output_dir / "begun").touch()
    time.sleep(30)
    return Outcome("done")


def slowly() -> Job:
    """A worker that takes its time."""
    return slow


def request(folder: Path, behaviour: str) -> Request:
    """A request for `behave`."""
    (folder / "in" / behaviour).mkdir(parents=True, exist_ok=True)
    (folder / "out").mkdir(exist_ok=True)
    return Request(folder / "in" / behaviour, folder / "out", "20260101120000")


def poisoned(request: Request) -> Outcome:
    """Crashes the process on images of the manufacturer POISON; copies headers of all others."""
    for path in request.input_dir.iterdir():
        if pydicom.dcmread(path, stop_before_pixels=True).Manufacturer == "POISON":
            os.kill(os.getpid(), signal.SIGSEGV)
    return copy_headers(request)


def poisonable() -> Job:
    """A worker that one study kills."""
    return poisoned


def echo(request: Request) -> Outcome:
    """The inputs themselves are the results."""
    uid_by_name = {}
    for path in request.input_dir.iterdir():
        (request.output_dir / path.name).write_bytes(path.read_bytes())
        uid_by_name[path.name] = str(pydicom.dcmread(path).SOPInstanceUID)
    describe(request, uid_by_name)
    return Outcome("done", results=tuple(uid_by_name))


def echo_input() -> Job:
    """A worker that gives back what it got."""
    return echo


def by_manufacturer(request: Request) -> Outcome:
    """What the images' Manufacturer says: POISON crashes, HANG hangs, SLOW takes 4 s."""
    path = next(request.input_dir.iterdir())
    manufacturer = str(pydicom.dcmread(path, stop_before_pixels=True).Manufacturer)
    if manufacturer == "POISON":
        os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep({"HANG": 600.0, "SLOW": 4.0}.get(manufacturer, 0.0))
    return Outcome("not applicable", "no bundle of this test wants it")


def told() -> Job:
    """A worker whose images say what happens."""
    return by_manufacturer
