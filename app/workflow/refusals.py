"""How a workflow says no.

DestinationUnknown    RL-0670   a task names a destination that is not configured any more
SlotTaken             RL-0671   a living worker has that name
DatabaseUnusable      RL-0672   the workflows' database can't be used
OlderResultGone       RL-0673   what a new result replaces can't be taken back
StepBroke             RL-0674   a step stopped with something that nobody expected
WorkflowEnded         RL-0675   a workflow ended without saying what became of its study
VerdictUnderWay       RL-0676   what a new result replaces is being judged at this moment
ResultsGone           RL-0904   our own files can't be read any more
DeliveryDefect        RL-0905   a destination raised something that it should not
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path

from app.delivery.destination import DeliveryRefusal, DestinationUnreachable
from operators.errors import Refusal


class DestinationUnknown(DeliveryRefusal):
    """A route or an earlier setting named a destination that is not there."""

    code = "RL-0670"

    def __init__(self, key: str, known: Sequence[str]) -> None:
        super().__init__(
            f"no destination '{key}' is configured (there are: {', '.join(known) or 'none'}). "
            "Configure it, and `radloop studies retry` the study."
        )


class OlderResultGone(DeliveryRefusal):
    """The file of a delivered result is gone, so it can't be told from another's object.

    A remark on a study whose new result is there; a refusal where nothing takes its place.
    """

    code = "RL-0673"

    def __init__(self, where: str, sop_instance_uids: Sequence[str]) -> None:
        shown = ", ".join(sop_instance_uids[:4]) + (", …" if len(sop_instance_uids) > 4 else "")
        super().__init__(
            f"of what was superseded, {shown} may still stand in {where}: without its file in the "
            "output folder it can't be told from somebody else's object. Look, and remove it by "
            "hand."
        )


class VerdictUnderWay(DestinationUnreachable):
    """A result that may become a confirmed one must not be taken away under the reader."""

    code = "RL-0676"

    def __init__(self, sop_instance_uid: str) -> None:
        DeliveryRefusal.__init__(
            self,
            f"a verdict on {sop_instance_uid} was begun and not finished, so it is not taken back "
            "yet. It is tried again; the reader's command, given again, finishes it.",
        )


class StepBroke(Refusal):
    """A full disk, a folder without rights, or a defect; its message is not repeated."""

    code = "RL-0674"

    def __init__(self, what: str, error: Exception) -> None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        why = getattr(error, "strerror", None) or type(error).__name__
        super().__init__(
            f"{what} stopped with '{why}' at {Path(frame.filename).name}:{frame.lineno}. Look at "
            "disk and rights of spool and output folder (`radloop doctor`)"
        )


class WorkflowEnded(Refusal):
    """Its database says that it is over, its study does not know it."""

    code = "RL-0675"

    def __init__(self, status: str) -> None:
        super().__init__(
            f"the workflow ended as {status} without a result. Its log says more; "
            "`radloop studies retry` begins it anew."
        )


class SlotTaken(Refusal):
    """Two living workers with one name would do the same work twice."""

    code = "RL-0671"

    def __init__(self, slot: str, spool: Path) -> None:
        super().__init__(
            f"worker slot '{slot}' of spool {spool} is in use by a living process. "
            "Stop that one, or choose another name (--slot)."
        )


class DatabaseUnusable(Refusal):
    """No database, no workflows."""

    code = "RL-0672"

    def __init__(self, url: str, why: str) -> None:
        place = url.rpartition("@")[2]  # without user and password
        super().__init__(
            f"the workflows' database {place} can't be used ({why}). Start it, or correct "
            "database_url (RADLOOP_DATABASE_URL); without it SQLite in state_dir is used."
        )


class ResultsGone(DeliveryRefusal):
    """Our own files can't be read any more."""

    code = "RL-0904"

    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f"results of {name} can't be read from the output folder ({why}). "
            "The study is analysed again."
        )


class DeliveryDefect(DeliveryRefusal):
    """A destination raised something that it should not."""

    code = "RL-0905"

    def __init__(self, where: str, error: Exception) -> None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        super().__init__(
            f"{where}: {type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}. "
            "This is a defect of radloop: report it with this line."
        )
