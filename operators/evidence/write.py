"""A report in, its DICOM files out: both or none, under names that reveal nobody."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from pydicom.dataset import Dataset

from operators.errors import Refusal
from operators.evidence.key_image import build_key_images
from operators.evidence.pdf import build_pdf
from operators.evidence.reading_sr import build_reading_sr
from operators.evidence.rtstruct import build_rtstruct
from operators.evidence.seg import build_seg, found_segments
from operators.evidence.sr import build_sr
from operators.findings.tally import tally
from operators.job import (
    Evidence,
    EvidenceKind,
    ExtraEvidence,
    Refused,
    Report,
    Segmentation,
    StudyJob,
)
from operators.reading import Reading


def write_evidence(
    report: Report,
    output_dir: Path,
    recorded_at: str,
    extra: Collection[ExtraEvidence] = (),
) -> tuple[Evidence, ...]:
    """Write SEG and SR of one report, and what else is asked for.

    Parameters
    ----------
    report : Report
        A segmentation with its findings.
    output_dir : Path
        Made if it is not there.
    recorded_at : str
        The study version's record, ``YYYYMMDDHHMMSS``; the same record gives the
        same bytes again.
    extra : collection of ExtraEvidence
        What is written beside SEG and SR.

    Returns
    -------
    tuple of Evidence
        SEG, then SR, then key images and PDF. Where nothing was found there is no SEG
        (it would have no frame) and no key image, and the SR says what was looked for.
    """
    counts = tally(report.segmentation)
    built: list[tuple[EvidenceKind, Dataset]] = []
    if found_segments(report):
        built.append(("SEG", build_seg(report, counts, recorded_at)))
    built.append(("SR", build_sr(report, counts, recorded_at)))
    if "key_images" in extra:
        images = build_key_images(report, counts, recorded_at)
        built += [("KEY_IMAGE", image) for image in images]
    if "pdf" in extra:
        built.append(("PDF", build_pdf(report, counts, recorded_at)))
    return _write_all(report.segmentation, built, output_dir)


def write_reading(reading: Reading, output_dir: Path, recorded_at: str) -> tuple[Evidence, ...]:
    """Write the SR of a result without a mask; as `write_evidence`."""
    return _write_all(reading, [("SR", build_reading_sr(reading, recorded_at))], output_dir)


def write_structure_set(report: Report, output_dir: Path, recorded_at: str) -> tuple[Evidence, ...]:
    """Write the RTSTRUCT of one report, as `write_evidence`; none where nothing was found.

    Raises
    ------
    EvidenceRefusal
        Contours would not lie on the source slices; see `rtstruct.py`.
    """
    if not found_segments(report):
        return ()
    built = build_rtstruct(report, recorded_at)
    return _write_all(report.segmentation, [("RTSTRUCT", built)], output_dir)


def _write_all(
    about: Segmentation | Reading, built: list[tuple[EvidenceKind, Dataset]], output_dir: Path
) -> tuple[Evidence, ...]:
    # Nothing is written before everything is built: a SEG without its SR tells nobody why.
    output_dir.mkdir(parents=True, exist_ok=True)
    evidence = []
    for kind, dataset in built:
        path = output_dir / _file_name(about, kind, str(dataset.SOPInstanceUID))
        _write(dataset, path)
        evidence.append(
            Evidence(
                kind=kind,
                path=path,
                sop_instance_uid=str(dataset.SOPInstanceUID),
                series_instance_uid=str(dataset.SeriesInstanceUID),
                source_study_uid=str(about.volume.headers[0].StudyInstanceUID),
                source_series_uid=about.volume.series_instance_uid,
                part=about.volume.part,
                bundle=about.model.name,
                prompt=about.model.prompt,
            )
        )
    return tuple(evidence)


def _file_name(about: Segmentation | Reading, kind: EvidenceKind, sop_instance_uid: str) -> str:
    """``BUNDLE-HASH.KIND.dcm``: our own names and hashes only."""
    bundle = re.sub(r"[^A-Za-z0-9_]+", "-", about.model.name)
    digest = hashlib.sha256(sop_instance_uid.encode()).hexdigest()[:16]
    return f"{bundle}-{digest}.{kind.lower()}.dcm"


def _write(dataset: Dataset, path: Path) -> None:
    """Write beside the final name and rename: a reader never sees half a file."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        dataset.save_as(unfinished, enforce_file_format=True)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_job(
    job: StudyJob,
    extra: Collection[ExtraEvidence] = (),
    structure_sets: Collection[str] = (),
) -> StudyJob:
    """`job` with the files of every report and reading; a refusal of one stops no other.

    Parameters
    ----------
    job : StudyJob
        With its reports and readings.
    extra : collection of ExtraEvidence
        What is written beside SEG and SR.
    structure_sets : collection of str
        Bundles that get an RTSTRUCT where `extra` has it.
    """
    evidence: list[Evidence] = []
    refused: list[Refused] = []
    for report in job.reports:
        try:
            evidence += write_evidence(report, job.output_dir, job.recorded_at, extra)
            # After SEG and SR are there: what can't be a structure set is a result all the same.
            if "rtstruct" in extra and report.segmentation.model.name in structure_sets:
                evidence += write_structure_set(report, job.output_dir, job.recorded_at)
        except Refusal as refusal:
            refused.append(Refused(report.segmentation.volume.series_instance_uid, refusal.reason))
    for reading in job.readings:
        try:
            evidence += write_reading(reading, job.output_dir, job.recorded_at)
        except Refusal as refusal:
            refused.append(Refused(reading.volume.series_instance_uid, refusal.reason))
    return replace(job, evidence=(*job.evidence, *evidence), refused=(*job.refused, *refused))
