"""`radloop train` as a site uses it: a real Orthanc full of results, verdicts, the commands.

Results are made in this process by the HU-threshold bundle; the labels that must come
back are the balls' own geometry.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest

from app.demo.orthanc import Orthanc, find_orthanc, running_orthanc
from app.graph import analyse
from app.intake.journal import prepare
from app.intake.ledger import Ledger
from app.intake.spool import Spool
from app.verdicts.record import ObjectRef, Verdict, append_verdict
from operators.models.card import Card, load_card
from operators.models.warm import WarmModels
from tests.app.conftest import receive
from tests.e2e.serving import environment
from tests.e2e.test_serve import ask
from tests.rejection import rejection_note
from tests.series import Ball, centred_grid, oblique, render, write_ct_series
from tests.training.making import TEST_BUNDLES, add_challenger, make_dataset, threshold_weights
from tests.training.test_gate import patients
from training.dataset import Manifest, latest_manifest, load_case
from training.registry import Registry
from training.state import StateDir

NAME = "hu_threshold"
SHAPE_ZYX, SPACING_ZYX_MM = (20, 40, 36), (2.0, 1.0, 1.2)
DIRECTIONS = oblique(25, -35) @ np.diag([-1.0, 1.0, -1.0])  # oblique and flipped
PEOPLE = ("MRN-001", "MRN-002", "MRN-003", "MRN-004")


@dataclass(frozen=True)
class Result:
    """What one patient's study gave, and where it is on disk."""

    patient: str
    folder: Path
    verdict: Verdict

    @property
    def ball(self) -> Ball:
        """Soft ball of this patient."""
        return Ball((float(PEOPLE.index(self.patient)), -2.0, 1.0), 11.0, 120)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Four patients, analysed."""
    models = WarmModels({NAME: load_card(TEST_BUNDLES / NAME)})
    return {
        patient: analysed(tmp_path_factory.mktemp("patient"), patient, models) for patient in PEOPLE
    }


def analysed(folder: Path, patient: str, models: WarmModels) -> Result:
    ball = Ball((float(PEOPLE.index(patient)), -2.0, 1.0), 11.0, 120)
    affine = centred_grid(SHAPE_ZYX, SPACING_ZYX_MM, DIRECTIONS)
    array = render([ball], SHAPE_ZYX, affine)
    write_ct_series(
        folder / "in", array, affine, body_part="PHANTOM", patient_id=patient, study=patient
    )
    job = analyse(folder / "in", folder / "out", "20260101120000", models=models)
    refs = {item.kind: reference(item.path) for item in job.evidence}
    segmentation = job.segmentations[0]
    verdict = Verdict(
        at=f"2026-01-02T10:00:0{PEOPLE.index(patient)}+00:00",
        verdict="confirmed",
        reader="dr_a",
        because=None,
        study_instance_uid=job.studies[0].study_instance_uid,
        series_instance_uid=segmentation.volume.series_instance_uid,
        part="",
        bundle=NAME,
        weights_sha256=segmentation.model.weights_sha256,
        sr=refs["SR"],
        seg=refs["SEG"],
        verified_sr=ObjectRef(f"2.25.{PEOPLE.index(patient)}1", "a" * 64),
    )
    return Result(patient, folder, verdict)


def reference(path: Path) -> ObjectRef:
    uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
    return ObjectRef(uid, hashlib.sha256(path.read_bytes()).hexdigest())


@dataclass
class Site:
    """A settings' worth of folders and servers."""

    folder: Path
    orthanc: Orthanc | None
    settings: dict[str, object]

    @property
    def state(self) -> StateDir:
        return StateDir(self.folder / "state")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`radloop train …`."""
        return subprocess.run(
            [sys.executable, "-m", "app.cli.main", "train", *arguments],
            cwd=self.folder,
            env=environment(
                self.folder,
                {"bundles": TEST_BUNDLES, "state_dir": self.state.root, **self.settings},
            ),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def json(self, *arguments: str, status: int = 0) -> Any:
        done = self.run(*arguments, "--bundle", NAME, "--json")
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout)

    def refusal(self, *arguments: str) -> str:
        """The one sentence of a command that says no."""
        done = self.run(*arguments, "--bundle", NAME)
        assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
        assert done.stdout == "" and "Traceback" not in done.stderr
        return done.stderr

    def send(self, result: Result) -> None:
        assert self.orthanc is not None
        for path in sorted(result.folder.rglob("*.dcm")):
            ask(f"{self.orthanc.url}/instances", path.read_bytes())

    def forget(self, level: str, uid: str) -> None:
        assert self.orthanc is not None
        found = json.loads(ask(f"{self.orthanc.url}/tools/lookup", uid.encode()))
        for entry in found:
            if entry["Type"] == level:
                url = f"{self.orthanc.url}{entry['Path']}"
                urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=30)

    def give(self, *verdicts: Verdict) -> None:
        for verdict in verdicts:
            assert append_verdict(self.state.root, verdict)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed")
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        yield Site(tmp_path, orthanc, {"orthanc_url": orthanc.url, "holdout_fraction": 0.5})


def changed(before: Verdict, **values: Any) -> Verdict:
    """Another verdict, with a verified SR of its own."""
    number = int(hashlib.sha256(repr(values).encode()).hexdigest()[:8], 16)
    own = ObjectRef(f"{before.verified_sr.sop_instance_uid}.{number}", "b" * 64)
    return replace(before, verified_sr=own, **values)


@pytest.mark.orthanc
def test_only_what_is_confirmed_becomes_a_label_and_lies_where_it_lay(
    site: Site, results: dict[str, Result]
) -> None:
    one, two, three, four = (results[patient] for patient in PEOPLE)
    for result in results.values():
        site.send(result)
    site.give(
        one.verdict,
        two.verdict,
        changed(three.verdict, verdict="rejected", because="wrong"),
        four.verdict,
        changed(four.verdict, verdict="rejected", because="seen too late"),
    )

    done = site.json("collect")

    assert done["cases"] == 2 and done["left_out"] == [] and done["is_new"]
    assert done["train"] + done["validation"] + done["holdout"] == 2
    manifest = latest_manifest(site.state, NAME)
    assert done["manifest"] == manifest.sha256 and Path(done["folder"]) == manifest.folder
    by_study = {case.study_instance_uid: case for case in manifest.cases}
    for result in (one, two):
        case = by_study[result.verdict.study_instance_uid]
        assert case.labelled == ("soft",)  # bone was not found: unlabelled, not absent
        assert case.weights_sha256 == result.verdict.weights_sha256
        # nibabel's own affine, RAS mm, against the ball's geometry.
        for name, inside, outside in ((case.label, 1, 0), (case.image, 120, -1000)):
            image = nibabel.load(manifest.folder / name)
            values = np.asarray(image.dataobj)
            index = np.stack(np.indices(values.shape), axis=-1)
            lps = (index @ image.affine[:3, :3].T + image.affine[:3, 3]) * (-1, -1, 1)
            depth = np.linalg.norm(lps - result.ball.centre_lps_mm, axis=-1)
            assert (values[depth < result.ball.radius_mm - 1e-3] == inside).all()
            assert (values[depth > result.ball.radius_mm + 1e-3] == outside).all()
        load_case(manifest, case)
    kept = b"".join(path.read_bytes() for path in site.state.root.rglob("*.json*"))
    assert b"MRN" not in kept

    leftover = site.state.datasets / ".partial-1"
    leftover.mkdir()
    again = site.json("collect")
    assert again["manifest"] == done["manifest"] and not again["is_new"]
    assert not leftover.exists()
    few = site.json("collect", "--max-cases", "1")
    learning = [answer["train"] + answer["validation"] for answer in (few, done)]
    assert learning[0] == min(1, learning[1])
    assert few["holdout"] == done["holdout"]  # the judge is never cut


@pytest.mark.orthanc
def test_what_is_gone_or_changed_is_left_out_by_name(
    site: Site, results: dict[str, Result]
) -> None:
    one, two, three, four = (results[patient] for patient in PEOPLE)
    for result in results.values():
        site.send(result)
    site.give(*(result.verdict for result in results.values()))
    assert site.json("collect")["cases"] == 4
    lines = site.state.holdout_file.read_text()

    assert site.orthanc is not None and two.verdict.seg is not None
    site.forget("Series", one.verdict.series_instance_uid)
    (seg,) = (two.folder / "out").glob("*.seg.dcm")
    dataset = pydicom.dcmread(seg)
    dataset.ContentDescription = "edited"
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    ask(f"{site.orthanc.url}/instances", buffer.getvalue())
    slices = sorted((three.folder / "in").iterdir())
    site.forget("Instance", str(pydicom.dcmread(slices[-1]).SOPInstanceUID))
    site.settings["holdout_fraction"] = 0.01  # moves nobody

    done = site.json("collect", status=4)

    assert done["cases"] == 1
    reasons = {entry["what"]: entry["reason"][:7] for entry in done["left_out"]}
    assert reasons == {
        one.verdict.sr.sop_instance_uid: "RL-1313",
        two.verdict.sr.sop_instance_uid: "RL-1314",
        three.verdict.sr.sop_instance_uid: "RL-1315",
    }
    (case,) = latest_manifest(site.state, NAME).cases
    assert case.study_instance_uid == four.verdict.study_instance_uid
    assert site.state.holdout_file.read_text() == lines

    site.forget("Series", four.verdict.series_instance_uid)
    assert "RL-1310: none of 4 confirmed results" in site.refusal("collect")


@pytest.mark.orthanc
def test_images_that_were_taken_back_are_no_labels(site: Site, results: dict[str, Result]) -> None:
    one, two = (results[patient] for patient in PEOPLE[:2])
    for result in (one, two):
        site.send(result)
    site.give(one.verdict, two.verdict)
    note = rejection_note([pydicom.dcmread(sorted((one.folder / "in").iterdir())[0])])
    spool = Spool(site.folder / "spool")
    with closing(prepare(spool.journal_file)) as connection:
        ledger = Ledger(connection, spool)
        receive(ledger, note)
        ledger.group()

    (left_out,) = site.json("collect", status=4)["left_out"]

    assert left_out["what"] == one.verdict.sr.sop_instance_uid
    assert "RL-1319" in left_out["reason"] and "1 of its instances" in left_out["reason"]


@pytest.mark.orthanc
def test_the_later_of_two_results_of_one_volume_is_the_label(
    site: Site, results: dict[str, Result]
) -> None:
    one = results[PEOPLE[0]]
    site.send(one)
    nothing = ObjectRef("2.25.77", "c" * 64)
    site.give(
        changed(one.verdict, at="2026-01-01T09:00:00+00:00", sr=nothing, seg=None),
        one.verdict,
    )
    assert site.json("collect")["cases"] == 1

    site.give(changed(one.verdict, at="2026-03-01T09:00:00+00:00", sr=nothing, seg=None))
    assert "RL-1318: result 2.25.77 has no SEG" in site.refusal("collect")


def test_collect_says_what_it_lacks(tmp_path: Path, results: dict[str, Result]) -> None:
    site = Site(tmp_path, None, {})
    assert "orthanc_url is not set" in site.refusal("collect")
    site.settings["orthanc_url"] = "http://127.0.0.1:9"
    assert "RL-1310: no result of bundle 'hu_threshold' is confirmed" in site.refusal("collect")
    site.give(results[PEOPLE[0]].verdict)
    assert "RL-1311: http://127.0.0.1:9/tools/find" in site.refusal("collect")
    assert [path.name for path in site.state.datasets.iterdir()] == ["collect.lock"]


@pytest.fixture
def gated_site(tmp_path: Path) -> tuple[Site, Registry, Card, Manifest]:
    """Ten hold-out patients whose soft tissue begins at 20.5 HU; the champion says 50."""
    site = Site(tmp_path, None, {"readers": json.dumps(
        {"dr_a": {"name": "Doe^Ann", "organization": "Clinic"}}
    )})  # fmt: skip
    card = load_card(TEST_BUNDLES / NAME)
    site.state.root.mkdir()
    manifest = make_dataset(site.state, card, patients(10, soft_hu=20.5))
    return site, Registry(site.state), card, manifest


def test_the_commands_from_gate_to_rollback(
    gated_site: tuple[Site, Registry, Card, Manifest], tmp_path: Path
) -> None:
    site, registry, card, manifest = gated_site
    before = site.json("status")
    assert before["champion"] == {"version": 1, "sha256": card.weights_sha256}
    assert before["holdout"]["patients"] == 10 and before["last_gate"] is None
    assert "RL-1342" in site.refusal("gate")
    shipped = registry.shipped(card)
    for number, border in ((2, 150.5), (3, 20.5)):
        file = threshold_weights(tmp_path / f"{number}.pt", soft_hu=border)
        add_challenger(registry, card, file, shipped, manifest.sha256)

    assert "RL-1350: version 3 was not compared" in site.refusal("promote")
    worse = site.json("gate", "--version", "2")
    assert worse["decision"] == "refused" and worse["patients"] == 10
    assert "This can't be overridden" in site.refusal(
        "promote", "--version", "2", "--override", "I like it", "--as", "dr_a"
    )
    better = site.json("gate")
    assert better["decision"] == "promote" and better["challenger"]["version"] == 3
    assert Path(better["report"]).read_text().startswith("# Gate: hu_threshold, version 3")

    done = site.json("promote")
    assert done["changed"] and done["champion"]["version"] == 3
    assert not site.json("promote", "--version", "3")["changed"]
    after = site.json("status")
    assert after["champion"]["version"] == 3 and after["last_gate"]["decision"] == "promote"
    assert [row["is_champion"] for row in after["versions"]] == [False, False, True]

    back = site.json("rollback")
    assert back["champion"] == {"version": 1, "sha256": card.weights_sha256}
    assert "RL-1353" in site.refusal("rollback")


def test_wrong_usage_is_named(gated_site: tuple[Site, Registry, Card, Manifest]) -> None:
    site, _, _, _ = gated_site
    assert "RL-1341: bundle 'hu_threshold' has no version 7" in site.refusal("gate", "--version=7")
    assert "'dr_b' is no reader; the settings know: dr_a" in site.refusal(
        "promote", "--override=x", "--as=dr_b"
    )
    alone = site.run("promote", "--bundle", NAME, "--override", "x")
    assert alone.returncode == 2 and "go together" in alone.stderr
    assert site.run("gate", "--bundle", "nothing").returncode == 1
    assert "has no configs/train.yaml" in site.refusal("run")
    assert "a learning rate is above 0" in site.run("run", "--learning-rate", "-1").stderr
