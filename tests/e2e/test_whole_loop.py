"""Once around the whole mission, with real patients and real servers, by the site's own commands.

CT of 14 people arrives by C-STORE at `radloop serve` beside a real Orthanc; a reader
confirms what comes back; it is collected, trained on, judged by the gate, promoted and
rolled back, and each time the next report must name the weights that made it.

The labels are the shipped model's own answers, so the shipped model can't be beaten by
any other one here. The champion that the challengers meet is therefore a worse one (the
shipped weights with noise), which serves by a reader's recorded override while the
hold-out is too small to decide.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from app.demo.orthanc import Orthanc, find_orthanc, running_orthanc
from tests.e2e.callers import LOCAL, caller, parts
from tests.e2e.serving import ROOT, STORESCU, Served, environment, serve, storescu
from tests.e2e.test_serve import ask
from tests.line.test_real_input import as_lps
from tests.series import write_ct_series
from tests.validators import dciodvfy_errors, pixelmed_sr_errors

pytestmark = [
    pytest.mark.long,
    pytest.mark.data,
    pytest.mark.orthanc,
    pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed"),
    pytest.mark.skipif(not STORESCU.exists(), reason="dcmtk is not installed"),
]
BUNDLE = "head_neck_oar_ct"
READER = "ada"
READERS = {READER: {"name": "Reader^Ada", "organization": "Test hospital"}}
# With this salt and fraction the first 14 patients of the frozen test list are 10 to judge,
# 1 to validate and 3 to train on; of the first five, 3, 1 and 1.
SALT, HOLDOUT_FRACTION, PATIENTS, FIRST = f"{10:064x}", 0.7, 14, 5
RESULT_SECONDS = 600.0
SHIPPED = ROOT / "bundles" / BUNDLE / "models" / "model.pt"


@dataclass
class Site:
    """A hospital: archive, service, settings, and the folders of its patients' images."""

    folder: Path
    orthanc: Orthanc
    served: Served
    settings: dict[str, object]
    patients: list[Path]

    def radloop(self, *arguments: str, status: int = 0) -> Any:
        """What a command says, as JSON; its one sentence on stderr where it says no."""
        done = subprocess.run(
            [sys.executable, "-m", "app.cli.main", *arguments, "--json"],
            cwd=self.folder,
            env=environment(self.folder, self.settings),
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
        said = f"{arguments}: {done.stdout[-1500:]} {done.stderr[-1500:]}"
        assert done.returncode == status, said
        assert "Traceback" not in done.stderr, said
        return json.loads(done.stdout) if status == 0 else done.stderr.strip()

    def send(self, patient: Path) -> str:
        """C-STORE one patient to the service and to the archive; the study's UID."""
        files = sorted(patient.iterdir())
        for port in (self.served.port, self.orthanc.dicom_port):
            assert all(storescu(port, *files))
        return str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)

    def result(self, study_uid: str, number: int = 1) -> dict[str, bytes]:
        """The study's SEG and SR out of the archive, once its `number`-th version is done."""
        self.served.wait_for(rf"{study_uid} v{number}: done: delivered", RESULT_SECONDS)
        uids: dict[str, bytes] = {}
        query = json.dumps({"Level": "Instance", "Query": {"StudyInstanceUID": study_uid}})
        for name in json.loads(ask(f"{self.orthanc.url}/tools/find", query.encode())):
            content = ask(f"{self.orthanc.url}/instances/{name}/file")
            modality = str(pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True).Modality)
            if modality in ("SEG", "SR"):
                assert modality not in uids, f"two {modality} in {study_uid}"
                uids[modality] = content
        return uids

    def weights_of_next_result(self, patient: Path) -> str:
        """sha256 of the weights that the report on one more patient names."""
        study_uid = self.send(patient)
        return named_weights(self.result(study_uid)["SR"])


