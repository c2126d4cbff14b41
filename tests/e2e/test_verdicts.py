"""Verdicts on results that `radloop serve` delivered into a real Orthanc."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from orthanc_api_client import OrthancApiClient
from pydicom.dataset import Dataset

from app.delivery.orthanc import OrthancDestination
from app.demo.orthanc import Orthanc, find_orthanc, free_port, running_orthanc
from app.intake.peek import peek
from app.register import Register
from app.verdicts.record import read_verdicts
from tests.e2e.serving import STORESCU, environment, serve, storescu
from tests.e2e.test_serve import BUNDLES, LOAD_SECONDS, ask
from tests.series import Ball, centred_grid, render, write_ct_series
from tests.validators import dciodvfy_errors, pixelmed_sr_errors

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed"),
    pytest.mark.skipif(not STORESCU.exists(), reason="dcmtk is not installed"),
]
READERS = {
    "readers__ada__name": "Müller^Ada",
    "readers__ada__organization": "Klinikum Süd",
    "readers__bob__name": "Bobson^Bob",
    "readers__bob__organization": "Radiology",
}
NAMES = ("Müller", "Ada", "Bobson", "Klinikum")  # never in a log, nor in the record
KILL_AFTER = """
import os, signal, sys
from app.register import Register
from app.settings import load_settings
from app.verdicts import give, unfinished
from app.verdicts.archive import Archive
owner, name = {
    "begin": (unfinished, "begin"), "enter": (Register, "enter"), "store": (Archive, "store"),
    "append": (give, "append_verdict"), "finish": (unfinished, "finish"),
}[sys.argv[1]]
step = getattr(owner, name)
def step_and_die(*arguments):
    step(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, step_and_die)
give.give_verdict(load_settings(), sys.argv[2], verdict="confirmed", reader="ada")
"""


def image(folder: Path, study: str, series: str) -> list[Path]:
    shape = (8, 40, 36)
    affine = centred_grid(shape, (3.0, 1.0, 1.0))
    balls = [Ball((-8.0, 0.0, 0.0), 6.0, 100), Ball((9.0, 2.0, 1.0), 5.0, 600)]
    volume = render(balls, shape, affine)
    return write_ct_series(folder, volume, affine, body_part="PHANTOM", study=study, series=series)


@dataclass(frozen=True)
class Delivered:
    """What `radloop serve` left behind: the site's state folder, and what Orthanc held."""

    state: Path
    files: list[Path]
    source: Path
    study: str
    study_of_two: str


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    """Two studies, one with one result and one with two, from C-STORE to Orthanc."""
    folder = tmp_path_factory.mktemp("delivered")
    one = image(folder / "one", "one", "first")
    two = [*image(folder / "two", "two", "first"), *image(folder / "three", "two", "second")]
    study, study_of_two = (str(pydicom.dcmread(files[0]).StudyInstanceUID) for files in (one, two))
    files = []
    with running_orthanc(folder / "orthanc") as server:
        with serve(folder, bundles=BUNDLES, orthanc_url=server.url) as served:
            assert all(storescu(served.port, *one, *two))
            for uid in (study, study_of_two):
                served.wait_for(rf"study {uid} v1: done: delivered to Orthanc", LOAD_SECONDS)
        for number, name in enumerate(json.loads(ask(f"{server.url}/instances"))):
            files.append(folder / f"{number}.dcm")
            files[-1].write_bytes(ask(f"{server.url}/instances/{name}/file"))
    return Delivered(folder / "var" / "state", files, one[0], study, study_of_two)


@dataclass
class Site:
    """A site's Orthanc and state folder, with the results that were delivered."""

    orthanc: Orthanc
    folder: Path
    delivered: Delivered

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def environment(self, **settings: object) -> dict[str, str]:
        own = {"orthanc_url": self.orthanc.url, "state_dir": self.state, **READERS, **settings}
        named = {name: value for name, value in own.items() if value is not None}
        return {**environment(self.folder, named), "COLUMNS": "200"}

    def radloop(self, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "app.cli.main", *arguments],
            cwd=self.folder,
            env=self.environment(**settings),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert not [name for name in NAMES if name in done.stdout + done.stderr]
        return done

    def verdict(self, *arguments: str, **settings: object) -> dict[str, Any]:
        done = self.radloop(*arguments, "--json", **settings)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def killed_after(self, step: str, result: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", KILL_AFTER, step, result],
            cwd=self.folder,
            env=self.environment(),
            timeout=120,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL

    def held(self, uid: str) -> bytes:
        (content,) = OrthancDestination(self.orthanc.url).fetch(uid)
        return content

    def count(self) -> int:
        return len(json.loads(ask(f"{self.orthanc.url}/instances")))

    def store(self, dataset: Dataset) -> None:
        written = io.BytesIO()
        dataset.save_as(written, enforce_file_format=True)
        ask(f"{self.orthanc.url}/instances", written.getvalue())

    def uid(self, kind: str = "SR", study: str | None = None) -> str:
        found = Register(self.state).in_study(study or self.delivered.study, kind)  # type: ignore[arg-type]
        return found[0].sop_instance_uid

    def refuses(self, code: str, *arguments: str, **settings: object) -> str:
        """The command says no by that code and changes nothing; what it says."""
        before = self.count()
        done = self.radloop(*arguments, **settings)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"{code}: "), done.stderr
        assert (read_verdicts(self.state), self.count()) == ([], before)
        assert not list(self.state.glob("unfinished/*"))
        return done.stderr


