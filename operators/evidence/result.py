"""`result.json`: what one run found, wrote and left out, for machines.

Nothing of the headers but UIDs. A refused file is named as it is named in the
folder that the user gave.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from operators.job import Report, StudyJob, Volume

RESULT_FILE = "result.json"


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
        `results` (one per segmented volume), `unmatched`, `refused`, `warnings`.
    """
    return {
        "schema": 1,
        "recorded_at": job.recorded_at,
        "studies": [study.study_instance_uid for study in job.studies],
        "results": [_result(report, job) for report in job.reports],
        "unmatched": [asdict(entry) for entry in job.unmatched],
        "refused": [asdict(entry) for entry in job.refused],
        "warnings": [warning for study in job.studies for warning in study.warnings],
    }


def _result(report: Report, job: StudyJob) -> dict[str, Any]:
    volume, model = report.segmentation.volume, report.segmentation.model
    study_uid = str(volume.headers[0].StudyInstanceUID)
    return {
        "bundle": model.name,
        "version": model.version,
        "weights_sha256": model.weights_sha256,
        "runtime": model.runtime,
        "prompt": dict(model.prompt),
        "study_instance_uid": study_uid,
        "series_instance_uid": volume.series_instance_uid,
        "part": volume.part,
        "unit": volume.unit,
        "image": _image(volume),
        "quality": [asdict(flag) for flag in volume.quality],
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
            }
            for finding in report.findings
        ],
        "evidence": [
            {
                "kind": item.kind,
                "path": str(item.path),
                "sop_instance_uid": item.sop_instance_uid,
                "series_instance_uid": item.series_instance_uid,
            }
            for item in job.evidence
            if (item.source_study_uid, item.source_series_uid, item.part)
            == (study_uid, volume.series_instance_uid, volume.part)
            and (item.bundle, item.prompt) == (model.name, model.prompt)
        ],
    }


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