def named_weights(report: bytes) -> str:
    """The sha256 that every algorithm identification of an SR names (TID 4019)."""
    found = set()

    def visit(item: pydicom.Dataset) -> None:
        for child in item.get("ContentSequence", ()):
            text = str(child.get("TextValue", ""))
            if text.startswith("weights_sha256="):
                found.add(text.split("=", 1)[1])
            visit(child)

    visit(pydicom.dcmread(io.BytesIO(report)))
    (sha256,) = found
    return sha256


@contextmanager
def hospital(folder: Path, data: Path) -> Iterator[Site]:
    cases = json.loads((data / "splits.json").read_text())["test"][: PATIENTS + 3]
    patients = []
    for case in cases:
        hu, affine = as_lps(data / "ct" / f"{case}.nii.gz")
        target = folder / "patients" / case
        write_ct_series(target, hu.astype(np.int16), affine, patient_id=case, study=case)
        patients.append(target)
    state = folder / "state"
    state.mkdir(mode=0o700)
    (state / "patient-key.salt").write_text(SALT)
    with running_orthanc(folder / "orthanc") as orthanc:
        settings: dict[str, object] = {
            "orthanc_url": orthanc.url,
            "state_dir": state,
            "readers": json.dumps(READERS),
            "holdout_fraction": HOLDOUT_FRACTION,
            "api_port": 0,
        }
        with serve(folder, **settings) as served:
            yield Site(folder, orthanc, served, settings, patients)


def noisy(state: dict[str, Any]) -> None:
    """Noise of a fifth of each tensor's spread: worse by some tenths of Dice, and mendable."""
    import torch

    random = torch.Generator().manual_seed(1)
    for value in state.values():
        if value.is_floating_point() and value.ndim > 1:
            value += 0.2 * value.std() * torch.randn(value.shape, generator=random)


def blind(state: dict[str, Any]) -> None:
    """Nothing is ever found."""
    state["output_block.conv.conv.bias"][1:] -= 1000.0


