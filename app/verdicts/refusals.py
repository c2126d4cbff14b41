"""Why a verdict is not taken.

VerdictRefusal              RL-1210
├── ReaderUnknown           RL-1211   --as names nobody in the settings
├── ReasonUnfit             RL-1212   --because can't be written into a document
├── ArchiveUnset            RL-1213   orthanc_url is not set
├── ArchiveAway             RL-1214   Orthanc does not answer: the same command again
├── ResultUnknown           RL-1215   not in the register of what we wrote
├── ResultUnfit             RL-1216   ours, but nothing that a verdict is given on
├── ResultAmbiguous         RL-1217   a study with several results
├── ResultAbsent            RL-1218   ours, but Orthanc does not hold it
├── ResultChanged           RL-1219   Orthanc holds other bytes than we wrote
├── RecordBroken            RL-1220   verdicts.jsonl is not as it was written
└── Unfinishable            RL-1221   an interrupted verdict can't be completed
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app.register import Written
from operators.errors import Refusal


class VerdictRefusal(Refusal):
    """The verdict is not taken."""

    code = "RL-1210"


class ReaderUnknown(VerdictRefusal):
    """The reader is not one of the settings' readers."""

    code = "RL-1211"

    def __init__(self, known: Sequence[str]) -> None:
        # What was typed may be a person's name: it is not repeated.
        names = f"has: {', '.join(sorted(known))}" if known else "is empty"
        super().__init__(
            f"--as names no key of the setting `readers`, which {names}. Add the person to the "
            "settings file: `readers: {KEY: {name: Family^Given, organization: Where}}`."
        )


class ReasonUnfit(VerdictRefusal):
    """The text of --because can't be kept."""

    code = "RL-1212"

    def __init__(self, why: str, limit: int) -> None:
        super().__init__(
            f"--because {why}. Say in 1 to {limit} printable characters what is wrong with the "
            "result; write nothing that tells who the patient is."
        )


class ArchiveUnset(VerdictRefusal):
    """There is no Orthanc to find the result in."""

    code = "RL-1213"

    def __init__(self) -> None:
        super().__init__(
            "orthanc_url is not set, so there is no archive to find the result in: set it as for "
            "`radloop serve` (RADLOOP_ORTHANC_URL=http://127.0.0.1:8042)."
        )


class ArchiveAway(VerdictRefusal):
    """Orthanc does not answer now."""

    code = "RL-1214"

    def __init__(self, where: str, why: str) -> None:
        super().__init__(
            f"{where} can't be reached now ({why}). The verdict is not recorded: give the same "
            "command again when it is back. What was begun is then completed, not doubled."
        )


class ResultUnknown(VerdictRefusal):
    """Not an object of ours."""

    code = "RL-1215"

    def __init__(self, uid: str | None, register: Path) -> None:
        # What is no UID may be a patient's name: it is not repeated.
        what = f"{uid} is not in" if uid else "RESULT is no UID, so it is not in"
        super().__init__(
            f"{what} the register {register} of what radloop wrote, neither as an SR nor as a "
            "study with one. A verdict is given on our own results only; is RADLOOP_STATE_DIR "
            "that of `radloop serve`?"
        )


class ResultUnfit(VerdictRefusal):
    """Ours, but not an SR that waits for a verdict."""

    code = "RL-1216"

    def __init__(self, entry: Written) -> None:
        what = "a segmentation" if entry.kind == "SEG" else "an earlier verdict's own document"
        super().__init__(
            f"object {entry.sop_instance_uid} is {what}. Give the verdict on the SR that measures "
            f"it: its SOP Instance UID, or that of its study, {entry.study_instance_uid}."
        )


class ResultAmbiguous(VerdictRefusal):
    """Which of a study's results is meant?"""

    code = "RL-1217"

    def __init__(self, study_uid: str, candidates: Sequence[tuple[Written, str]]) -> None:
        self.candidates = tuple(entry for entry, _ in candidates)
        lines = "".join(
            f"\n  {entry.sop_instance_uid}  {' '.join(filter(None, (entry.bundle, entry.part)))}, "
            f"series {entry.source_series_uid}, {entry.recorded_at}, {state}"
            for entry, state in candidates
        )
        super().__init__(
            f"study {study_uid} has {len(candidates)} results; name one by the SOP Instance UID "
            f"of its SR:{lines}"
        )


class ResultAbsent(VerdictRefusal):
    """Orthanc does not hold what we wrote."""

    code = "RL-1218"

    def __init__(self, uid: str, kind: str, where: str) -> None:
        super().__init__(
            f"{kind} {uid} is not in {where}: it was not delivered yet, or was removed. A verdict "
            "is given on what a reader can see: wait until `radloop serve` says that the study is "
            "delivered, or put the file of the output folder back."
        )


class ResultChanged(VerdictRefusal):
    """Orthanc holds something else under a UID of ours."""

    code = "RL-1219"

    def __init__(self, uid: str, kind: str, where: str, written: str, found: str) -> None:
        super().__init__(
            f"{kind} {uid} in {where} is not what radloop wrote (sha256 {found[:12]}… there, "
            f"{written[:12]}… in the register). Somebody changed or replaced it: find out who, "
            "delete it there, and put the file of the output folder back."
        )


class RecordBroken(VerdictRefusal):
    """The record of verdicts is not as it was written."""

    code = "RL-1220"

    def __init__(self, path: Path, line: int, why: str) -> None:
        super().__init__(
            f"{path} line {line}: {why}. The record was changed after it was written, so no "
            "verdict in it is used: put the file back from its backup. Nothing is repaired by "
            "guessing."
        )


class Unfinishable(VerdictRefusal):
    """An earlier, interrupted verdict on this result can't be completed any more."""

    code = "RL-1221"

    def __init__(self, uid: str, reader: str, why: str, path: Path) -> None:
        super().__init__(
            f"a verdict of reader {reader} on SR {uid} was begun and interrupted, and it can't be "
            f"completed since {why}. Undo that change and give the command again, or delete {path} "
            "to drop that verdict: look then in the archive for a verified SR of it."
        )
