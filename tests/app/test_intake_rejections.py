"""What a rejection note takes back counts no more, in whatever order things come."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from app.intake.ledger import State
from app.intake.peek import UnreadableError, peek
from app.intake.rejections import Rejection, read_rejection
from tests.app.instances import STUDY, encoded, instance
from tests.app.test_intake_ledger import OTHER, Site, site
from tests.rejection import TITLES, rejection_note

__all__ = ["site"]  # a fixture


def patient(*numbers: int, study: str = STUDY) -> list[Dataset]:
    made = [instance(number, study=study) for number in numbers]
    for dataset in made:
        for name in ("PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"):
            setattr(dataset, name, "")
        dataset.StudyID = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return made


def images(site: Site, study: str = STUDY) -> int:
    latest = site.ledger.latest(study)
    assert latest is not None
    return sum(
        peek(site.ledger.spool.path(name)).sop_class_uid.endswith(".1.2")
        for name in site.ledger.inputs(latest)
    )


def read(path: Path) -> Rejection | None:
    return read_rejection(path, peek(path))


def note_file(folder: Path, note: Dataset) -> Path:
    path = folder / "note.dcm"
    path.write_bytes(encoded(note))
    return path


@pytest.mark.parametrize("title", TITLES)
def test_titles_that_reject_are_told_from_others(tmp_path: Path, title: str) -> None:
    found = read(note_file(tmp_path, rejection_note(patient(1, 2), title)))

    if title in ("113039", "113000"):
        assert found is None
    else:
        named = frozenset((STUDY, f"{STUDY}.9.{number}") for number in (1, 2))
        assert found == Rejection(title, named)


def test_a_note_of_ours_and_an_image_reject_nothing(tmp_path: Path) -> None:
    ours = rejection_note(patient(1))
    ours.Manufacturer = "radloop"

    assert read(note_file(tmp_path, ours)) is None
    assert read(note_file(tmp_path, patient(1)[0])) is None


def test_a_note_that_names_nothing_is_not_taken_for_none(tmp_path: Path) -> None:
    empty = rejection_note(patient(1))
    empty.CurrentRequestedProcedureEvidenceSequence = []
    with pytest.raises(UnreadableError, match="names no instance"):
        read(note_file(tmp_path, empty))

    del empty.CurrentRequestedProcedureEvidenceSequence
    with pytest.raises(UnreadableError):
        read(note_file(tmp_path, empty))


def test_rejected_images_take_no_part_in_the_next_version(site: Site) -> None:
    site.receive(*patient(1, 2, 3))
    assert site.settle()[-1] == (1, State.READY)
    site.ledger.move(site.only(State.READY), State.DONE)

    site.receive(rejection_note(patient(2)))

    assert site.settle()[-1] == (2, State.READY)
    assert images(site) == 2
    assert "1 by 'Rejected for Quality Reasons'" in site.only(State.READY).reason


def test_an_image_that_comes_after_its_rejection_starts_nothing(site: Site) -> None:
    site.receive(*patient(1), rejection_note(patient(2)))
    site.settle()
    site.ledger.move(site.only(State.READY), State.DONE)

    site.receive(*patient(2))

    assert site.settle() == []
    assert images(site) == 1


def test_a_study_of_which_all_is_rejected_before_it_comes_is_shown(site: Site) -> None:
    site.receive(rejection_note(patient(1)))
    site.settle()
    site.ledger.connection.execute("DELETE FROM studies")  # the note itself came elsewhere

    site.receive(*patient(1))

    assert site.settle() == [(1, State.NOT_APPLICABLE)]
    assert "rejected every instance" in site.only(State.NOT_APPLICABLE).reason


def test_a_note_in_one_study_about_another_renews_that_one(site: Site) -> None:
    site.receive(*patient(1, 2, study=OTHER))
    site.settle()
    site.ledger.move(site.only(State.READY), State.DONE)
    note = rejection_note(patient(1, study=OTHER), "113038")
    note.StudyInstanceUID = STUDY
    note.file_meta.MediaStorageSOPInstanceUID = note.SOPInstanceUID

    site.receive(note)
    changes = site.ledger.group()

    assert (OTHER, 2) in [(change.study_uid, change.version) for change in changes]
    assert images(site, OTHER) == 1


def test_the_same_uid_in_another_study_is_not_rejected(site: Site) -> None:
    (stays,) = patient(1)
    stays.StudyInstanceUID = OTHER
    site.receive(stays, rejection_note(patient(1)))
    site.settle()

    assert images(site, OTHER) == 1
