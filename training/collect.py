"""Confirmed results to a data set.

A label is what a named reader confirmed, byte for byte: the SEG is fetched again and
its sha256 compared with the verdict's record. Whatever can't be had or trusted is
left out and named; the rest goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from operators.errors import Refusal
from operators.job import Refused, Volume
from operators.models.bundle import UnitMismatch
from operators.models.card import Card
from operators.models.run_block import Input
from operators.study.identity import patient_identity
from operators.study.read import read_drop
from operators.volume.build import build_volumes
from operators.volume.tilt import upright
from training.archive import Archive
from training.dataset import (
    MANIFEST,
    Case,
    Manifest,
    encode_manifest,
    point_to_latest,
    read_manifest,
    write_nifti,
)
from training.holdout import Patients
from training.labels import Labels, read_labels
from training.refusals import (
    ArchiveUnreachable,
    CaseRefusal,
    NoIdentity,
    NothingConfirmed,
    NothingLabelled,
    NotTrainable,
    SegChanged,
    SourceGone,
    SourceRejected,
)
from training.state import StateDir, locked, sync_folder, write_durably

_PARTIAL = ".partial"


@dataclass(frozen=True)
class ConfirmedResult:
    """A result whose latest verdict is "confirmed".

    Attributes
    ----------
    study_instance_uid, series_instance_uid, part : str
        The source volume.
    bundle, weights_sha256 : str
        Who drew it.
    sr_sop_instance_uid, sr_sha256 : str
        The report that was confirmed.
    seg_sop_instance_uid, seg_sha256 : str or None
        Its SEG; None where nothing was found.
    confirmed_at : str
        UTC, ISO 8601; of two results of one volume the later counts.
    """

    study_instance_uid: str
    series_instance_uid: str
    part: str
    bundle: str
    weights_sha256: str
    sr_sop_instance_uid: str
    sr_sha256: str
    seg_sop_instance_uid: str | None
    seg_sha256: str | None
    confirmed_at: str


@dataclass(frozen=True)
class Collected:
    """What `collect` made.

    Attributes
    ----------
    manifest : Manifest
        The data set.
    is_new : bool
        False where the same content was there already.
    left_out : tuple of Refused
        Confirmed results (SOP Instance UID of the SR) without a case, and why.
    """

    manifest: Manifest
    is_new: bool
    left_out: tuple[Refused, ...]


def collect(
    results: Iterable[ConfirmedResult],
    *,
    archive: Archive,
    card: Card,
    state: StateDir,
    holdout_fraction: float,
    max_cases: int | None = None,
    rejected: frozenset[tuple[str, str]] = frozenset(),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Collected:
    """Make the data set of a bundle's confirmed results.

    Parameters
    ----------
    results : iterable of ConfirmedResult
        Of any bundle, in any order.
    archive : Archive
        Holds sources and SEGs.
    card : Card
        The bundle.
    state : StateDir
        Where it goes.
    holdout_fraction : float
        For patients that are seen for the first time.
    max_cases : int or None
        Learn from only so many, those that were confirmed last. The hold-out stays whole.
    rejected : frozenset of (str, str)
        Study and SOP Instance UID of images that their source took back.
    progress : callable
        Called with cases done and in all.

    Raises
    ------
    NothingConfirmed
        No case at all.
    ArchiveUnreachable
        The archive is not there: nothing is made, since nobody could say what is gone.
    AtWork
        Another process collects.
    """
    if not card.segments:
        raise NotTrainable(card.name, "it has no labels of its own")
    chosen = _latest_per_volume(result for result in results if result.bundle == card.name)
    with locked(state.datasets / "collect.lock", "`radloop train collect`", wait=False):
        for leftover in state.datasets.glob(f"{_PARTIAL}*"):  # of a collect that was killed
            shutil.rmtree(leftover)
        partial = state.datasets / f"{_PARTIAL}-{os.getpid()}"
        for folder in ("image", "label"):
            (partial / folder).mkdir(parents=True)
        try:
            patients = Patients(state, holdout_fraction)
            return _collect(
                chosen, archive, card, state, patients, max_cases, rejected, partial, progress
            )
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _latest_per_volume(results: Iterable[ConfirmedResult]) -> list[ConfirmedResult]:
    """One label map a volume: a series that was analysed twice has the later confirmed one.

    In the order in which they were confirmed.
    """
    latest: dict[tuple[str, str, str], ConfirmedResult] = {}
    for result in sorted(results, key=lambda r: (r.confirmed_at, r.sr_sop_instance_uid)):
        key = result.study_instance_uid, result.series_instance_uid, result.part
        latest.pop(key, None)
        latest[key] = result
    return list(latest.values())


def _collect(
    results: list[ConfirmedResult],
    archive: Archive,
    card: Card,
    state: StateDir,
    patients: Patients,
    max_cases: int | None,
    rejected: frozenset[tuple[str, str]],
    partial: Path,
    progress: Callable[[int, int], None],
) -> Collected:
    cases: list[Case] = []
    left_out: list[Refused] = []
    for done, result in enumerate(results):
        progress(done, len(results))
        try:
            cases.append(_make_case(result, archive, card, patients, rejected, partial))
        except ArchiveUnreachable:
            raise
        except Refusal as refusal:
            left_out.append(Refused(result.sr_sop_instance_uid, refusal.reason))
    progress(len(results), len(results))
    if not cases:
        raise NothingConfirmed(card.name, len(results), [entry.reason for entry in left_out])
    cases = _limited(cases, max_cases, partial)
    content = encode_manifest(card.name, card.version, card.unit, card.segments, tuple(cases))
    sha256 = hashlib.sha256(content).hexdigest()
    target = state.datasets / sha256
    is_new = not target.exists()
    if is_new:
        write_durably(partial / MANIFEST, content)
        partial.rename(target)
        sync_folder(state.datasets)
    point_to_latest(state, card.name, sha256)
    return Collected(read_manifest(state, sha256), is_new, tuple(left_out))


def _limited(cases: list[Case], max_cases: int | None, folder: Path) -> list[Case]:
    """Only the last `max_cases` to learn from; the hold-out is never cut: it is the judge."""
    learning = [case for case in cases if case.split != "holdout"]
    dropped = learning[: max(0, len(learning) - max_cases)] if max_cases else []
    for case in dropped:
        for name in (case.image, case.label):
            (folder / name).unlink()
    return [case for case in cases if case not in dropped]


def _make_case(
    result: ConfirmedResult,
    archive: Archive,
    card: Card,
    patients: Patients,
    rejected: frozenset[tuple[str, str]],
    folder: Path,
) -> Case:
    if result.seg_sop_instance_uid is None or result.seg_sha256 is None:
        raise NothingLabelled(result.sr_sop_instance_uid)
    seg = archive.fetch_instance(result.seg_sop_instance_uid)
    if (found := hashlib.sha256(seg).hexdigest()) != result.seg_sha256:
        raise SegChanged(result.seg_sop_instance_uid, found, result.seg_sha256)
    with tempfile.TemporaryDirectory(dir=folder) as source:
        archive.fetch_series(result.study_instance_uid, result.series_instance_uid, Path(source))
        volume = _volume(result, Path(source), card)
    sources = {(result.study_instance_uid, str(h.SOPInstanceUID)) for h in volume.headers}
    if taken_back := sources & rejected:
        raise SourceRejected(result.series_instance_uid, len(taken_back))
    issuer, patient_id, _ = patient_identity(volume.headers[0])
    if not patient_id:
        raise NoIdentity(result.study_instance_uid)
    labels = read_labels(seg, volume, card.segments)
    if not labels.labelled:
        raise NothingLabelled(result.sr_sop_instance_uid)
    patient = patients.key(issuer, patient_id)
    if card.run.input is Input.VOLUME and (straight := upright(volume)) is not None:
        # To be learnt from as the network will be shown it.
        labels = replace(labels, array=straight.labels_moved(labels.array))
        volume = straight.volume(volume)
    return _write_case(result, volume, labels, patient, patients, folder)


def _volume(result: ConfirmedResult, source: Path, card: Card) -> Volume:
    """The volume that the result is about, by the same code that built it then."""
    drop = read_drop(source)
    if drop.refused:
        first = drop.refused[0].reason
        raise CaseRefusal(
            f"series {result.series_instance_uid}: {len(drop.refused)} of its files can't be "
            f"read now ({first})"
        )
    ((series,),) = (study.series for study in drop.studies)  # one study, one series were asked for
    for volume in build_volumes(series, card.name):
        if volume.part == result.part:
            if volume.unit != card.unit:
                raise UnitMismatch(card.name, volume.series_instance_uid, volume.unit, card.unit)
            return volume
    raise SourceGone(f"part '{result.part}' of series", result.series_instance_uid, 0)


def _write_case(
    result: ConfirmedResult,
    volume: Volume,
    labels: Labels,
    patient: str,
    patients: Patients,
    folder: Path,
) -> Case:
    identity = json.dumps([patient, result.series_instance_uid, result.part])
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    image, label = f"image/{name}.nii.gz", f"label/{name}.nii.gz"
    affine = volume.lps_from_index
    assert result.seg_sop_instance_uid is not None and result.seg_sha256 is not None
    return Case(
        case=name,
        patient=patient,
        split=patients.split(patient),
        study_instance_uid=result.study_instance_uid,
        series_instance_uid=result.series_instance_uid,
        part=result.part,
        sr_sop_instance_uid=result.sr_sop_instance_uid,
        sr_sha256=result.sr_sha256,
        seg_sop_instance_uid=result.seg_sop_instance_uid,
        seg_sha256=result.seg_sha256,
        weights_sha256=result.weights_sha256,
        labelled=labels.labelled,
        image=image,
        image_sha256=write_nifti(_stored(volume), affine, folder / image),
        label=label,
        label_sha256=write_nifti(labels.array, affine, folder / label),
    )


def _stored(volume: Volume) -> np.ndarray:
    """HU as int16, rounded; other units keep their own values."""
    if volume.unit != "HU" or volume.array.dtype == np.int16:
        return volume.array
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(volume.array), limits.min, limits.max).astype(np.int16)
