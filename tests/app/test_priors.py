"""Which earlier results a real Orthanc gives: ours, as we wrote them, and not rejected."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from app.delivery.orthanc import OrthancDestination
from app.demo.orthanc import Orthanc, find_orthanc, free_port, running_orthanc
from app.priors import ArchivePriors, FolderPriors, of_site
from app.register import Register, objects_in
from app.settings import Settings
from app.verdicts.record import ObjectRef, Verdict, VerdictKind, append_verdict
from operators.compared import WhoAndWhen
from operators.evidence.result import write_result
from operators.evidence.write import write_job
from operators.job import StudyJob
from tests.operators.priors import ball, study
from tests.operators.scene import RECORDED_AT, segment

THEN, NOW = "20240102", "20240201"
LARYNX = segment(1, "larynx")
PRESENT = WhoAndWhen("Hospital", "P-1", "1.2.3", NOW)


class Site:
    """A state folder and an Orthanc with results."""

    def __init__(self, folder: Path, orthanc: Orthanc) -> None:
        self.folder, self.url = folder, orthanc.url
        self.state = folder / "state"
        self.priors = ArchivePriors(self.state, orthanc.url)

    def deliver(self, name: str, date: str = THEN, **of: str) -> tuple[Path, Path]:
        """SEG and SR of one study, in register and archive."""
        report = study(self.folder / name / "in", [ball(8.0)], [LARYNX], date=date, **of)
        out = self.folder / name / "out"
        job = StudyJob(out, out, RECORDED_AT, reports=(report,))
        write_result(write_job(job))
        files, entries = zip(*objects_in(out), strict=True)
        Register(self.state).enter(entries)
        OrthancDestination(self.url).deliver(files)
        seg, sr = files
        return seg, sr

    def judge(self, seg: Path, sr: Path, verdict: VerdictKind) -> None:
        """A line in the record of verdicts."""
        refs = [ObjectRef(uid(path), digest(path)) for path in (seg, sr)]
        append_verdict(
            self.state,
            Verdict(
                at="2024-01-03T00:00:00+00:00",
                verdict=verdict,
                reader="ada",
                because=None,
                study_instance_uid="1.2",
                series_instance_uid="1.2.3",
                part="",
                bundle="test_bundle",
                weights_sha256="",
                sr=refs[1],
                seg=refs[0],
                verified_sr=ObjectRef(f"2.25.{digest(sr)[:8].encode().hex()}", "0" * 64),
            ),
        )


def uid(path: Path) -> str:
    return str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_orthanc(tmp_path / "orthanc") as server:
        yield Site(tmp_path, server)


@pytest.mark.orthanc
@pytest.mark.skipif(find_orthanc() is None, reason="Orthanc is not installed")
class TestOrthanc:
    def test_an_earlier_result_comes_with_its_report(self, site: Site) -> None:
        seg, sr = site.deliver("then")
        site.deliver("later", "20240301")
        site.deliver("other", patient_id="P-2")

        found = pickle.loads(pickle.dumps(site.priors))(PRESENT)

        assert found.left_out == ()
        (prior,) = found.results
        assert prior.identity.seg_sop_instance_uid == uid(seg)
        assert [one for _, _, one in prior.identity.reports] == [uid(sr)]
        assert not prior.identity.confirmed
        assert prior.structures[0].load().mask.any()  # though the files are gone

    def test_a_confirmed_result_comes_first_and_a_rejected_one_not_at_all(self, site: Site) -> None:
        older, newer = site.deliver("older", "20230101"), site.deliver("newer", THEN)
        site.judge(*older, "confirmed")
        site.judge(*newer, "rejected")

        found = site.priors(PRESENT)

        (prior,) = found.results
        assert prior.identity.seg_sop_instance_uid == uid(older[0])
        assert prior.identity.confirmed

    def test_what_was_withdrawn_changed_or_is_not_in_the_register_is_no_prior(
        self, site: Site
    ) -> None:
        gone = site.deliver("gone", "20230101")
        OrthancDestination(site.url).withdraw(gone, "superseded", RECORDED_AT)
        assert "no earlier result of this patient" in site.priors(PRESENT).left_out[0]

        changed, _ = site.deliver("changed", "20230102")
        tampered = pydicom.dcmread(changed)
        tampered.SeriesNumber = 4711
        tampered.save_as(site.folder / "tampered.dcm")
        unknown = pydicom.dcmread(changed)
        unknown.SOPInstanceUID = unknown.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
        unknown.save_as(site.folder / "unknown.dcm")
        OrthancDestination(site.url).deliver(
            [site.folder / "tampered.dcm", site.folder / "unknown.dcm"]
        )

        found = site.priors(PRESENT)

        assert found.results == ()
        (reason,) = found.left_out
        assert f"SEG {uid(changed)} in the archive is not what radloop wrote" in reason

    def test_a_patient_id_is_no_wildcard(self, site: Site) -> None:
        site.deliver("then")

        for patient_id in ("*", "P-?", "p-1"):
            found = site.priors(replace(PRESENT, patient_id=patient_id))
            assert found.results == ()

    def test_the_size_is_bounded(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        site.deliver("then")
        monkeypatch.setattr("operators.evidence.prior.MAX_FILE_BYTES", 1000)

        found = site.priors(PRESENT)

        assert found.results == ()
        assert "more than 1000 bytes" in found.left_out[0]

    def test_results_of_the_same_day_do_not_take_the_place_of_earlier_ones(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.priors.MAX_RESULTS", 1)
        earlier, _ = site.deliver("earlier", THEN)
        site.deliver("today", PRESENT.study_date)

        (prior,) = site.priors(PRESENT).results

        assert prior.identity.seg_sop_instance_uid == uid(earlier)


def test_an_archive_that_takes_too_long_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def trickle(*_: object) -> list[object]:
        go_on.wait(30)
        return []

    monkeypatch.setattr("app.priors.DEADLINE_SECONDS", 0.2)
    monkeypatch.setattr(OrthancDestination, "studies_of", trickle)
    found = ArchivePriors(tmp_path / "state", "http://127.0.0.1:1")(PRESENT)
    go_on.set()

    assert found.results == () and "took more than 0.2 s" in found.left_out[0]


def test_without_a_date_of_the_present_study_nothing_is_asked(tmp_path: Path) -> None:
    asked = ArchivePriors(tmp_path / "state", "http://127.0.0.1:1")
    assert "RL-2173" in asked(replace(PRESENT, study_date="")).left_out[0]


def test_an_archive_that_is_away_is_a_reason(tmp_path: Path) -> None:
    away = ArchivePriors(tmp_path / "state", f"http://127.0.0.1:{free_port()}")

    found = away(PRESENT)

    assert found.results == ()
    (reason,) = found.left_out
    assert reason.startswith("RL-0901: Orthanc can't be reached now")


def test_a_broken_record_of_verdicts_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "verdicts.jsonl").write_text("{}\n")

    found = ArchivePriors(tmp_path, f"http://127.0.0.1:{free_port()}")(PRESENT)

    assert found.left_out[0].startswith("RL-1220")


def test_it_is_on_where_there_is_an_orthanc_and_can_be_switched_off(tmp_path: Path) -> None:
    def made(**values: object) -> ArchivePriors | None:
        return of_site(Settings(state_dir=tmp_path, **values))  # type: ignore[arg-type]

    assert made() is None
    found = made(orthanc_url="http://127.0.0.1:1", orthanc_password="geheim")
    assert found is not None and found.password == "geheim"
    assert "geheim" not in repr(found)
    assert made(orthanc_url="http://127.0.0.1:1", compare_with_prior=False) is None


def test_a_folder_without_results_says_so(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("nothing")

    assert "no SEG" in FolderPriors(tmp_path)(PRESENT).left_out[0]
