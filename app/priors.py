"""Where earlier results of a patient come from: a folder that is given, or the site's Orthanc.

Orthanc says which earlier studies the patient has, the register which results in them are
ours, byte by byte, and the record of verdicts what readers said of them. What was
superseded or withdrawn is not in Orthanc any more; what was rejected is not fetched.
Nothing here stops an analysis: what can't be had is a reason in the result.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from app.delivery.destination import DestinationUnreachable
from app.register import Register, Written
from app.verdicts.record import Verdict, latest_verdicts, read_verdicts
from operators.compared import Priors, WhoAndWhen
from operators.errors import Refusal
from operators.findings.prior_refusals import DateMissing

if TYPE_CHECKING:
    from app.delivery.orthanc import OrthancDestination
    from app.settings import Settings

MAX_STUDIES = 100  # of one patient, asked of the register
MAX_RESULTS = 8  # fetched: confirmed ones first, then the latest
ASK_SECONDS = 15.0  # for each answer of Orthanc
DEADLINE_SECONDS = 60.0  # for all of them: the study must not wait longer


@dataclass(frozen=True)
class FolderPriors:
    """Everything below a folder, whoever made it.

    Attributes
    ----------
    folder : Path
        With SEG, and SR about them.
    """

    folder: Path

    def __call__(self, present: WhoAndWhen) -> Priors:
        """All of it, of whatever patient: who compares looks at each."""
        from operators.evidence.prior import read_priors

        return read_priors(self.folder)


@dataclass(frozen=True)
class ArchivePriors:
    """Results of ours in an Orthanc; picklable.

    Attributes
    ----------
    state_dir : Path
        Of the register and the record of verdicts.
    url, user, password : str, str or None, str or None
        Of Orthanc.
    """

    state_dir: Path
    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __call__(self, present: WhoAndWhen) -> Priors:
        """Those of earlier studies of the same patient that nobody rejected."""
        from app.delivery.orthanc import OrthancDestination
        from operators.evidence.prior import read_priors

        if not present.study_date:
            return Priors(left_out=(DateMissing(f"study {present.study_instance_uid}").reason,))
        orthanc = OrthancDestination(self.url, self.user, self.password, seconds=ASK_SECONDS)
        try:
            with tempfile.TemporaryDirectory(prefix="radloop-prior-") as folder:
                fetched, confirmed, left_out = self._within_time(orthanc, present, Path(folder))
                if not fetched:
                    none = "the archive holds no earlier result of this patient with a segmentation"
                    return Priors(left_out=tuple(left_out) or (none,))
                priors = read_priors(Path(folder), confirmed)
            return Priors(priors.results, (*left_out, *priors.left_out))
        except TimeoutError:
            late = f"Orthanc took more than {DEADLINE_SECONDS:g} s to give the earlier results"
            return Priors(left_out=(late,))
        except DestinationUnreachable as away:
            return Priors(left_out=(f"{away.code}: Orthanc can't be reached now ({away.why})",))
        except Refusal as refusal:
            return Priors(left_out=(refusal.reason,))

    def _within_time(
        self, orthanc: OrthancDestination, present: WhoAndWhen, folder: Path
    ) -> tuple[int, list[str], list[str]]:
        """`_fetch`, given up after `DEADLINE_SECONDS`: an answer that trickles in is never late."""
        done: Future[tuple[int, list[str], list[str]]] = Future()

        def run() -> None:
            try:
                done.set_result(self._fetch(orthanc, present, folder))
            except BaseException as error:  # noqa: BLE001  (raised again where it is waited for)
                done.set_exception(error)

        threading.Thread(target=run, name="priors", daemon=True).start()
        return done.result(DEADLINE_SECONDS)

    def _fetch(
        self, orthanc: OrthancDestination, present: WhoAndWhen, folder: Path
    ) -> tuple[int, list[str], list[str]]:
        """How many results were put into a folder, which SEGs are confirmed, what was left out."""
        from operators.evidence.prior import MAX_FILE_BYTES

        verdicts = latest_verdicts(read_verdicts(self.state_dir)).values()
        said = {one.seg.sop_instance_uid: one for one in verdicts if one.seg is not None}
        left_out: list[str] = []
        fetched: list[str] = []
        for seg, reports in self._candidates(orthanc, present, said):
            content = _held(orthanc, seg, MAX_FILE_BYTES, left_out)
            if content is None:
                continue
            fetched.append(seg.sop_instance_uid)
            about = [_held(orthanc, one, MAX_FILE_BYTES, left_out) for one in reports]
            for number, held in enumerate([content, *filter(None, about)]):
                (folder / f"{len(fetched)}-{number}.dcm").write_bytes(held)
            if len(fetched) == MAX_RESULTS:
                break
        return len(fetched), [uid for uid in fetched if uid in said], left_out

    def _candidates(
        self, orthanc: OrthancDestination, present: WhoAndWhen, said: dict[str, Verdict]
    ) -> Iterator[tuple[Written, list[Written]]]:
        """Each SEG that was not rejected, with the reports that were written with it."""
        register = Register(self.state_dir)
        studies = orthanc.studies_of(present.patient_id, present.study_date)
        found = []
        for date, study_uid in sorted(studies, reverse=True)[:MAX_STUDIES]:
            # Of the day itself none is compared: they must not take the place of earlier ones.
            if study_uid == present.study_instance_uid or not "" < date < present.study_date:
                continue
            for seg in register.in_study(study_uid, "SEG"):
                verdict = said.get(seg.sop_instance_uid)
                if verdict is None or verdict.verdict == "confirmed":
                    found.append((verdict is not None, date, seg.recorded_at, seg))
        for _, _, _, seg in sorted(found, key=lambda one: one[:3], reverse=True):
            verdict = said.get(seg.sop_instance_uid)
            if verdict is None:
                beside = [
                    one
                    for one in register.in_study(seg.study_instance_uid, "SR")
                    if _about(one) == _about(seg)
                ]
            else:
                uids = (verdict.sr.sop_instance_uid, verdict.verified_sr.sop_instance_uid)
                beside = [entry for uid in uids if (entry := register.find(uid)) is not None]
            yield seg, beside


def _about(entry: Written) -> tuple[str, ...]:
    """What a SEG and the SR that was written with it share."""
    return (
        entry.source_series_uid,
        entry.part,
        entry.bundle,
        entry.weights_sha256,
        entry.recorded_at,
    )


def _held(
    orthanc: OrthancDestination, entry: Written, max_bytes: int, left_out: list[str]
) -> bytes | None:
    """An object of ours as we wrote it; None where it is gone, or, with a reason, changed."""
    what = f"{entry.kind} {entry.sop_instance_uid}"
    if any(size > max_bytes for size in orthanc.sizes(entry.sop_instance_uid)):
        left_out.append(f"{what} has more than {max_bytes} bytes")
        return None
    for content in orthanc.fetch(entry.sop_instance_uid):
        if hashlib.sha256(content).hexdigest() == entry.sha256:
            return content
        left_out.append(f"{what} in the archive is not what radloop wrote")
    return None


def of_site(settings: Settings) -> ArchivePriors | None:
    """Where earlier results are looked for; None where that is off or there is no Orthanc."""
    if not settings.compare_with_prior or not settings.orthanc_url:
        return None
    password = settings.orthanc_password
    return ArchivePriors(
        settings.state_dir,
        settings.orthanc_url,
        settings.orthanc_user,
        password.get_secret_value() if password else None,
    )
