"""What a peer sends on an association of ours: an answer is for who asked.

Of pynetdicom's two threads that take messages, the one that watches an association may take the
answer that the other waits for: it is paused by a flag that it may have passed already. The
sender then waits until its timeout. Written against pynetdicom 3.0.4, which is pinned.
"""

from __future__ import annotations

from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider


class Answers(DIMSEServiceProvider):
    """Messages of one association; who only looks gets requests, who waits gets any."""

    def get_msg(self, block: bool = False) -> Any:
        """The next message; (None, None) where there is none, or none for who asks."""
        if not block and getattr(self.peek_msg()[1], "MessageIDBeingRespondedTo", None) is not None:
            return None, None
        return super().get_msg(block)


def keep_answers(association: Association) -> None:
    """From now on, before anything is asked."""
    association.dimse = Answers(association)
