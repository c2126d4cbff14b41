"""Which presentation contexts a peer gets, and with which transfer syntax (PS3.8 9.3.2).

Written against pynetdicom 3.0.4, which is pinned.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydicom import config as pydicom_config
from pydicom.uid import UID
from pynetdicom import pdu_items, presentation, service_class
from pynetdicom.events import Event
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.utils import set_uid

MAX_REMEMBERED_UIDS = 4096
NEVER_OFFERED = "1.2.840.10008.5.1.4.1.2.2.1"  # Study Root Query

# What pydicom and the decoders that we depend on can read. Any other is taken too, where a peer
# proposes nothing else: kept is better than refused.
READABLE_SYNTAXES = frozenset(
    {
        "1.2.840.10008.1.2",  # implicit VR little endian
        "1.2.840.10008.1.2.1",  # explicit VR little endian
        "1.2.840.10008.1.2.1.99",  # deflated
        "1.2.840.10008.1.2.2",  # explicit VR big endian
        "1.2.840.10008.1.2.4.50",  # JPEG baseline
        "1.2.840.10008.1.2.4.51",  # JPEG extended
        "1.2.840.10008.1.2.4.57",  # JPEG lossless
        "1.2.840.10008.1.2.4.70",  # JPEG lossless, first-order prediction
        "1.2.840.10008.1.2.4.80",  # JPEG-LS lossless
        "1.2.840.10008.1.2.4.81",  # JPEG-LS near-lossless
        "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
        "1.2.840.10008.1.2.4.91",  # JPEG 2000
        "1.2.840.10008.1.2.5",  # RLE
    }
)


def choose_contexts(event: Event) -> None:
    """Put what we can read first: of each context pynetdicom takes the first syntax named.

    Among those that can be read the peer's order stands (PS3.8 9.3.2 leaves it to us).
    """
    request: Any = event.assoc.requestor.primitive
    contexts = [
        context
        for context in request.presentation_context_definition_list
        if context.abstract_syntax and context.transfer_syntax  # pynetdicom would stumble
    ]
    for context in contexts:
        if context.transfer_syntax[0] not in READABLE_SYNTAXES:
            context.transfer_syntax = sorted(
                context.transfer_syntax, key=lambda syntax: syntax not in READABLE_SYNTAXES
            )
        if not is_offered(context.abstract_syntax):
            # pynetdicom takes some services for unknown storage classes, this one for none. The
            # answer names the context by its id alone (PS3.8 9.3.3.2).
            context.abstract_syntax = NEVER_OFFERED
    request.presentation_context_definition_list = contexts


@lru_cache(MAX_REMEMBERED_UIDS)
def is_offered(abstract_syntax: str) -> bool:
    """Whether it is verification, storage, or unknown to pynetdicom and so taken for storage."""
    return uid_to_service_class(abstract_syntax) in (
        service_class.VerificationServiceClass,
        service_class.StorageServiceClass,
        service_class.ServiceClass,
    )


def remember_uids() -> None:
    """Make and check each UID once in this process, and not for every context of every peer.

    A peer proposes up to 128 contexts, and pynetdicom makes and checks each of their UIDs up to
    seven times: most of what an association costs. Its own check stays; that of pydicom, which
    only warns, goes.
    """
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    remembered = lru_cache(MAX_REMEMBERED_UIDS)(set_uid)

    def add_transfer_syntax(context: presentation.PresentationContext, syntax: Any) -> None:
        uid: UID | None = remembered(syntax, "transfer_syntax")
        if uid and uid not in context._transfer_syntax:
            context._transfer_syntax.append(uid)

    for module in (pdu_items, presentation):
        module.set_uid = remembered  # type: ignore[attr-defined]
    presentation.PresentationContext.add_transfer_syntax = add_transfer_syntax  # type: ignore
