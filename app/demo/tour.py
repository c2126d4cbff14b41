"""The demo: archive, service, patient, result, pictures; and everything stopped at the end.

What is shown is taken from the SEG that came back out of the archive, not from
anything that the analysis left on disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.delivery.destination import DeliveryRefusal
from app.demo.archive import running_archive
from app.demo.orthanc import (
    DemoPortTaken,
    find_orthanc,
    free_port,
    require_free,
    running_orthanc,
)
from app.demo.shelf import ArchiveShelf, OrthancShelf, Shelf
from operators.errors import Refusal
from operators.study.read import Drop, read_drop

RESULT_SECONDS = 600.0
STOP_SECONDS = 30.0
STUDY_STATES_THAT_END = ("failed", "not applicable")


class DemoFailed(Refusal):
    """The demo did not reach its end."""

    code = "RL-0630"


@dataclass
class Tour:
    """One walk through the whole line.

    Parameters
    ----------
    study : Path or None
        Own DICOM, or None for the made patient.
    output : Path
        Where objects and pictures go.
    seed : int
        Of the made patient.
    port, orthanc_http, orthanc_dicom : int
        Wanted ports; a taken one is replaced by a free one.
    stay : bool
        Wait for Ctrl-C at the end, with the archive still running.
    """

    study: Path | None
    output: Path
    seed: int
    port: int
    orthanc_http: int
    orthanc_dicom: int
    stay: bool

    def run(self) -> None:
        """Walk it.

        Raises
        ------
        DemoFailed
            No result came back; says at which step and why.
        """
        from rich.console import Console

        self._console = Console()
        started = time.monotonic()
        if self.study is not None and not self.study.is_dir():
            raise DemoFailed(f"{self.study} is no folder of DICOM files")
        self.output.mkdir(parents=True, exist_ok=True)
        for stale in ("pictures", "objects", "service"):
            shutil.rmtree(self.output / stale, ignore_errors=True)
        with ExitStack() as stack:
            shelf = stack.enter_context(self._archive())
            service = stack.enter_context(self._service(shelf))
            patient, source = self._patient()
            files = sorted(path for path in source.rglob("*") if path.is_file())
            self._say(f"sending {len(files)} files by C-STORE to radloop and to the archive")
            try:
                shelf.store(files)
                service.send(files)
            except DeliveryRefusal as refusal:
                raise DemoFailed(
                    f"sending broke off ({refusal.reason.split(' Nothing is lost')[0]}). "
                    f"{service.log} says what the service saw; run the demo again."
                ) from refusal
            drop = read_drop(source)
            objects = self._results(shelf, service, source, drop)
            self._show(objects, patient, drop, shelf)
            self._say(f"done in {time.monotonic() - started:.0f} s")
            if self.stay:
                self._say("press Ctrl-C to stop the archive")
                try:
                    threading.Event().wait()
                except KeyboardInterrupt:
                    self._say("stopping")

    def _say(self, line: str) -> None:
        self._console.print(f"[bold cyan]demo[/] {line}", highlight=False, soft_wrap=True)

    def _port(self, wanted: int, use: str) -> int:
        try:
            require_free(wanted, use)
        except DemoPortTaken:
            pass
        else:
            return wanted
        other = free_port()
        self._say(f"port {wanted} ({use}) is taken: using {other}")
        return other

    @contextmanager
    def _archive(self) -> Iterator[Shelf]:
        folder = self.output / "archive"
        shutil.rmtree(folder, ignore_errors=True)
        if find_orthanc() is None:
            self._say("Orthanc is not installed: a small built-in archive takes its place")
            with running_archive(folder) as archive:
                yield ArchiveShelf(archive)
            return
        http = self._port(self.orthanc_http, "Orthanc, HTTP")
        dicom = self._port(self.orthanc_dicom, "Orthanc, DICOM")
        with running_orthanc(folder, http_port=http, dicom_port=dicom) as orthanc:
            self._say(f"Orthanc is running at {orthanc.url}")
            yield OrthancShelf(orthanc)

    @contextmanager
    def _service(self, shelf: Shelf) -> Iterator[Service]:
        folder = self.output / "service"
        port = self._port(self.port, "radloop, C-STORE")
        service = Service(folder, port, shelf.settings())
        try:
            service.wait_for("listening for C-STORE", 60.0)
            self._say(f"radloop is listening on port {port}")
            yield service
        finally:
            service.stop()

    def _patient(self) -> tuple[Any, Path]:
        if self.study is not None:
            return None, self.study
        from app.demo.patient import make_demo_patient

        self._say(f"making a patient who does not exist (seed {self.seed})")
        folder = self.output / "patient"
        shutil.rmtree(folder, ignore_errors=True)
        return make_demo_patient(folder, seed=self.seed), folder

    def _results(self, shelf: Shelf, service: Service, source: Path, drop: Drop) -> list[Path]:
        studies = [study.study_instance_uid for study in drop.studies]
        if not studies:
            raise DemoFailed(f"{source} holds no readable DICOM study: `radloop run` says why")
        objects = self.output / "objects"
        objects.mkdir()
        deadline = time.monotonic() + RESULT_SECONDS
        with self._console.status("waiting for SEG and SR in the archive"):
            while time.monotonic() < deadline:
                found = [path for uid in studies for path in shelf.results(uid, objects)]
                if any(path.name.startswith("SR") for path in found):
                    return found
                if ended := service.ended():
                    raise DemoFailed(f"no result came: {ended}")
                time.sleep(0.5)
        raise DemoFailed(f"no result in {RESULT_SECONDS:.0f} s; see {service.log}")

    def _show(self, objects: list[Path], patient: Any, drop: Drop, shelf: Shelf) -> None:
        from app.bundle_folders import bundle_folders
        from app.demo.table import print_table
        from operators.models.card import load_cards
        from operators.volume.build import build_volumes

        seg = next((path for path in objects if path.name.startswith("SEG")), None)
        for path in objects:
            self._say(f"came back: {path}")
        if seg is None:
            self._say("no structure was found: the SR says so, there is no SEG")
            return
        from pydicom import dcmread

        from app.demo.overlay import write_overlays

        header = dcmread(seg, stop_before_pixels=True)
        source_uid = str(header.ReferencedSeriesSequence[0].SeriesInstanceUID)
        series = next(
            series
            for study in drop.studies
            for series in study.series
            if series.series_instance_uid == source_uid
        )
        volume = build_volumes(series)[0]
        algorithm = str(header.SegmentSequence[0].SegmentAlgorithmName)
        card = load_cards(bundle_folders())[algorithm]
        print_table(self._console, seg, volume, segments=card.segments, patient=patient)
        pictures = write_overlays(
            volume.array, volume.lps_from_index, seg, self.output / "pictures"
        )
        self._say(f"pictures: {len(pictures)} in {self.output / 'pictures'}")
        self._say(f"contact sheet: {pictures[-1].resolve().as_uri()}")
        if link := shelf.link(str(header.StudyInstanceUID)):
            self._say(f"in Orthanc: {link}" if self.stay else "`--stay` keeps Orthanc running")


class Service:
    """`radloop serve` as its own process.

    Parameters
    ----------
    folder : Path
        For spool, results and log.
    port : int
        Its C-STORE port.
    settings : dict
        Variables that say where it delivers.
    """

    def __init__(self, folder: Path, port: int, settings: dict[str, str]) -> None:
        folder.mkdir(parents=True)
        self.port = port
        self.log = folder / "serve.log"
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("RADLOOP_") or name == "RADLOOP_BUNDLES"
        }
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.cli.main", "serve"],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the demo's: it stops this one in order
                env=inherited
                | settings
                | {
                    "RADLOOP_HOST": "127.0.0.1",
                    "RADLOOP_PORT": str(port),
                    "RADLOOP_SPOOL": str(folder / "spool"),
                    "RADLOOP_OUTPUT_DIR": str(folder / "output"),
                    "RADLOOP_QUIET_SECONDS": "5",
                    "RADLOOP_STOP_SECONDS": "2",
                    "PYTHONUNBUFFERED": "1",
                },
            )

    def send(self, files: list[Path]) -> None:
        """Send files by C-STORE."""
        from app.delivery.cstore import CStoreDestination

        CStoreDestination("RADLOOP", "127.0.0.1", self.port, "DEMO").deliver(files)

    def wait_for(self, words: str, seconds: float) -> None:
        """Until its log says so.

        Raises
        ------
        DemoFailed
            It ended, or did not say so in time.
        """
        deadline = time.monotonic() + seconds
        while words not in self.log.read_text(errors="replace"):
            if self._process.poll() is not None:
                raise DemoFailed(f"radloop serve ended: {self._last_line()}")
            if time.monotonic() > deadline:
                raise DemoFailed(f"radloop serve did not start in {seconds:.0f} s; see {self.log}")
            time.sleep(0.1)

    def ended(self) -> str | None:
        """Why no result will come, if it is already known."""
        if self._process.poll() is not None:
            return f"radloop serve ended: {self._last_line()}"
        for line in self.log.read_text(errors="replace").splitlines():
            if any(f": {state}" in line for state in STUDY_STATES_THAT_END):
                return line
        return None

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else f"nothing in {self.log}"
