"""Why learning stops: every refusal of this room.

TrainingRefusal                  RL-1300
├── StateDamaged                 RL-1304   a file of the state folder
├── AtWork                       RL-1305   another command holds the lock
├── NothingConfirmed             RL-1310   collect
├── ArchiveUnreachable           RL-1311
├── CaseRefusal                  RL-1312   one case; the others go on
│   ├── SourceGone               RL-1313
│   ├── SegChanged               RL-1314
│   ├── SourceChanged            RL-1315
│   ├── SegUnfit                 RL-1316
│   ├── NoIdentity               RL-1317
│   ├── NothingLabelled          RL-1318
│   └── SourceRejected           RL-1319
├── NothingCollected             RL-1320   data set
├── DatasetChanged               RL-1321
├── NotTrainable                 RL-1330   run
├── NoTrainingCases              RL-1331
├── RunFailed                    RL-1332
├── RegistryMissing              RL-1340   registry
├── VersionUnknown               RL-1341
├── NoChallenger                 RL-1342   gate
├── NotGated                     RL-1350   promote, rollback
├── GateSaysNo                   RL-1351
├── GateChanged                  RL-1352
└── NothingBefore                RL-1353
"""

from __future__ import annotations

from pathlib import Path

from operators.errors import Refusal


class TrainingRefusal(Refusal):
    """A step of learning stops."""

    code = "RL-1300"


class StateDamaged(TrainingRefusal):
    """A file that must outlive everything is not what was written."""

    code = "RL-1304"

    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(f"{file} {problem}. Restore state_dir from its backup.")


class AtWork(TrainingRefusal):
    """The same command is at work in another process."""

    code = "RL-1305"

    def __init__(self, what: str, lock: Path) -> None:
        super().__init__(f"another {what} is at work ({lock} is locked). Wait for it, or stop it.")


class NothingConfirmed(TrainingRefusal):
    """There is nothing to learn from."""

    code = "RL-1310"

    def __init__(self, bundle: str, confirmed: int, reasons: list[str]) -> None:
        self.reasons = reasons
        found = (
            f"none of {confirmed} confirmed results of bundle '{bundle}' can be used: "
            + "; ".join(reasons[:3])
            if confirmed
            else f"no result of bundle '{bundle}' is confirmed"
        )
        super().__init__(f"{found}. `radloop confirm RESULT --as READER` makes a result a label.")


class ArchiveUnreachable(TrainingRefusal):
    """The archive of the sources does not answer as it should."""

    code = "RL-1311"

    def __init__(self, where: str, why: str) -> None:
        super().__init__(
            f"{where}: {why}. Check orthanc_url, orthanc_user and orthanc_password, and that "
            "Orthanc runs; then collect again."
        )


class CaseRefusal(TrainingRefusal):
    """One confirmed result can't become a case; it is left out."""

    code = "RL-1312"


class SourceGone(CaseRefusal):
    """An object that a verdict names is not in the archive, or not once."""

    code = "RL-1313"

    def __init__(self, what: str, uid: str, found: int) -> None:
        super().__init__(
            f"{what} {uid} stands {found} times in the archive (needed: once). "
            "Send it again, or remove what does not belong there."
        )


class SegChanged(CaseRefusal):
    """The SEG is not the one that was confirmed."""

    code = "RL-1314"

    def __init__(self, uid: str, found: str, confirmed: str) -> None:
        super().__init__(
            f"SEG {uid} has sha256 {found[:12]}…, the verdict confirmed {confirmed[:12]}…. "
            "It was changed since: confirm the result again."
        )


class SourceChanged(CaseRefusal):
    """The series has other slices than when the SEG was made."""

    code = "RL-1315"

    def __init__(self, series_uid: str, found: int, looked_at: int, common: int) -> None:
        super().__init__(
            f"series {series_uid} gives {found} slices, its SEG was made from {looked_at}, "
            f"{common} of them the same. What was never looked at is no background: "
            "confirm the result of the newer study version."
        )


class SegUnfit(CaseRefusal):
    """The SEG's content does not fit the bundle or the series."""

    code = "RL-1316"

    def __init__(self, uid: str, problem: str) -> None:
        super().__init__(f"SEG {uid}: {problem}. Labels are not guessed.")


class NoIdentity(CaseRefusal):
    """Nobody can say which patient it is."""

    code = "RL-1317"

    def __init__(self, study_uid: str) -> None:
        super().__init__(
            f"study {study_uid} has no PatientID: it might stand in training and hold-out at once. "
            "Correct it in the archive."
        )


