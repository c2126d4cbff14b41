"""A reader's verdict on one result: into the archive, the register and the record.

The order is: look (is the result still what we wrote?), fix the moment
(`unfinished`), enter the verified SR in the register, store it and read it back,
append the record, forget the unfinished one. Whatever is killed in between, the
same command completes it: same UID, same bytes, one record. Another verdict on the
same result first completes the one that was interrupted: somebody gave it.
"""

from __future__ import annotations

import fcntl
import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from app.register import Register, StateUnusable, TwoContents, Written
from app.settings import Settings
from app.verdicts import unfinished
from app.verdicts.archive import Archive, find_result
from app.verdicts.record import (
    ObjectRef,
    Verdict,
    VerdictKind,
    append_verdict,
    latest_verdicts,
    read_verdicts,
)
from app.verdicts.refusals import ReaderUnknown, ReasonUnfit, ResultUnknown, Unfinishable
from app.verdicts.verify import seg_of, verified_uid, verify

LOCK_FILE = "verdicts.lock"
MAX_REASON = 500  # characters; one sentence in a report, not an essay


@dataclass(frozen=True)
class Given:
    """The outcome of a command.

    Attributes
    ----------
    verdict : Verdict
        What the record holds.
    new : bool
        False where this reader had said so before.
    where : str
        The archive that holds the verified SR.
    """

    verdict: Verdict
    new: bool
    where: str


def give_verdict(
    settings: Settings,
    result: str,
    *,
    verdict: VerdictKind,
    reader: str,
    because: str | None = None,
) -> Given:
    """Confirm or reject one result.

    Parameters
    ----------
    settings : Settings
        State folder, readers, Orthanc.
    result : str
        UID of an SR of ours, or of a study with one result; see `find_result`.
    verdict : VerdictKind
        "confirmed" or "rejected".
    reader : str
        Key in `settings.readers`.
    because : str or None
        Reason of a rejection; None for a confirmation.

    Raises
    ------
    VerdictRefusal, RegisterRefusal, DeliveryRefusal
        The verdict is not taken.
    """
    if reader not in settings.readers:
        raise ReaderUnknown(list(settings.readers))
    reason = _fit(because) if because is not None else None
    archive = Archive(settings)
    register = Register(settings.state_dir)
    giving = _Giving(settings, archive, register)
    try:
        with _one_at_a_time(settings.state_dir):
            return giving.give(result, verdict, reader, reason)
    except OSError as error:
        raise StateUnusable(settings.state_dir, error.strerror or str(error)) from error
    except sqlite3.Error as error:
        raise StateUnusable(settings.state_dir, str(error)) from error


