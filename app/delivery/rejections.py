"""Rejections of our own results, for destinations that delete nothing.

Each is in the register before it goes anywhere, so that nothing of ours is ever
unknown; what the register does not know is not ours to reject.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread

from app.delivery.destination import NotOurs
from app.register import Register, Written

FOLDER = "rejections"


class Rejections:
    """Writes them.

    Parameters
    ----------
    state_dir : Path
        Of the register; the documents are kept in a folder beside it.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def write(self, files: Sequence[Path], because: str, recorded_at: str) -> list[Path]:
        """One document for each study, written and in the register.

        Parameters
        ----------
        files : sequence of Path
            Results of ours.
        because, recorded_at : str
            As for `operators.evidence.rejection.build_rejection`; equal arguments give
            the same files again.

        Returns
        -------
        list of Path
            In the order of the studies' UIDs; empty where there are no files.

        Raises
        ------
        NotOurs
            The register does not know a file, or knows other bytes.
        RegisterRefusal
            The register can't be used.
        OSError
            A file can't be read or written.
        """
        # Here, since it loads highdicom: most processes that deliver never reject anything.
        from operators.evidence.rejection import build_rejection

        register = Register(self._state_dir)
        by_study: dict[str, list[tuple[Path, Written]]] = {}
        for file in files:
            entry = _entry(register, file)
            by_study.setdefault(entry.study_instance_uid, []).append((file, entry))
        written = []
        for study_uid in sorted(by_study):
            rejected = by_study[study_uid]
            headers = [dcmread(file, stop_before_pixels=True) for file, _ in rejected]
            document = build_rejection(headers, because, recorded_at)
            uid = str(document.SOPInstanceUID)
            path = self._state_dir / FOLDER / f"{hashlib.sha256(uid.encode()).hexdigest()}.dcm"
            path.parent.mkdir(exist_ok=True)
            unfinished = path.with_suffix(f".{os.getpid()}")
            document.save_as(unfinished, enforce_file_format=True)
            register.enter([_described(uid, unfinished, rejected[0][1], recorded_at)])
            unfinished.replace(path)
            written.append(path)
        return written


def _entry(register: Register, file: Path) -> Written:
    uid = str(dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
    entry = register.find(uid)
    if entry is None or entry.sha256 != _sha256(file):
        raise NotOurs(uid)
    return entry


def _described(uid: str, file: Path, about: Written, recorded_at: str) -> Written:
    """What the register keeps of a rejection: that of the first result that it rejects."""
    return Written(
        sop_instance_uid=uid,
        sha256=_sha256(file),
        kind="KOS",
        study_instance_uid=about.study_instance_uid,
        source_series_uid=about.source_series_uid,
        part=about.part,
        bundle=about.bundle,
        weights_sha256=about.weights_sha256,
        recorded_at=recorded_at,
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
