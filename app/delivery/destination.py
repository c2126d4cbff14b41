"""What a destination is, and how it says no.

DeliveryRefusal                RL-0900
├── DestinationUnreachable     RL-0901   for now: the caller tries again, for as long as it takes
├── DestinationRefused         RL-0902   for good: it answered, and the answer is no
└── ReadBackDiffers            RL-0903   for good: it says yes but holds something else
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


class Destination(Protocol):
    """Somewhere that results go.

    To add one: a class in a module of its own with these three members, a
    setting that configures it, a line in `app.delivery.from_settings`, and a
    test against a real peer in which a false "delivered" is provoked.
    """

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

    def self_test(self) -> str:
        """Ask the destination who it is, changing nothing; one line for people.

        Raises
        ------
        DeliveryRefusal
            As `deliver` would.
        """