class NothingLabelled(CaseRefusal):
    """A confirmed result without any structure."""

    code = "RL-1318"

    def __init__(self, sr_uid: str) -> None:
        super().__init__(
            f"result {sr_uid} has no SEG: nothing was found in it, and what was not found counts "
            "as unlabelled, not as absent."
        )


class SourceRejected(CaseRefusal):
    """The department that sent the images has taken some of them back."""

    code = "RL-1319"

    def __init__(self, series_uid: str, count: int) -> None:
        super().__init__(
            f"series {series_uid}: {count} of its instances were rejected by their source since "
            "the result was confirmed. It is no label any more."
        )


class NothingCollected(TrainingRefusal):
    """There is no data set."""

    code = "RL-1320"

    def __init__(self, bundle: str) -> None:
        super().__init__(
            f"no data set of bundle '{bundle}' was collected: "
            f"`radloop train collect --bundle {bundle}`."
        )


class DatasetChanged(TrainingRefusal):
    """A file of a data set is not the one that the manifest describes."""

    code = "RL-1321"

    def __init__(self, file: Path) -> None:
        super().__init__(
            f"{file} is missing or was changed since it was collected. Remove its data set's "
            "folder and `radloop train collect` again."
        )


class NotTrainable(TrainingRefusal):
    """The bundle has no train config that we can drive."""

    code = "RL-1330"

    def __init__(self, bundle: str, problem: str) -> None:
        super().__init__(
            f"bundle '{bundle}' can't be trained: {problem}. "
            "docs/learning.md says what a train config needs."
        )


class NoTrainingCases(TrainingRefusal):
    """All cases are held out."""

    code = "RL-1331"

    def __init__(self, manifest: str, cases: int) -> None:
        super().__init__(
            f"data set {manifest[:12]}… has {cases} cases and none to train on: its patients are "
            "held out. Confirm results of more patients."
        )


class RunFailed(TrainingRefusal):
    """The training process ended without weights."""

    code = "RL-1332"

    def __init__(self, how: str, log: Path, last: str) -> None:
        super().__init__(
            f"training ended with {how} ({last}). {log} says more; the same command goes on from "
            "the last checkpoint."
        )


class RegistryMissing(TrainingRefusal):
    """MLflow is not installed."""

    code = "RL-1340"

    def __init__(self) -> None:
        super().__init__(
            "the model registry needs the extra 'train': `pip install 'radloop[train]'`."
        )


class VersionUnknown(TrainingRefusal):
    """No such version in the registry."""

    code = "RL-1341"

    def __init__(self, bundle: str, version: int, known: list[int]) -> None:
        listed = ", ".join(map(str, known)) or "none"
        super().__init__(f"bundle '{bundle}' has no version {version}; there are: {listed}.")


class NoChallenger(TrainingRefusal):
    """Nothing stands against the champion."""

    code = "RL-1342"

    def __init__(self, bundle: str, problem: str) -> None:
        super().__init__(
            f"bundle '{bundle}': {problem}. `radloop train run --bundle {bundle}` makes a "
            "challenger, `radloop train status` lists the versions."
        )


class NotGated(TrainingRefusal):
    """The gate has not compared this challenger with this champion."""

    code = "RL-1350"

    def __init__(self, bundle: str, challenger: int, champion: int) -> None:
        super().__init__(
            f"version {challenger} was not compared with the champion, version {champion}: "
            f"`radloop train gate --bundle {bundle} --version {challenger}`."
        )


class GateSaysNo(TrainingRefusal):
    """The gate's decision forbids it."""

    code = "RL-1351"

    def __init__(self, decision: str, reasons: list[str]) -> None:
        undecided = decision == "undecided"
        way = (
            "Collect more hold-out patients, or take it upon yourself: "
            "`radloop train promote --override REASON --as READER`."
            if undecided
            else "This can't be overridden."
        )
        super().__init__(f"the gate says {decision}: {'; '.join(reasons)}. {way}")


class GateChanged(TrainingRefusal):
    """The gate's report is not what the gate wrote."""

    code = "RL-1352"

    def __init__(self, file: Path) -> None:
        super().__init__(
            f"{file} is missing, or not what the gate wrote: run `radloop train gate` again."
        )


class NothingBefore(TrainingRefusal):
    """The shipped weights serve already."""

    code = "RL-1353"

    def __init__(self, bundle: str, version: int) -> None:
        super().__init__(
            f"bundle '{bundle}': there is nothing before version {version}, the weights that it "
            "came with."
        )
