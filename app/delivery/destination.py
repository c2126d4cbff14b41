"""What a destination is, and how it says no.

DeliveryRefusal                RL-0900
├── DestinationUnreachable     RL-0901   for now: the caller tries again, for as long as it takes
├── DestinationRefused         RL-0902   for good: it answered, and the answer is no
├── ReadBackDiffers            RL-0903   for good: it says yes but holds something else
├── ContentDiffers             RL-0908   for good: the same, found by comparing element by element
├── NotWithdrawn               RL-0906   for good: what stands there is not what we wrote
└── NotOurs                    RL-0907   for good: the register does not know what to reject
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from operators.errors import Refusal


class DeliveryRefusal(Refusal):
    """A result is not where it should be."""

    code = "RL-0900"


class DestinationUnreachable(DeliveryRefusal):
    """No answer, or one that asks to come back later."""

    code = "RL-0901"

    def __init__(self, where: str, why: str) -> None:
        self.where, self.why = where, why
        super().__init__(
            f"{where} can't be reached now ({why}). Nothing is lost; it is tried again. "
            "Check that it runs and that its address is right."
        )


class NotYet(DestinationUnreachable):
    """It answers, but has not said yet that it keeps the results."""

    def __init__(self, where: str, why: str, hint: str) -> None:
        self.where, self.why = where, why
        DeliveryRefusal.__init__(
            self, f"{where}: {why}. Nothing is lost; it is asked again. {hint}"
        )


class DestinationRefused(DeliveryRefusal):
    """The destination will not take a result."""

    code = "RL-0902"

    def __init__(self, where: str, status: str, what: str, hint: str) -> None:
        super().__init__(f"{where} refused {what} with {status}. {hint}")


class ReadBackDiffers(DeliveryRefusal):
    """What the destination holds under the UID is not what was sent."""

    code = "RL-0903"

    def __init__(self, where: str, what: str, sent: int, found: int) -> None:
        super().__init__(
            f"{where} holds other bytes for {what}: {sent} sent, {found} read back. It kept an "
            "older object of the same UID or changed this one: switch OverwriteInstances on, or "
            "remove the old object there."
        )


class ContentDiffers(DeliveryRefusal):
    """What the destination gives back says something else than what was sent."""

    code = "RL-0908"

    def __init__(self, where: str, what: str, tags: Sequence[str]) -> None:
        shown = ", ".join(tags[:8]) + (", …" if len(tags) > 8 else "")
        super().__init__(
            f"{where} holds something else for {what}: {len(tags)} elements differ ({shown}). It "
            "kept an older object of the same UID or changed this one: let it overwrite and not "
            "coerce, or remove the old object there."
        )


class NotWithdrawn(DeliveryRefusal):
    """Under the UID of a result that is to go stands something that we did not write."""

    code = "RL-0906"

    def __init__(self, where: str, what: str) -> None:
        super().__init__(
            f"{where} holds other bytes for {what} than radloop wrote, so it is not removed "
            "there. Look at it, and remove it there by hand if it is the superseded result."
        )


class NotOurs(DeliveryRefusal):
    """A result that is to be rejected is not in the register with these bytes."""

    code = "RL-0907"

    def __init__(self, sop_instance_uid: str) -> None:
        super().__init__(
            f"object {sop_instance_uid} is not in the register with these bytes, so it is not "
            "rejected anywhere: only what radloop wrote is. Restore the state folder (state_dir) "
            "or the output folder from its backup, then try again."
        )


class Destination(Protocol):
    """Somewhere that results go.

    To add one: a class in a module of its own with these members, a setting that
    configures it, a line in `app.delivery.from_settings`, and a test against a real
    peer in which a false "delivered" is provoked.
    """

    @property
    def key(self) -> str:
        """By which rules and the journal name it: short, and the same after every start."""

    @property
    def name(self) -> str:
        """What people read: kind and address, without a password."""

    def deliver(self, files: Sequence[Path]) -> None:
        """Store every file and make sure that it is there.

        Delivering the same files again must be harmless: after a crash they come twice.

        Raises
        ------
        DestinationUnreachable
            Try again later.
        DeliveryRefusal
            For good.
        OSError
            One of our own files can't be read.
        """

    def withdraw(self, files: Sequence[Path], because: str, recorded_at: str) -> None:
        """Take back what `deliver` stored: nobody shall mistake it for the present result.

        Where something can be removed, it is, and only while its bytes are those of the
        file; where not, a rejection (IOCM) is stored beside it. What is gone already, or
        was never there, is no error; withdrawing again must be harmless.

        Parameters
        ----------
        files : sequence of Path
            The very files that were delivered, as they stand in the output folder.
        because : str
            What a person reads as the reason, e.g. "superseded by …"; no PHI.
        recorded_at : str
            ``YYYYMMDDHHMMSS``, the record of what replaces them; the same at every try,
            since a rejection's UID and bytes follow from it.

        Raises
        ------
        DestinationUnreachable
            Try again later.
        DeliveryRefusal
            For good.
        OSError
            One of our own files can't be read.
        """

    def self_test(self) -> str:
        """Ask the destination who it is, changing nothing; one line for people.

        Raises
        ------
        DeliveryRefusal
            As `deliver` would.
        """
