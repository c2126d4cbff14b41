"""What a person may do with a study, and what not; by the commands themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from typer.testing import CliRunner

from app.cli.main import cli
from app.intake.conflicts import conflicts
from app.intake.ledger import State
from app.workflow.triage import (
    NoSuchStudy,
    NotAllCame,
    NotIdentity,
    NotNow,
    find,
    opened,
    retry,
)
from operators.errors import Refusal
from tests.app.instances import STUDY, instance
from tests.app.test_intake_ledger import OTHER, Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("RADLOOP_SPOOL", str(tmp_path))
    return Site(tmp_path)


def say(*words: str) -> Result:
    return CliRunner().invoke(cli, ["studies", *words])


def fail(site: Site, reason: str = "RL-0803: crash") -> None:
    site.receive(instance(1))
    site.settle()
    site.ledger.move(site.only(State.READY), State.FAILED, reason)


def test_a_failed_study_is_listed_shown_and_tried_again(site: Site) -> None:
    fail(site)
    site.receive(instance(1, study=OTHER))
    site.settle()

    listed = {
        entry["study_instance_uid"]: entry for entry in json.loads(say("list", "--json").stdout)
    }
    assert listed[STUDY]["visible"] == "failed" and listed[STUDY]["reason"] == "RL-0803: crash"
    assert listed[OTHER]["visible"] == "pending"
    only_failed = say("list", "--state", "failed").stdout
    assert "RL-0803" in only_failed and "pending" not in only_failed
    assert "instances    1" in say("show", STUDY).stdout

    assert f"study {STUDY} v1: ready: tried again by a person" in say("retry", STUDY).stdout
    again = site.ledger.latest(STUDY)
    assert again is not None
    assert (again.state, again.trial, again.attempts) == (State.READY, 2, 0)
    assert again.name.endswith("-v1-t2")  # an earlier trial's results are not written over


def test_what_the_service_is_at_is_left_alone(site: Site) -> None:
    site.receive(instance(1))
    site.settle()
    for state in (State.READY, State.QUEUED, State.RUNNING, State.DELIVERING):
        study = site.ledger.latest(STUDY)
        assert study is not None
        site.ledger.move(study, state)
        for command in ("retry", "discard"):
            done = say(command, STUDY)
            assert isinstance(done.exception, NotNow) and str(state) in done.exception.reason


def test_a_state_that_changed_meanwhile_is_not_overwritten(site: Site) -> None:
    fail(site)
    with opened(site.root) as ledger:
        seen = find(ledger, STUDY)
        site.receive(instance(2))
        site.settle()  # a late instance: version 2
        with pytest.raises(NotNow, match="it changed this moment"):
            retry(ledger, seen)


def test_discarded_is_not_failed_and_can_be_taken_back(site: Site) -> None:
    fail(site)
    assert "discarded: given up by a person; was: RL-0803: crash" in say("discard", STUDY).stdout
    assert say("list", "--state", "failed").stdout == "No study is failed.\n"
    assert say("retry", STUDY).exit_code == 0


def test_of_two_contents_a_person_says_which_is_right(site: Site) -> None:
    site.receive(instance(1), instance(2))
    other = instance(1)
    other.PixelData = bytes(len(other.PixelData))
    site.receive(other)
    site.settle()
    (failed,) = site.ledger.in_state(State.FAILED)
    assert f"radloop studies release {STUDY} --keep" in failed.reason
    ((first, second),) = (c.digests for c in conflicts(site.ledger.connection, STUDY))

    assert say("release", STUDY).exit_code == 2  # nothing was said
    for wrong in ("zz", "ff" * 32):
        done = say("release", STUDY, "--keep", wrong)
        assert isinstance(done.exception, Refusal) and first[:12] in done.exception.reason
    assert say("release", STUDY, "--keep", second[:10]).exit_code == 0

    released = site.only(State.READY)
    inputs = site.ledger.inputs(released)
    assert len(inputs) == 2
    assert any(second in name for name in inputs) and not any(first in name for name in inputs)


def test_a_study_is_found_by_its_beginning_if_that_tells(site: Site) -> None:
    fail(site)
    with opened(site.root) as ledger:
        assert find(ledger, STUDY[:-1]).study_uid == STUDY
        for asked in ("9.9", "", "*", "1.2.*"):
            with pytest.raises(NoSuchStudy):
                find(ledger, asked)


def test_without_a_spool_the_next_step_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RADLOOP_SPOOL", str(tmp_path / "none"))
    done = say("list")
    assert isinstance(done.exception, Refusal)
    assert "RL-0661" in done.exception.reason and "radloop serve" in done.exception.reason


def of_patient(number: int, patient: str, **others: str) -> Dataset:
    dataset = instance(number)
    dataset.PatientID = patient
    for keyword, value in others.items():
        setattr(dataset, keyword, value)
    return dataset


def test_a_corrected_patient_waits_for_all_images_and_for_a_person(site: Site) -> None:
    site.receive(*(of_patient(k, "A") for k in (1, 2, 3)))
    site.settle()
    site.ledger.move(site.only(State.READY), State.DONE)
    site.receive(*(of_patient(k, "B", PatientSex="F") for k in (1, 2)))
    site.settle()
    assert "RL-0703: 2 of 3 instances came again with another" in site.only(State.FAILED).reason

    done = say("release", STUDY, "--newer")
    assert isinstance(done.exception, NotAllCame) and "2 of 3" in done.exception.reason
    site.receive(of_patient(3, "B", PatientSex="F"))
    site.settle()
    latest = site.ledger.latest(STUDY)
    assert latest is not None and "RL-0703: 3 of 3" in latest.reason
    assert say("release", STUDY, "--newer", "--older").exit_code == 2
    assert say("release", STUDY, "--newer").exit_code == 0

    assert patients(site, State.READY) == ["B", "B", "B"]
    site.receive(of_patient(1, "A"))  # once more, by mistake: the same bytes, and others
    old = of_patient(2, "A")
    old.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    site.receive(old)
    assert site.settle() == []


def test_a_study_sent_again_under_a_wrong_patient_is_kept_as_it_was(site: Site) -> None:
    site.receive(*(of_patient(k, "A") for k in (1, 2, 3)), of_patient(1, "B"))
    site.settle()

    assert say("release", STUDY, "--older").exit_code == 0

    assert patients(site, State.READY) == ["A", "A", "A"]


def test_what_differs_in_more_than_the_patient_is_not_released_at_once(site: Site) -> None:
    site.receive(of_patient(1, "A"), of_patient(1, "B", AccessionNumber="7"), of_patient(2, "A"))
    site.receive(of_patient(2, "B"))
    site.settle()
    assert "RL-0701" in site.only(State.FAILED).reason

    for option in ("--newer", "--older"):
        done = say("release", STUDY, option)
        assert isinstance(done.exception, NotIdentity) and f"{STUDY}.9.1" in done.exception.reason


def patients(site: Site, state: State) -> list[str]:
    names = site.ledger.inputs(site.only(state))
    return sorted(str(dcmread(site.ledger.spool.path(name)).PatientID) for name in names)
