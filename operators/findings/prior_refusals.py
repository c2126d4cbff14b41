"""Why an earlier result is not compared with the present one.

PriorRefusal           RL-2170   an earlier result that is not compared
├── NoPatientID        RL-2171   the present images name no patient
├── OtherPatient       RL-2172   another patient's
├── DateMissing        RL-2173   one of the two study dates is missing
├── NotEarlier         RL-2174   of the same day, or later
├── PriorRejected      RL-2175   a reader rejected it, or a rejection note
├── PriorUnusable      RL-2176   its file can't be read, or is no mask
└── PriorTooLarge      RL-2177   more than is read
"""

from __future__ import annotations

from operators.errors import Refusal


class PriorRefusal(Refusal):
    """An earlier result that this one is not compared with."""

    code = "RL-2170"


class NoPatientID(PriorRefusal):
    """Whose earlier result it would be can't be told."""

    code = "RL-2171"

    def __init__(self, study_uid: str) -> None:
        super().__init__(
            f"study {study_uid} has no PatientID, so no earlier result can be told to be of the "
            "same patient. Have the identity put into the images, then send them again."
        )


class OtherPatient(PriorRefusal):
    """Another (IssuerOfPatientID, PatientID)."""

    code = "RL-2172"

    def __init__(self, seg_uid: str, differs: str) -> None:
        super().__init__(
            f"SEG {seg_uid} is of another patient: its {differs} differs. Where it is one patient, "
            "have the identity put right in one of the two studies."
        )


class DateMissing(PriorRefusal):
    """Which of the two is earlier can't be told."""

    code = "RL-2173"

    def __init__(self, which: str) -> None:
        super().__init__(
            f"{which} has no StudyDate, so which of the two is earlier can't be told. Have the "
            "date put into it."
        )


class NotEarlier(PriorRefusal):
    """Not from before the present study's day."""

    code = "RL-2174"

    def __init__(self, seg_uid: str, prior: str, present: str) -> None:
        super().__init__(
            f"SEG {seg_uid} is of a study of {prior}, the images are of {present}: only what is at "
            "least a day earlier is compared. Analyse the later study to compare the two."
        )


class PriorRejected(PriorRefusal):
    """A reader said that it is wrong, or a rejection note took it back."""

    code = "RL-2175"

    def __init__(self, seg_uid: str) -> None:
        super().__init__(
            f"SEG {seg_uid} was rejected, so nothing is compared with it. Confirm a "
            "corrected result of that study first."
        )


class PriorUnusable(PriorRefusal):
    """The file gives no masks."""

    code = "RL-2176"

    def __init__(self, what: str, why: str) -> None:
        super().__init__(
            f"{what}: {why}, so nothing is compared with it. Give a binary SEG whose frames lie on "
            "one grid."
        )


class PriorTooLarge(PriorRefusal):
    """More than is read of an earlier result."""

    code = "RL-2177"

    def __init__(self, what: str, found: int, limit: int, unit: str) -> None:
        super().__init__(
            f"{what} has {found} {unit}, more than the {limit} that are read, so nothing is "
            "compared with it."
        )