@dataclass(frozen=True)
class _Giving:
    """One command, under the lock."""

    settings: Settings
    archive: Archive
    register: Register

    def give(self, result: str, verdict: VerdictKind, reader: str, because: str | None) -> Given:
        state_dir = self.settings.state_dir
        latest = latest_verdicts(read_verdicts(state_dir))
        sr = find_result(result, register=self.register, latest=latest, archive=self.archive)
        wanted = (verdict, reader, because)
        begun = unfinished.begun_on(state_dir, sr.sop_instance_uid)
        if begun is not None:
            completed = self._complete(begun, sr)
            if (begun.verdict, begun.reader, begun.because) == wanted:
                return Given(completed, True, self.archive.name)
        known = _already(self._on(sr), *wanted)
        if known is not None:
            return Given(known, False, self.archive.name)
        self._look(sr)  # what is refused must not have been begun
        at = datetime.now().astimezone().isoformat(timespec="seconds")
        begun = unfinished.Begun(sr.sop_instance_uid, verdict, reader, because, at)
        unfinished.begin(state_dir, begun)
        return Given(self._complete(begun, sr), True, self.archive.name)

    def _on(self, sr: Written) -> list[Verdict]:
        """Verdicts on one result, oldest first."""
        return [
            verdict
            for verdict in read_verdicts(self.settings.state_dir)
            if verdict.sr.sop_instance_uid == sr.sop_instance_uid
        ]

    def _look(self, sr: Written) -> tuple[bytes, ObjectRef | None]:
        """The SR's bytes, and its segmentation, both as we wrote them."""
        content = self.archive.fetch(sr)
        seg_uid = seg_of(content)
        if seg_uid is None:
            return content, None
        seg = self.register.find(seg_uid)
        if seg is None:  # the register lost it: nothing says what the reader has seen
            raise ResultUnknown(seg_uid, self.register.file)
        self.archive.fetch(seg)
        return content, ObjectRef(seg_uid, seg.sha256)

    def _complete(self, begun: unfinished.Begun, sr: Written) -> Verdict:
        state_dir = self.settings.state_dir
        reader = self.settings.readers.get(begun.reader)
        if reader is None:
            raise self._unfinishable(begun, "that reader is no longer in the settings")
        original, seg = self._look(sr)
        uid, earlier = _identity(begun, [given.verified_sr for given in self._on(sr)])
        content = verify(
            original,
            sop_instance_uid=uid,
            verdict=begun.verdict,
            reader=reader,
            because=begun.because,
            at=begun.moment,
            earlier=earlier,
        )
        verified = Written(
            sop_instance_uid=uid,
            sha256=hashlib.sha256(content).hexdigest(),
            kind="VERIFIED_SR",
            study_instance_uid=sr.study_instance_uid,
            source_series_uid=sr.source_series_uid,
            part=sr.part,
            bundle=sr.bundle,
            weights_sha256=sr.weights_sha256,
            recorded_at=f"{begun.moment:%Y%m%d%H%M%S}",
        )
        try:
            self.register.enter([verified])
        except TwoContents as error:
            why = "name or organization of that reader, or radloop itself, was changed since"
            raise self._unfinishable(begun, why) from error
        self.archive.store(content, uid)
        verdict = Verdict(
            at=begun.moment.astimezone(UTC).isoformat(),
            verdict=begun.verdict,
            reader=begun.reader,
            because=begun.because,
            study_instance_uid=sr.study_instance_uid,
            series_instance_uid=sr.source_series_uid,
            part=sr.part,
            bundle=sr.bundle,
            weights_sha256=sr.weights_sha256,
            sr=ObjectRef(sr.sop_instance_uid, sr.sha256),
            seg=seg,
            verified_sr=ObjectRef(uid, verified.sha256),
        )
        append_verdict(state_dir, verdict)
        unfinished.finish(state_dir, begun)
        return verdict

    def _unfinishable(self, begun: unfinished.Begun, why: str) -> Unfinishable:
        path = unfinished.path_of(self.settings.state_dir, begun.sr_uid)
        return Unfinishable(begun.sr_uid, begun.reader, why, path)


def _identity(begun: unfinished.Begun, recorded: Sequence[ObjectRef]) -> tuple[str, list[str]]:
    """UID of the verified SR, and those of the verdicts before it.

    The record may have it already, from before an interruption: it is no predecessor of
    itself.
    """

    def after(earlier: list[str]) -> str:
        return verified_uid(
            begun.sr_uid,
            reader=begun.reader,
            verdict=begun.verdict,
            because=begun.because,
            at=begun.moment,
            earlier=earlier,
        )

    uids = [reference.sop_instance_uid for reference in recorded]
    if uids and after(uids[:-1]) == uids[-1]:
        return uids[-1], uids[:-1]
    return after(uids), uids


def _already(
    verdicts: Sequence[Verdict], verdict: VerdictKind, reader: str, because: str | None
) -> Verdict | None:
    """This reader's same verdict, where nobody said otherwise since."""
    for given in reversed(verdicts):
        if given.verdict != verdict:
            return None
        if (given.reader, given.because) == (reader, because):
            return given
    return None


def _fit(because: str) -> str:
    """A reason on one line.

    Raises
    ------
    ReasonUnfit
        Empty, too long, or with characters that are none.
    """
    text = " ".join(because.split())
    if not text:
        raise ReasonUnfit("is empty", MAX_REASON)
    if len(text) > MAX_REASON:
        raise ReasonUnfit(f"has {len(text)} characters", MAX_REASON)
    if not text.isprintable():  # a lone surrogate, too, can't be written
        raise ReasonUnfit("holds characters that can't be printed", MAX_REASON)
    return text


@contextmanager
def _one_at_a_time(state_dir: Path) -> Iterator[None]:
    """One verdict at a time per state folder; the kernel drops the lock, however we end."""
    with (state_dir / LOCK_FILE).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
