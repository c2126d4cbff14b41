"""A SEG and an SR as radloop writes them, in the register of a state folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pydicom

from app.register import Register, Written
from operators.evidence.write import write_evidence
from tests.operators.scene import RECORDED_AT, two_glands


@dataclass(frozen=True)
class Results:
    """What was written, and where it is registered."""

    files: list[Path]
    state_dir: Path

    def uids(self) -> set[str]:
        """Their SOP Instance UIDs."""
        return {
            str(pydicom.dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
            for file in self.files
        }


def write_results(folder: Path) -> Results:
    """Two glands, segmented, measured, written and entered."""
    evidence = write_evidence(two_glands(folder / "in"), folder / "abc-v1", RECORDED_AT)
    entries = [
        Written(
            sop_instance_uid=item.sop_instance_uid,
            sha256=hashlib.sha256(item.path.read_bytes()).hexdigest(),
            kind=item.kind,
            study_instance_uid=item.source_study_uid,
            source_series_uid=item.source_series_uid,
            part=item.part,
            bundle=item.bundle,
            weights_sha256="0" * 64,
            recorded_at=RECORDED_AT,
        )
        for item in evidence
    ]
    Register(folder / "state").enter(entries)
    return Results([item.path for item in evidence], folder / "state")