def register(
    site: Site, name: str, dataset: str, spoil: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Register the shipped weights, spoilt."""
    import torch

    from app.bundle_folders import bundle_folders
    from operators.models.card import load_cards
    from training.registry import Registry
    from training.state import StateDir

    state = torch.load(SHIPPED, weights_only=True)
    spoil(state)
    file = site.folder / f"{name}.pt"
    torch.save(state, file)
    card = load_cards(bundle_folders())[BUNDLE]
    registry = Registry(StateDir(site.folder / "state"))
    version = registry.register(
        card,
        file,
        name=name,
        parent=registry.shipped(card).sha256,
        dataset=dataset,
        params={},
        metrics={},
    )
    return {"number": str(version.number), "sha256": version.sha256}


def confirm(site: Site, studies: list[str]) -> None:
    for study in studies:
        given = site.radloop("confirm", study, "--as", READER)
        assert given["verdict"] == "confirmed" and given["new"]


def test_a_study_a_verdict_and_a_set_of_weights_go_once_around(data_dir: Path, tmp_path: Path):
    with hospital(tmp_path, data_dir / "openkbp-hn-ct") as site:
        shipped = load_sha256()

        # Studies in, SEG and SR out, and valid.
        studies = [site.send(patient) for patient in site.patients[:PATIENTS]]
        results = [site.result(study) for study in studies]
        assert {named_weights(result["SR"]) for result in results} == {shipped}
        source = sorted(site.patients[0].iterdir())[0]
        for modality, content in results[0].items():
            file = tmp_path / f"{modality}.dcm"
            file.write_bytes(content)
            assert dciodvfy_errors(file) <= dciodvfy_errors(source), modality
        assert not pixelmed_sr_errors(tmp_path / "SR.dcm")

        # The API answers from the same worker, with the same volumes.
        with caller(site.served) as api:
            answer = api.post(
                LOCAL,
                files=parts(sorted(site.patients[0].iterdir())),
                data={"image_type": "ct", "clinical_context": ""},
            ).json()
        assert answer["api_calls"] == 0 and answer["severity"] == "NOT_ASSESSED"
        assert any("andible" in region["region"] for region in answer["regions_of_interest"])

        # Nothing is a label that nobody confirmed.
        assert "confirm" in site.radloop("train", "collect", status=1)

        # Five confirmed patients: too small a hold-out decides nothing.
        confirm(site, studies[:FIRST])
        few = site.radloop("train", "collect")
        assert (few["cases"], few["train"], few["validation"], few["holdout"]) == (5, 1, 1, 3)
        worse = register(site, "worse", few["manifest"], noisy)
        undecided = site.radloop("train", "gate", "--version", worse["number"])
        assert undecided["decision"] == "undecided" and undecided["patients"] == 3
        said = site.radloop("train", "promote", "--version", worse["number"], status=1)
        assert "undecided" in said
        site.radloop(
            *("train", "promote", "--version", worse["number"]),
            *("--override", "to see a worse champion replaced", "--as", READER),
        )
        assert site.weights_of_next_result(site.patients[PATIENTS]) == worse["sha256"]

        # Fourteen: ten hold-out patients judge.
        confirm(site, studies[FIRST:])
        many = site.radloop("train", "collect")
        assert (many["cases"], many["train"], many["validation"], many["holdout"]) == (14, 3, 1, 10)
        sabotaged = register(site, "sabotaged", few["manifest"], blind)
        refused = site.radloop("train", "gate", "--version", sabotaged["number"])
        assert refused["decision"] == "refused" and refused["interval"][1] < 0
        said = site.radloop(
            *("train", "promote", "--version", sabotaged["number"]),
            *("--override", "because", "--as", READER),
            status=1,
        )
        assert "refused" in said

        # A fine-tune of the worse champion, by the bundle's own config, on what was confirmed.
        trained = site.radloop("train", "run", "--epochs", "4")
        assert trained["train_cases"] == 3 and trained["parent"] == worse["sha256"]
        honest = site.radloop("train", "gate", "--version", str(trained["version"]))
        assert honest["patients"] == 10 and honest["labels_by_champion"] == 0
        low, high = honest["interval"]
        assert low < honest["mean_difference"] < high
        number = str(trained["version"])
        if honest["decision"] == "promote":
            site.radloop("train", "promote", "--version", number)
            named = site.weights_of_next_result(site.patients[PATIENTS + 1])
            assert named == trained["weights_sha256"]
        else:  # also an honest answer: with its numbers, and it stands
            assert honest["decision"] == "refused" and honest["reasons"]
            assert "refused" in site.radloop("train", "promote", "--version", number, status=1)

        # And back, one promotion at a time.
        before = worse["sha256"] if honest["decision"] == "promote" else shipped
        back = site.radloop("train", "rollback")
        assert back["champion"]["sha256"] == before
        assert site.weights_of_next_result(site.patients[PATIENTS + 2]) == before


def load_sha256() -> str:
    """Of the shipped weights, as the card says."""
    from app.bundle_folders import bundle_folders
    from operators.models.card import load_cards

    return load_cards(bundle_folders())[BUNDLE].weights_sha256


def test_the_frozen_draw_is_what_this_file_says(data_dir: Path, tmp_path: Path):
    from training.holdout import Patients
    from training.state import StateDir

    (tmp_path / "patient-key.salt").write_text(SALT)
    patients = Patients(StateDir(tmp_path), HOLDOUT_FRACTION)
    cases = json.loads((data_dir / "openkbp-hn-ct" / "splits.json").read_text())["test"]
    splits = [patients.split(patients.key("", case)) for case in cases[:PATIENTS]]
    assert [splits.count(name) for name in ("train", "validation", "holdout")] == [3, 1, 10]
    assert [splits[:FIRST].count(n) for n in ("train", "validation", "holdout")] == [1, 1, 3]
