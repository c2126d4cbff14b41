"""Jobs for the worker: each does one thing a real analysis may do, good or bad."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import pydicom
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from app.worker.messages import Job, Outcome, Request
from operators.errors import VolumeRefusal
from tests.app.instances import encoded, instance


def describe(request: Request, uid_by_name: dict[str, str], bundle: str = "stub") -> None:
    """result.json, as far as the register of written objects reads it."""
    evidence = [
        {"kind": "SR", "path": str(request.output_dir / name), "sop_instance_uid": uid}
        for name, uid in uid_by_name.items()
    ]
    result = {
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.4",
        "part": "",
        "bundle": bundle,
        "weights_sha256": "",
        "evidence": evidence,
    }
    (request.output_dir / "result.json").write_text(
        json.dumps({"recorded_at": request.recorded_at, "results": [result]})
    )


def copy_headers(request: Request, bundle: str = "stub") -> Outcome:
    """Writes one small file that names every input: what was analysed can be compared."""
    uids = sorted(
        str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        for path in request.input_dir.iterdir()
    )
    (request.output_dir / "inputs.txt").write_text("\n".join(uids))
    describe(request, {"inputs.txt": f"1.2.3.{request.output_dir.name}"}, bundle)
    return Outcome("done", results=("inputs.txt",))


def well() -> Job:
    """A worker that works."""
    return copy_headers


_KEPT: list[bytearray] = []


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
    if name == "memory":
        held = bytearray()
        while True:  # 6 GB and more, if nobody stops it
            held += bytes(64 << 20)
    if name == "keeps":
        _KEPT.append(bytearray(300 << 20))
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


def note(request: Request) -> Outcome:
    """Says in a common log that it was begun, and by whom; BRIEF takes 0.5 s, SLOW 6 s."""
    with (request.output_dir.parent / "analyses.log").open("a") as log:
        log.write(f"{request.output_dir.name} {os.getpid()}\n")
    path = next(request.input_dir.iterdir())
    manufacturer = str(pydicom.dcmread(path, stop_before_pixels=True).Manufacturer)
    time.sleep({"BRIEF": 0.5, "SLOW": 6.0}.get(manufacturer, 0.0))
    return Outcome("not applicable", "no bundle of this test wants it")


def noted() -> Job:
    """A worker whose analyses leave a line each."""
    return note


def write_evidence(request: Request, bundle: str = "stub") -> Outcome:
    """A SEG and an SR without meaning that say how many instances they were made of."""
    inputs = [
        pydicom.dcmread(path, stop_before_pixels=True) for path in request.input_dir.iterdir()
    ]
    study = str(inputs[0].StudyInstanceUID)
    evidence = []
    for kind, sop_class in (("SEG", SegmentationStorage), ("SR", Comprehensive3DSRStorage)):
        made = instance(1, study=study, modality=kind, manufacturer="radloop")
        del made.PixelData
        made.SOPClassUID = sop_class
        # The same at every attempt at a study version, and of no other.
        number = int(
            hashlib.sha256(f"{request.output_dir.name} {kind}".encode()).hexdigest()[:30], 16
        )
        made.SOPInstanceUID = f"2.25.{number}"
        made.SeriesInstanceUID = f"2.25.{number}1"
        made.ImageComments = f"{len(inputs)} instances"
        made.PatientID = inputs[0].get("PatientID", "")
        (request.output_dir / f"{kind}.dcm").write_bytes(encoded(made))
        evidence.append(
            {"kind": kind, "path": f"{kind}.dcm", "sop_instance_uid": str(made.SOPInstanceUID)}
        )
    result = {
        "study_instance_uid": study,
        "series_instance_uid": str(inputs[0].SeriesInstanceUID),
        "part": "",
        "bundle": bundle,
        "weights_sha256": "",
        "evidence": evidence,
    }
    (request.output_dir / "result.json").write_text(
        json.dumps({"recorded_at": request.recorded_at, "results": [result]})
    )
    return Outcome("done", results=("SEG.dcm", "SR.dcm"))


def fate(request: Request) -> Outcome:
    """After 3 s, what the images' Manufacturer says: POISON crashes, UNFIT is not applicable."""
    path = next(request.input_dir.iterdir())
    manufacturer = str(pydicom.dcmread(path, stop_before_pixels=True).Manufacturer)
    time.sleep(3.0)
    if manufacturer == "POISON":
        os.kill(os.getpid(), signal.SIGSEGV)
    if manufacturer == "UNFIT":
        return Outcome("not applicable", "RL-0401: no series fits")
    return write_evidence(request, bundle="head_neck_oar_ct")


def fateful() -> Job:
    """A worker that leaves time to look, and then fails or not as the images say."""
    return fate


def evidence() -> Job:
    """A worker that makes both kinds of results within milliseconds."""
    return write_evidence


def note_route(request: Request) -> Outcome:
    """Takes a second; says which study it was and what routes want of it."""
    time.sleep(1.0)
    path = next(request.input_dir.iterdir())
    study = str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)
    with (request.output_dir.parent / "requests.jsonl").open("a") as log:
        log.write(json.dumps({"study": study, "routed": request.routed}) + "\n")
    return copy_headers(request, bundle="head_neck_oar_ct")


def routed() -> Job:
    """A worker that shows what it was asked, and has a result."""
    return note_route
