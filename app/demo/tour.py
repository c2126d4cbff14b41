"""The demo: archive, service, patient, result, pictures; and everything stopped at the end.

What is shown is taken from the SEG that came back out of the archive, not from
anything that the analysis left on disk.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.delivery.destination import DeliveryRefusal, DestinationUnreachable
from app.demo.archive import running_archive
from app.demo.orthanc import (
    DemoPortTaken,
    find_orthanc,
    free_port,
    require_free,
    running_orthanc,
)
from app.demo.service import DemoFailed, Service, radloop
from app.demo.shelf import ArchiveShelf, OrthancShelf, Shelf
from operators.study.read import Drop, read_drop

RESULT_SECONDS = 600.0
SENDING_TRIES = 3
MARK = ".radloop-demo"
READER = "demo"
OHIF = Path("var/ohif")
READERS = {READER: {"name": "DEMO^READER", "organization": "radloop demo"}}


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
        Wait for Ctrl-C at the end, with archive and viewer still running.
    loop : bool
        Go on with seven more patients: confirm all eight, fine-tune, gate.
    """

    study: Path | None
    output: Path
    seed: int
    port: int
    orthanc_http: int
    orthanc_dicom: int
    stay: bool
    loop: bool = False

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
        if self.study is not None and not read_drop(self.study).studies:
            raise DemoFailed(f"{self.study} holds no readable DICOM study: `radloop run` says why")
        self._take_folder()
        for stale in ("pictures", "objects", "service", "state", "loop"):
            shutil.rmtree(self.output / stale, ignore_errors=True)
        with ExitStack() as stack:
            shelf = stack.enter_context(self._archive())
            settings = shelf.settings() | {
                "RADLOOP_STATE_DIR": str((self.output / "state").resolve()),
                "RADLOOP_READERS": json.dumps(READERS),
            }
            service = stack.enter_context(self._service(settings))
            patient, source = self._patient()
            drop = self.send(shelf, service, source)
            objects = self.results(shelf, service, drop, self.output / "objects")
            self._show(objects, patient, drop, shelf)
            studies = [study.study_instance_uid for study in drop.studies]
            if shelf.takes_verdicts:
                self._verdict(settings, studies, made=patient is not None)
            else:
                self.say("a verdict is written into Orthanc: there is none here, so no verdict")
            if self.loop:
                from app.demo.loop import go_round

                go_round(self, shelf, service, settings)
            self.say(f"done in {time.monotonic() - started:.0f} s")
            if self.stay:
                self._stay(settings, studies)

    def _take_folder(self) -> None:
        """Only a folder that a demo made is cleared for the next one."""
        mark = self.output / MARK
        self.output.mkdir(parents=True, exist_ok=True)
        if any(self.output.iterdir()) and not mark.exists():
            raise DemoFailed(
                f"{self.output} holds files that are not a demo's, and a demo clears its folder. "
                "Name another one, or an empty one, with -o"
            )
        mark.touch()

    def send(self, shelf: Shelf, service: Service, source: Path) -> Drop:
        """Send a folder to radloop and to the archive; what is in it."""
        files = sorted(path for path in source.rglob("*") if path.is_file())
        self.say(f"sending {len(files)} files by C-STORE to radloop and to the archive")
        for carry in (shelf.store, service.send):
            self._patiently(carry, files, service)
        return read_drop(source)

    def _patiently(
        self, carry: Callable[[list[Path]], None], files: list[Path], service: Service
    ) -> None:
        for left in reversed(range(SENDING_TRIES)):
            try:
                carry(files)
                return
            except DeliveryRefusal as refusal:
                if left and isinstance(refusal, DestinationUnreachable):
                    self.say("the peer gave no answer: sending again")
                    continue
                why = refusal.reason.split(" Nothing is lost")[0].rstrip(".")
                raise DemoFailed(
                    f"sending broke off ({why}). {service.log} says what the service saw; "
                    "run the demo again."
                ) from refusal

    def confirm(self, settings: dict[str, str], study_uid: str) -> None:
        """Let the demo's reader confirm the one result of a made patient."""
        radloop(settings, "confirm", study_uid, "--as", READER)
        self.say(f"confirmed as {READERS[READER]['name']}: the VERIFIED SR is in the archive")

    def _verdict(self, settings: dict[str, str], studies: list[str], *, made: bool) -> None:
        if made:
            self.confirm(settings, studies[0])
            return
        for study_uid in studies:  # a person's images: only a person may say so
            self.say(f"nobody has confirmed it: `radloop confirm {study_uid} --as READER` does")

    def _stay(self, settings: dict[str, str], studies: list[str]) -> None:
        with ExitStack() as stack:
            if url := settings.get("RADLOOP_ORTHANC_URL"):
                self._open_viewer(stack, url, studies)
            self.say("press Ctrl-C to stop")
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                self.say("stopping")

    def _open_viewer(self, stack: ExitStack, orthanc_url: str, studies: list[str]) -> None:
        from app.viewer.proxy import OrthancAddress
        from app.viewer.refusals import ViewerRefusal
        from app.viewer.server import running_viewer, study_link

        try:
            root = stack.enter_context(running_viewer(OHIF, OrthancAddress(orthanc_url), 0))
        except ViewerRefusal as refusal:  # pictures and Orthanc's own pages are still there
            self.say(f"no viewer: {refusal.reason}")
            return
        for study_uid in studies:
            self.say(f"in OHIF: {study_link(root, study_uid)}")

    def say(self, line: str) -> None:
        """One line of the demo's story."""
        self._console.print(f"[bold cyan]demo[/] {line}", highlight=False, soft_wrap=True)

    def _port(self, wanted: int, use: str) -> int:
        try:
            require_free(wanted, use)
        except DemoPortTaken:
            pass
        else:
            return wanted
        other = free_port()
        self.say(f"port {wanted} ({use}) is taken: using {other}")
        return other

    @contextmanager
    def _archive(self) -> Iterator[Shelf]:
        folder = (self.output / "archive").resolve()
        shutil.rmtree(folder, ignore_errors=True)
        if find_orthanc() is None:
            self.say("Orthanc is not installed: a small built-in archive takes its place")
            with running_archive(folder) as archive:
                yield ArchiveShelf(archive)
            return
        http = self._port(self.orthanc_http, "Orthanc, HTTP")
        dicom = self._port(self.orthanc_dicom, "Orthanc, DICOM")
        with running_orthanc(folder, http_port=http, dicom_port=dicom) as orthanc:
            self.say(f"Orthanc is running at {orthanc.url}")
            yield OrthancShelf(orthanc)

    @contextmanager
    def _service(self, settings: dict[str, str]) -> Iterator[Service]:
        folder = self.output / "service"
        port = self._port(self.port, "radloop, C-STORE")
        service = Service(folder, port, settings)
        try:
            service.wait_for("listening for C-STORE", 60.0)
            self.say(f"radloop is listening on port {port}")
            yield service
        finally:
            service.stop()

    def _patient(self) -> tuple[Any, Path]:
        if self.study is not None:
            return None, self.study
        from app.demo.patient import make_demo_patient

        self.say(f"making a patient who does not exist (seed {self.seed})")
        folder = self.output / "patient"
        shutil.rmtree(folder, ignore_errors=True)
        return make_demo_patient(folder, seed=self.seed), folder

    def results(self, shelf: Shelf, service: Service, drop: Drop, objects: Path) -> list[Path]:
        """Wait for the results of a drop and fetch them from the archive into `objects`."""
        studies = [study.study_instance_uid for study in drop.studies]
        if not studies:
            raise DemoFailed("there is no readable DICOM study: `radloop run` says why")
        objects.mkdir(parents=True)
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
            self.say(f"came back: {path}")
        if seg is None:
            self.say("no structure was found: the SR says so, there is no SEG")
            return
        from pydicom import dcmread

        from app.demo.overlay import write_overlays
        from operators.volume.tilt import upright

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
        if upright(volume) is None:
            print_table(self._console, seg, volume, segments=card.segments, patient=patient)
            pictures = write_overlays(
                volume.array, volume.lps_from_index, seg, self.output / "pictures"
            )
            self.say(f"pictures: {len(pictures)} in {self.output / 'pictures'}")
            self.say(f"contact sheet: {pictures[-1].resolve().as_uri()}")
        else:
            self.say("the gantry was tilted: no pictures here, see the overlay in the viewer")
        if link := shelf.link(str(header.StudyInstanceUID)):
            self.say(f"in Orthanc: {link}" if self.stay else "`--stay` keeps archive and viewer up")
