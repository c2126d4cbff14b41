"""`result.json`: what one run found, wrote and left out, for machines.

Nothing of the headers but UIDs. A refused file is named as it is named in the
folder that the user gave. Its form is published in `result.schema.json`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from operators.compared import Comparison
from operators.evidence.comparison_text import quality_flags
from operators.findings.class_severity import class_severity
from operators.job import Report, Segmentation, StudyJob, Volume
from operators.reading import Reading

RESULT_FILE = "result.json"
SCHEMA_FILE = Path(__file__).with_name("result.schema.json")
SCHEMA = 1  # raised where a key goes or means something else


def write_result(job: StudyJob) -> dict[str, Any]:
    """Write `result.json` into the job's output folder; returns what it holds."""
    result = summarise(job)
    (job.output_dir / RESULT_FILE).write_text(json.dumps(result, indent=1) + "\n")
    return result


def summarise(job: StudyJob) -> dict[str, Any]:
    """A finished job as plain JSON values.

    Parameters
    ----------
    job : StudyJob
        As the last operator left it.

    Returns
    -------
    dict
        `results` (one per segmented volume), `readings` (one per volume that a classifier
        or detector saw), `unmatched`, `refused`, `warnings`.
    """
    return {
        "schema": SCHEMA,
        "recorded_at": job.recorded_at,
        "studies": [study.study_instance_uid for study in job.studies],
        "results": [_result(report, job) for report in job.reports],
        "readings": [_reading(reading, job) for reading in job.readings],
        "unmatched": [asdict(entry) for entry in job.unmatched],
        "refused": [asdict(entry) for entry in job.refused],
        "warnings": [warning for study in job.studies for warning in study.warnings],
    }


def _result(report: Report, job: StudyJob) -> dict[str, Any]:
    return {
        **_source(report.segmentation),
        "quality": [asdict(flag) for flag in quality_flags(report)],
        "comparison": None if report.comparison is None else _comparison(report.comparison),
        "findings": [
            {
                "number": finding.segment.number,
                "name": finding.segment.name,
                "label": finding.segment.label,
                "voxels": finding.voxels,
                "volume_ml": finding.volume_ml,
                "area_mm2": finding.area_mm2,
                "mean": finding.mean,
                "severity": finding.severity,
                "measurements": [asdict(measured) for measured in finding.measurements],
                "rules": [
                    {**asdict(result), "proposed": result.proposed} for result in finding.rules
                ],
            }
            for finding in report.findings
        ],
        "evidence": _evidence(report.segmentation, job),
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    """An earlier result, each structure then and now, and what was not compared."""
    said = asdict(comparison)
    del said["flags"]  # they stand in `quality`
    if comparison.prior is not None:
        said["prior"]["reports"] = [uid for _, _, uid in comparison.prior.reports]
    return said


def _image(volume: Volume) -> dict[str, Any] | None:
    """Which picture a planar result is about, and for what its areas hold; None for stacks."""
    if volume.plane is None:
        return None
    return {
        "sop_instance_uid": volume.source_sop_uids[0],
        "image_type": volume.plane.image_type,
        "frame": volume.plane.frame,
        "lengths_hold": volume.plane.scale_holds or None,
    }


def _reading(reading: Reading, job: StudyJob) -> dict[str, Any]:
    """Scores are the network's own: `confidence` is null but for the operating point's class."""
    return {
        **_source(reading),
        "classes": [
            {
                "sop_instance_uid": None if image is None else image.sop_instance_uid,
                "instance_number": None if image is None else image.instance_number,
                "label": None if said is None else reading.classes[said].label,
                "name": None if said is None else reading.classes[said].name,
                "scores": {
                    kind.name: score
                    for kind, score in zip(reading.classes, scores.scores, strict=True)
                },
                "confidence": None
                if said is None
                else _confidence(reading, said, scores.scores[said]),
                "severity": class_severity(reading, scores),
            }
            for scores in reading.scores
            for said, image in [(reading.said_class(scores), reading.source_image(scores))]
        ],
        "boxes": [
            {
                "label": reading.classes[box.class_index].label,
                "name": reading.classes[box.class_index].name,
                "score": box.score,
                "confidence": _confidence(reading, box.class_index, box.score),
                "centre_lps_mm": list(box.centre_lps_mm),
                "edges_lps_mm": [list(edge) for edge in box.edges_lps_mm],
                "severity": "NOT_ASSESSED",
            }
            for box in reading.boxes
        ],
        "detector": reading.detector,
        "evidence": _evidence(reading, job),
    }


def _confidence(reading: Reading, class_index: int, score: float) -> float | None:
    return score if class_index == reading.point_class else None


def _source(about: Segmentation | Reading) -> dict[str, Any]:
    """Which model saw which volume."""
    volume, model = about.volume, about.model
    return {
        "bundle": model.name,
        "version": model.version,
        "weights_sha256": model.weights_sha256,
        "runtime": model.runtime,
        "prompt": dict(model.prompt),
        "study_instance_uid": str(volume.headers[0].StudyInstanceUID),
        "series_instance_uid": volume.series_instance_uid,
        "part": volume.part,
        "unit": volume.unit,
        "image": _image(volume),
        "quality": [asdict(flag) for flag in volume.quality],
    }


def _evidence(about: Segmentation | Reading, job: StudyJob) -> list[dict[str, str]]:
    """What was written about it."""
    volume = about.volume
    study_uid = str(volume.headers[0].StudyInstanceUID)
    return [
        {
            "kind": item.kind,
            "path": str(item.path),
            "sop_instance_uid": item.sop_instance_uid,
            "series_instance_uid": item.series_instance_uid,
        }
        for item in job.evidence
        if (item.source_study_uid, item.source_series_uid, item.part)
        == (study_uid, volume.series_instance_uid, volume.part)
        and (item.bundle, item.prompt) == (about.model.name, about.model.prompt)
    ]