@contextmanager
def site(folder: Path, delivered: Delivered) -> Iterator[Site]:
    shutil.copytree(delivered.state, folder / "state")
    with running_orthanc(folder / "orthanc") as server:
        OrthancDestination(server.url).deliver(delivered.files)
        yield Site(server, folder, delivered)


@pytest.fixture
def here(tmp_path: Path, delivered: Delivered) -> Iterator[Site]:
    with site(tmp_path, delivered) as found:
        yield found


def parsed(content: bytes) -> Dataset:
    return pydicom.dcmread(io.BytesIO(content))


def predecessors(document: Dataset) -> list[str]:
    (study,) = document.PredecessorDocumentsSequence
    return [
        reference.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    ]


def test_everything_delivered_is_in_the_register_and_nothing_is_a_label(here: Site) -> None:
    register = Register(here.state)
    for path in here.delivered.files:
        entry = register.find(str(pydicom.dcmread(path).SOPInstanceUID))
        assert entry is not None
        assert entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert entry.bundle == "hu_threshold"
    assert len(here.delivered.files) == 6
    assert read_verdicts(here.state) == []


def test_confirm_puts_a_verified_sr_into_orthanc_and_a_line_into_the_record(
    here: Site, tmp_path: Path
) -> None:
    before = here.count()

    said = here.verdict("confirm", here.delivered.study, "--as", "ada")

    (recorded,) = read_verdicts(here.state)
    uid, digest = said["verified_sr"]["sop_instance_uid"], said["verified_sr"]["sha256"]
    content = here.held(uid)
    assert here.count() == before + 1
    assert hashlib.sha256(content).hexdigest() == digest == recorded.verified_sr.sha256
    entry = Register(here.state).find(uid)
    assert entry is not None and (entry.kind, entry.sha256) == ("VERIFIED_SR", digest)
    assert said["new"] and recorded.sr.sop_instance_uid == here.uid("SR")
    assert recorded.seg is not None and recorded.seg.sop_instance_uid == here.uid("SEG")
    assert (recorded.verdict, recorded.reader, recorded.because) == ("confirmed", "ada", None)

    document = parsed(content)
    assert document.VerificationFlag == "VERIFIED"
    assert document.VerifyingObserverSequence[0].VerifyingObserverName == "Müller^Ada"
    path = tmp_path / "verified.dcm"
    path.write_bytes(content)
    assert not dciodvfy_errors(path) - dciodvfy_errors(here.delivered.source)
    assert pixelmed_sr_errors(path) == []
    assert peek(path).ours  # routed back to us, it is not analysed

    record = (here.state / "verdicts.jsonl").read_text()
    assert not [name for name in (*NAMES, "Test", "PHANTOM") if name in record]

    again = here.radloop("confirm", here.delivered.study, "--as", "ada")
    assert again.returncode == 0 and "confirmed by ada already" in again.stdout
    assert not here.verdict("confirm", here.uid("SR"), "--as", "ada")["new"]
    assert (len(read_verdicts(here.state)), here.count()) == (1, before + 1)


def test_a_later_verdict_counts_and_names_the_earlier_one(here: Site) -> None:
    sr = here.uid("SR")
    first = here.verdict("confirm", sr, "--as", "ada")["verified_sr"]["sop_instance_uid"]
    second = here.verdict("reject", sr, "--as", "bob", "--because", " sides\n swapped ")
    third = here.verdict("confirm", sr, "--as", "ada")["verified_sr"]["sop_instance_uid"]

    rejection = parsed(here.held(second["verified_sr"]["sop_instance_uid"]))
    assert second["because"] == "sides swapped"
    assert rejection.SeriesDescription.startswith("REJECTED by reader")
    assert predecessors(rejection) == [sr, first]
    assert predecessors(parsed(here.held(third)))[1:] == [first, rejection.SOPInstanceUID]
    listed = json.loads(here.radloop("verdicts", "--json").stdout)
    assert [(entry["verdict"], entry["counts"]) for entry in listed] == [
        ("confirmed", False),
        ("rejected", False),
        ("confirmed", True),
    ]
    table = here.radloop("verdicts").stdout
    assert table.count("replaced") == 2 and here.delivered.study in table


