"""Status SRs: written when an analysis begins or ends without a result, gone when one is there.

Only where a route asks for it. Each is an object of ours like a result: in the register
before it goes anywhere, in a folder of its own beside the results, and withdrawn by the
next status or by the result. Best effort: what goes wrong here never stops a study.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from app.delivery.destination import Destination, DestinationUnreachable
from app.intake.ledger import study_key
from app.intake.spool import Spool, sync_folder
from app.register import RESULT_FILE, Register, Written, describe, objects_in
from app.settings import Settings
from app.workflow.board import Board
from app.workflow.manifest import read_manifest
from operators.errors import Refusal

if TYPE_CHECKING:
    from app.workflow.study import Carried, Task
    from operators.evidence.status import StatusKind

FILE = "status.dcm"
BUNDLE = "status"  # in the register, where a result has the name of its bundle
BECAUSE = "superseded"
ENDS = ("failed", "not applicable")

log = logging.getLogger("radloop.workflow")


class StatusSteps:
    """The steps, with what they need of this process.

    Parameters
    ----------
    settings, destinations, register, board
        As for `StudySteps`; destinations by their keys.
    """

    def __init__(
        self,
        settings: Settings,
        destinations: Mapping[str, Destination],
        register: Register,
        board: Board,
    ) -> None:
        self._output, self._destinations = settings.output_dir, destinations
        self._register, self._board = register, board
        self._spool = Spool(settings.spool, settings.min_free_bytes)

    def write(self, task: Task, status: StatusKind, reason: str) -> str:
        """Write a status of a study version; the name of its folder, empty where it can't be."""
        # Here, since it loads highdicom: most processes never write one.
        from pydicom import dcmread

        from operators.evidence.status import build_status

        folder = self._output / _folder_name(task, status)
        try:
            (first, *_) = read_manifest(self._spool, task.name)
            header = dcmread(self._spool.path(first), stop_before_pixels=True)
            document = build_status(header, status, reason, task.recorded_at, task.generation)
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / f"{FILE}.{os.getpid()}"
            document.save_as(unfinished, enforce_file_format=True)
            _sync(unfinished)
            unfinished.replace(folder / FILE)
            _describe(folder, task, document.SOPInstanceUID, document.SeriesInstanceUID)
            sync_folder(folder)
            self._register.enter(describe(folder, [FILE]))
        except Exception as error:  # noqa: BLE001  (a header may break anything; the study goes on)
            log.error(
                "event=status_not_written study=%s why=%s", task.study_uid, type(error).__name__
            )
            return ""
        return folder.name

    def carry(self, task: Task, key: str, folder_name: str) -> Carried:
        """Deliver a status to one destination, and take older ones back.

        Once there is a result, or a later status, nothing is delivered; what was stored
        while it came to be is taken back. A result is in the register before it is
        delivered, so that of the two at least one sees the other.
        """
        from app.workflow.study import Carried

        destination = self._destinations.get(key)
        if destination is None:
            return Carried("refused", f"no destination '{key}'")
        try:
            ((path, mine),) = objects_in(self._output / folder_name)
            if not self._is_stale(task, folder_name):
                destination.deliver([path])
            if self._is_stale(task, folder_name):
                destination.withdraw([path], BECAUSE, task.recorded_at)
                return Carried("superseded")
            older = self._older(task, mine)
            if older:
                destination.withdraw(older, BECAUSE, task.recorded_at)
        except DestinationUnreachable as refusal:
            return Carried("later", refusal.reason)
        except Refusal as refusal:
            return Carried("refused", refusal.reason)
        except Exception as error:  # noqa: BLE001  (as in `StudySteps.carry`)
            return Carried("gone", type(error).__name__)
        return Carried("delivered", destination.name)

    def _is_stale(self, task: Task, folder_name: str) -> bool:
        if not self._board.is_current(task.study, task.generation):
            return True
        results = objects_in(self._output / task.name)
        if any(self._register.find(entry.sop_instance_uid) for _, entry in results):
            return True
        ends = {_folder_name(task, status) for status in ENDS}
        return folder_name not in ends and any(
            (self._output / name / RESULT_FILE).exists() for name in ends
        )

    def _older(self, task: Task, mine: Written) -> list[Path]:
        """Every other status of the study whose file is still there."""
        known = {
            (entry.sop_instance_uid, entry.sha256)
            for entry in self._register.in_study(task.study_uid, "STATUS")
            if entry.sop_instance_uid != mine.sop_instance_uid
        }
        return [
            path
            for folder in sorted(self._output.glob(f"{study_key(task.study_uid)}-v*"))
            if (folder / FILE).exists()
            for path, entry in objects_in(folder)
            if (entry.sop_instance_uid, entry.sha256) in known
        ]


def _folder_name(task: Task, status: str) -> str:
    return f"{task.name}-{status.replace(' ', '-')}"


def _describe(folder: Path, task: Task, uid: str, series_uid: str) -> None:
    """`result.json`, as far as the register reads it."""
    evidence = {
        "kind": "STATUS",
        "path": FILE,
        "sop_instance_uid": str(uid),
        "series_instance_uid": str(series_uid),
    }
    about = {
        "bundle": BUNDLE,
        "weights_sha256": "",
        "study_instance_uid": task.study_uid,
        "series_instance_uid": "",
        "part": "",
        "evidence": [evidence],
    }
    content = {"schema": 1, "recorded_at": task.recorded_at, "results": [about]}
    unfinished = folder / f"{RESULT_FILE}.{os.getpid()}"
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    _sync(unfinished)
    unfinished.replace(folder / RESULT_FILE)


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
