"""Which presentation contexts a peer gets, and with which transfer syntax (PS3.8 9.3.2).

Written against pynetdicom 3.0.4, which is pinned.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

from pydicom import config as pydicom_config
from pydicom.uid import UID
from pynetdicom import pdu, pdu_items, presentation, service_class
from pynetdicom.events import Event
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.utils import set_uid

MAX_REMEMBERED = 4096  # of each kind
MAX_REMEMBERED_BYTES = 512  # of an item; one for all of our syntaxes has fewer
PROPOSED_CONTEXT = 0x20  # PS3.8 9.3.2.2
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


@lru_cache(MAX_REMEMBERED)
def is_offered(abstract_syntax: str) -> bool:
    """Whether it is verification, storage, or unknown to pynetdicom and so taken for storage."""
    return uid_to_service_class(abstract_syntax) in (
        service_class.VerificationServiceClass,
        service_class.StorageServiceClass,
        service_class.ServiceClass,
    )


def remember_items() -> None:
    """Read, check and write each UID and presentation context once in this process.

    A peer proposes up to 128 contexts, most senders the same ones each time, and many open an
    association for each image. pynetdicom makes and checks each UID up to seven times: most of
    what an association costs. Its own check stays; that of pydicom, which only warns, goes.
    """
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    remembered = lru_cache(MAX_REMEMBERED)(set_uid)

    def add_transfer_syntax(context: presentation.PresentationContext, syntax: Any) -> None:
        uid: UID | None = remembered(syntax, "transfer_syntax")
        if uid and uid not in context._transfer_syntax:
            context._transfer_syntax.append(uid)

    for module in (pdu_items, presentation):
        module.set_uid = remembered  # type: ignore[attr-defined]
    presentation.PresentationContext.add_transfer_syntax = add_transfer_syntax  # type: ignore
    pdu.A_ASSOCIATE_RQ._wrap_generate_items = _read_items  # type: ignore[method-assign,assignment]
    pdu_items.PresentationContextItemAC.encode = _write_context  # type: ignore


def _read_items(rq: pdu.A_ASSOCIATE_RQ, encoded: bytes) -> list[pdu_items.PDUItem]:
    return [
        _proposed(item)
        if kind == PROPOSED_CONTEXT and len(item) <= MAX_REMEMBERED_BYTES
        else _item(kind, item)
        for kind, item in rq._generate_items(encoded)
    ]


@lru_cache(MAX_REMEMBERED)
def _proposed(encoded: bytes) -> pdu_items.PDUItem:
    """One that many associations share: it is only read."""
    return _item(PROPOSED_CONTEXT, encoded)


def _item(kind: int, encoded: bytes) -> pdu_items.PDUItem:
    item: pdu_items.PDUItem = pdu.PDU_ITEM_TYPES[kind]()
    item.decode(encoded)
    return item


def _write_context(item: pdu_items.PresentationContextItemAC) -> bytes:
    return _answered(
        item.presentation_context_id, item.result_reason, str(item.transfer_syntax or "")
    )


@lru_cache(MAX_REMEMBERED)
def _answered(context_id: int, result: int, transfer_syntax: str) -> bytes:
    """A presentation context item of an A-ASSOCIATE-AC (PS3.8 9.3.3.2)."""
    syntax = transfer_syntax.encode("ascii")
    named = struct.pack(">BxH", 0x40, len(syntax)) + syntax
    return struct.pack(">BxHBxBx", 0x21, 4 + len(named), context_id, result) + named