def test_a_study_with_two_results_asks_which_however_many_are_judged(here: Site) -> None:
    study = here.delivered.study_of_two
    first, second = (e.sop_instance_uid for e in Register(here.state).in_study(study, "SR"))

    said = here.refuses("RL-1217", "confirm", study, "--as", "ada")

    assert first in said and second in said and said.count("no verdict") == 2
    here.verdict("confirm", first, "--as", "ada")
    again = here.radloop("confirm", study, "--as", "ada")
    assert again.returncode == 1 and again.stderr.startswith("RL-1217: ")
    assert second in again.stderr and again.stderr.count("no verdict") == 1


def test_what_is_not_ours_or_not_a_result_is_refused_by_name(here: Site) -> None:
    foreign = parsed(here.held(here.uid("SR")))  # Manufacturer radloop, and yet not ours
    foreign.SOPInstanceUID = foreign.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    here.store(foreign)

    said = here.refuses("RL-1215", "confirm", "1.2.3.4", "--as", "ada")
    assert said.startswith("RL-1215: 1.2.3.4 is not in the register")
    assert here.uid("SEG") in here.refuses("RL-1216", "confirm", here.uid("SEG"), "--as", "ada")
    assert "Doe" not in here.refuses("RL-1215", "confirm", "Doe^John", "--as", "ada")


def test_a_verdict_needs_a_known_reader_an_archive_and_a_reason(here: Site) -> None:
    sr = here.uid("SR")

    said = here.refuses("RL-1211", "confirm", sr, "--as", "Müller^Ada")
    assert "has: ada, bob. Add the person to the settings file" in said
    assert "orthanc_url" in here.refuses("RL-1213", "confirm", sr, "--as", "ada", orthanc_url=None)
    away = f"http://127.0.0.1:{free_port()}"
    assert away in here.refuses("RL-1214", "confirm", sr, "--as", "ada", orthanc_url=away)
    here.refuses("RL-1212", "reject", sr, "--as", "ada", "--because", " ")
    assert here.radloop("reject", sr, "--as", "ada").returncode == 2


@pytest.mark.parametrize("kind", ["SR", "SEG"])
def test_a_result_that_was_changed_or_removed_in_orthanc_is_refused(here: Site, kind: str) -> None:
    tampered = parsed(here.held(here.uid(kind)))
    tampered.SeriesNumber = 4711
    here.store(tampered)

    said = here.refuses("RL-1219", "confirm", here.uid("SR"), "--as", "ada")
    assert f"{kind} {here.uid(kind)} in Orthanc" in said

    (orthanc_id,) = json.loads(ask(f"{here.orthanc.url}/tools/lookup", here.uid(kind).encode()))
    OrthancApiClient(here.orthanc.url).instances.delete(orthanc_id["ID"])
    assert "is not in Orthanc" in here.refuses("RL-1218", "confirm", here.uid("SR"), "--as", "ada")


@pytest.mark.parametrize("step", ["begin", "enter", "store", "append", "finish"])
def test_kill_9_between_two_steps_is_repaired_by_the_same_command(here: Site, step: str) -> None:
    before = here.count()
    here.killed_after(step, here.delivered.study)
    begun = list(here.state.glob("unfinished/*.json"))
    written = Register(here.state).in_study(here.delivered.study, "VERIFIED_SR")

    said = here.verdict("confirm", here.delivered.study, "--as", "ada")

    (recorded,) = read_verdicts(here.state)
    (verified,) = Register(here.state).in_study(here.delivered.study, "VERIFIED_SR")
    assert written in ([], [verified])
    assert here.count() == before + 1
    content = here.held(recorded.verified_sr.sop_instance_uid)
    assert hashlib.sha256(content).hexdigest() == verified.sha256 == said["verified_sr"]["sha256"]
    assert predecessors(parsed(content)) == [here.uid("SR")]
    assert said["new"] is bool(begun)
    assert not list(here.state.glob("unfinished/*"))


def test_another_verdict_first_completes_the_one_that_was_interrupted(here: Site) -> None:
    here.killed_after("store", here.delivered.study)

    here.verdict("reject", here.delivered.study, "--as", "bob", "--because", "wrong side")

    first, second = read_verdicts(here.state)
    assert (first.verdict, first.reader) == ("confirmed", "ada")
    rejection = parsed(here.held(second.verified_sr.sop_instance_uid))
    assert predecessors(rejection) == [here.uid("SR"), first.verified_sr.sop_instance_uid]


def test_an_interrupted_verdict_of_a_reader_who_is_gone_says_what_to_do(here: Site) -> None:
    here.killed_after("enter", here.delivered.study)
    other_name = {"readers__ada__name": "Else^Someone"}

    for settings in (other_name, dict.fromkeys(READERS) | {k: "x" for k in READERS if "bob" in k}):
        done = here.radloop(
            "reject", here.delivered.study, "--as", "bob", "--because", "x", **settings
        )
        assert done.returncode == 1 and done.stderr.startswith("RL-1221: ")
        assert str(*here.state.glob("unfinished/*.json")) in done.stderr
